package workbench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
)

// errFormat means that a file cannot be formatted; the file is unchanged.
var errFormat = errors.New("cannot be formatted")

// format formats a rule or test file: it puts the keys of a rule in the usual order, with the comments above them,
// removes trailing blanks and repeated empty lines, and ends the file with one newline. It checks that the meaning is
// unchanged, and keeps comments. The file must be valid YAML.
func format(text []byte) ([]byte, error) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n")) // also a line break in YAML (1.2, section 5.4)
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	before, root, err := meaning(text)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	out := []byte(strings.Join(tidy(orderRules(lines, root)), "\n") + "\n")
	if len(bytes.TrimSpace(out)) == 0 {
		out = nil
	}
	after, _, err := meaning(out)
	if err != nil || !reflect.DeepEqual(before, after) {
		return nil, fmt.Errorf("%w: its meaning would change: %w", errFormat, err)
	}
	return out, nil
}

// meaning returns the contents of a file without comments and order.
func meaning(text []byte) (v any, root ast.Node, err error) {
	var diags doc.Diagnostics
	d := doc.New("", text, func(f doc.Diagnostic) { diags = append(diags, f) }, "a rule or test file", "lists", "zones", "tables", "macros", "schema", "rules", "tests")
	if root = d.Parse(); root != nil {
		v, _ = d.Any(root, "the file", 0)
	}
	if len(diags) > 0 {
		return nil, nil, fmt.Errorf("%w: line %d: %s", errFormat, diags[0].Line, diags[0].Message)
	}
	return v, root, nil
}

// tidy trims lines and drops repeated empty ones. Inside a "|" block this can change the text; Format's check then
// refuses.
func tidy(lines []string) []string {
	var out []string
	for _, l := range lines {
		l = strings.TrimRight(l, " \t")
		if l == "" && (len(out) == 0 || out[len(out)-1] == "") {
			continue
		}
		out = append(out, l)
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

// orderRules puts the keys of each rule in block style in the usual order.
func orderRules(lines []string, root ast.Node) []string {
	m, ok := root.(*ast.MappingNode)
	if !ok {
		return lines
	}
	ends := map[int]int{} // line of a top-level key to the line of the next
	for i, p := range m.Values {
		end := len(lines) + 1
		if i+1 < len(m.Values) {
			end, _ = doc.Place(m.Values[i+1].Key)
		}
		line, _ := doc.Place(p.Key)
		ends[line] = end
	}
	for _, p := range m.Values {
		seq, ok := p.Value.(*ast.SequenceNode)
		if !ok || p.Key.String() != "rules" || seq.IsFlowStyle {
			continue
		}
		line, _ := doc.Place(p.Key)
		for i, n := range seq.Values {
			end := ends[line]
			if i+1 < len(seq.Values) {
				end, _ = doc.Place(seq.Values[i+1])
			}
			orderRule(lines, n, above(lines, end))
		}
	}
	return lines
}

// above returns the first of the comments and empty lines directly above a line.
func above(lines []string, line int) int {
	for line > 1 {
		if l := strings.TrimSpace(lines[line-2]); l != "" && !strings.HasPrefix(l, "#") {
			break
		}
		line--
	}
	return line
}

// orderRule sorts the lines of one rule in place. The rule ends before line end.
func orderRule(lines []string, n ast.Node, end int) {
	m, ok := n.(*ast.MappingNode)
	if !ok || m.GetToken().Type == token.MappingStartType || len(m.Values) < 2 {
		return
	}
	type part struct {
		rank  int
		lines []string
		key   int // index in lines
	}
	first, col := doc.Place(m.Values[0].Key)
	var parts []part
	for i, p := range m.Values {
		line, c := doc.Place(p.Key)
		from, to := line, end
		if i > 0 {
			from = above(lines, line)
		}
		if i+1 < len(m.Values) {
			next, _ := doc.Place(m.Values[i+1].Key)
			to = above(lines, next)
		}
		rank := slices.Index(lang.RuleKeys(), p.Key.String())
		if c != col || from >= to || rank < 0 {
			return
		}
		parts = append(parts, part{rank, slices.Clone(lines[from-1 : to-1]), line - from})
	}
	dash := strings.Index(lines[first-1], "-")
	if dash < 0 || slices.IsSortedFunc(parts, func(a, b part) int { return a.rank - b.rank }) {
		return
	}
	indent := lines[first-1][:dash] + "-" + lines[first-1][dash+1:col-1]
	blank := strings.Repeat(" ", col-1)
	parts[0].lines[parts[0].key] = blank + strings.TrimPrefix(parts[0].lines[parts[0].key], indent)
	slices.SortStableFunc(parts, func(a, b part) int { return a.rank - b.rank })
	head := &parts[0].lines[parts[0].key]
	*head = indent + strings.TrimPrefix(*head, blank)
	at := first - 1
	for _, p := range parts {
		at += copy(lines[at:], p.lines)
	}
}

// FormatPaths formats the rule and test files below the paths and writes the names of those that change. With check it
// changes none, and ok is false if one would change. The error names files that cannot be formatted; the others are
// formatted anyway.
func FormatPaths(w io.Writer, paths []string, check bool, o ToolOptions) (ok bool, err error) {
	ws, err := openPaths(paths)
	if err != nil {
		return false, err
	}
	files := maps.Clone(ws.rules)
	maps.Copy(files, ws.tests)
	changed, ok := []string{}, true
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if lang.IsData(name) {
			continue
		}
		out, err := format(files[name])
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("rules: %s: %w", name, err))
			continue
		case bytes.Equal(out, files[name]):
			continue
		case !check:
			err = replaceFile(name, out)
		default:
			ok = false
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		changed = append(changed, name)
	}
	if o.JSON {
		errs = append(errs, writeJSON(w, map[string]any{"ok": ok && len(errs) == 0, "changed": changed}))
	} else {
		for _, name := range changed {
			_, werr := fmt.Fprintln(w, name)
			errs = append(errs, werr)
		}
	}
	err = errors.Join(errs...)
	return ok && err == nil, err
}

// replaceFile replaces a file atomically.
func replaceFile(name string, text []byte) error {
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".fmt-*")
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("rules: %s: %w", name, err), os.Remove(tmp.Name()))
	}
	return nil
}
