package workbench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
)

// errNoTests means that the paths have no tests.
var errNoTests = errors.New("no tests found: they are in files that end with _test.yaml")

// ToolOptions are the common options of the command-line tools.
type ToolOptions struct {
	lang.Options
	// JSON selects one JSON document instead of text.
	JSON bool
	// Strict makes warnings fail like errors.
	Strict bool
}

// workspace has the files below the paths of a command line.
type workspace struct {
	rules map[string][]byte // by path as a user would type it
	tests map[string][]byte
	// passed are YAML files that a gateway does not read, since their names are not those of rules or tests.
	passed []string
}

// openPaths reads rule and test files. A path is a folder or a file; a test file includes the rules of its folder. The
// rules of all paths form one set, so their ids must differ.
func openPaths(paths []string) (*workspace, error) {
	ws := &workspace{rules: map[string][]byte{}, tests: map[string][]byte{}}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		switch {
		case info.IsDir():
			err = ws.addDir(p, true)
		case strings.HasSuffix(p, lang.TestSuffix):
			if err = ws.addDir(filepath.Dir(p), false); err == nil {
				err = ws.addFile(p, ws.tests)
			}
		default:
			if !strings.HasSuffix(p, lang.RulesSuffix) {
				ws.passed = append(ws.passed, p)
			}
			err = ws.addFile(p, ws.rules)
		}
		if err != nil {
			return nil, err
		}
	}
	err := lang.AddData(ws.rules, func(name string, limit int64) ([]byte, error) {
		return lang.ReadData(os.DirFS(filepath.Dir(name)), filepath.Base(name), limit)
	})
	return ws, err
}

// Files returns the rules and tests below paths, and the files of their zones and tables. Names are relative to the
// folder that a path names, or to the folder of the file that it names.
func Files(paths []string) (map[string]string, error) {
	ws, err := openPaths(paths)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, all := range []map[string][]byte{ws.rules, ws.tests} {
		for name, text := range all {
			short := below(paths, name)
			if _, twice := files[short]; twice {
				return nil, fmt.Errorf("rules: %s: another path has a file %s; give one of them another name", name, short)
			}
			files[short] = string(text)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("rules: %s: %w", strings.Join(paths, ", "), lang.ErrNoFiles)
	}
	return files, nil
}

// below returns the name of a file relative to the first path that contains it.
func below(paths []string, name string) string {
	for _, p := range paths {
		if info, err := os.Stat(p); err != nil || !info.IsDir() {
			p = filepath.Dir(p)
		}
		if rest, err := filepath.Rel(p, filepath.FromSlash(name)); err == nil && filepath.IsLocal(rest) {
			return filepath.ToSlash(rest)
		}
	}
	return filepath.Base(name)
}

func (ws *workspace) addFile(p string, to map[string][]byte) error {
	b, err := lang.ReadFile(os.DirFS(filepath.Dir(p)), filepath.Base(p))
	if err != nil {
		return fmt.Errorf("rules: %s: %w", p, err)
	}
	to[filepath.ToSlash(filepath.Clean(p))] = b
	return nil
}

func (ws *workspace) addDir(dir string, tests bool) error {
	add := func(to map[string][]byte) func(string) error {
		return func(name string) error {
			if len(to) == lang.MaxFiles {
				return fmt.Errorf("rules: %s: %w", dir, lang.ErrTooManyFiles)
			}
			return ws.addFile(filepath.Join(dir, filepath.FromSlash(name)), to)
		}
	}
	err := lang.WalkYAML(os.DirFS(dir), lang.RulesSuffix, add(ws.rules))
	if err == nil && tests {
		err = lang.WalkYAML(os.DirFS(dir), lang.TestSuffix, add(ws.tests))
	}
	if err == nil {
		err = lang.WalkYAML(os.DirFS(dir), "ml", func(name string) error {
			rule := strings.HasSuffix(name, lang.RulesSuffix) || strings.HasSuffix(name, lang.TestSuffix)
			if ext := filepath.Ext(name); !rule && (ext == ".yaml" || ext == ".yml") && len(ws.passed) < maxPassed {
				ws.passed = append(ws.passed, filepath.Join(dir, filepath.FromSlash(name)))
			}
			return nil
		})
	}
	return err
}

// maxPassed bounds the names of unread files that are shown.
const maxPassed = 20

// compile compiles the rules and reads the tests. It returns the findings of both.
func (ws *workspace) compile(o ToolOptions) (*lang.Set, []*testCase, doc.Diagnostics) {
	set, diags := lang.Compile(lang.NewSource(ws.rules), o.Options)
	var tests []*testCase
	report := func(d doc.Diagnostic) { diags = append(diags, d) }
	names := make([]string, 0, len(ws.tests))
	for name := range ws.tests {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		tests = append(tests, readTests(name, ws.tests[name], o.Targets, report)...)
	}
	if set != nil {
		for _, t := range tests {
			t.checkRules(set)
		}
	}
	diags.Sort()
	return set, tests, diags
}

// checkRules reports rules that a test names and the set does not have.
func (t *testCase) checkRules(set *lang.Set) {
	var ids []string
	for _, r := range set.Compiled {
		ids = append(ids, r.Info.ID)
	}
	t.doc.Rule = "test " + t.name.Value
	for _, id := range t.rules {
		if !slices.Contains(ids, id) {
			t.doc.Fail(t.name.Line, t.name.Col, doc.CodeTestFile, doc.DidYouMean(id, ids), "there is no rule %q", id)
		}
	}
	for _, s := range t.steps {
		for _, e := range s.expect {
			if !slices.Contains(ids, e.rule) {
				t.doc.Fail(e.line, e.col, doc.CodeTestFile, doc.DidYouMean(e.rule, ids), "there is no rule %q", e.rule)
			}
		}
	}
}

// checkReport is the JSON output of Check.
type checkReport struct {
	OK          bool            `json:"ok"`
	Files       int             `json:"files"`
	Rules       int             `json:"rules"`
	Tests       int             `json:"tests"`
	Hash        string          `json:"hash,omitempty"`
	Diagnostics doc.Diagnostics `json:"diagnostics"`
}

// Check compiles the rules below the paths and writes the findings. ok is false if there are any that fail. The error
// is about a path that cannot be read or a failing writer.
func Check(w io.Writer, paths []string, o ToolOptions) (ok bool, err error) {
	ws, err := openPaths(paths)
	if err != nil {
		return false, err
	}
	set, tests, diags := ws.compile(o)
	switch {
	case len(ws.rules) == 0:
		diags = append(diags, noFiles(paths))
	case set != nil:
		diags = append(diags, set.Unfinished...)
		diags.Sort()
	}
	rep := checkReport{OK: !diags.HasErrors() && (!o.Strict || len(diags) == 0), Files: len(ws.rules) + len(ws.tests), Tests: len(tests), Diagnostics: diags}
	if set != nil {
		rep.Rules, rep.Hash = len(set.Compiled), set.Hash()
	}
	switch {
	case o.JSON:
		rep.Diagnostics = append(doc.Diagnostics{}, diags...)
		err = writeJSON(w, rep)
	case len(diags) == 0:
		_, err = fmt.Fprintf(w, "ok: %s, %s and no findings\n", counted(rep.Rules, "rule"), counted(rep.Tests, "test"))
	default:
		if err = diags.Write(w); err == nil {
			_, err = fmt.Fprintf(w, "\n%s\n", rep.verdict())
		}
	}
	if err == nil && !o.JSON {
		err = ws.writePassed(w)
	}
	return rep.OK, err
}

// verdict summarizes the findings.
func (rep *checkReport) verdict() string {
	errors, warnings := rep.Diagnostics.Count(doc.Error), rep.Diagnostics.Count(doc.Warning)
	switch {
	case warnings == 0:
		return counted(errors, "finding")
	case errors > 0:
		return counted(errors, "error") + ", " + counted(warnings, "warning")
	case rep.OK:
		return fmt.Sprintf("ok: %s, %s and %s", counted(rep.Rules, "rule"), counted(rep.Tests, "test"), counted(warnings, "warning"))
	}
	return counted(warnings, "warning") + ", which --strict counts as errors"
}

// writePassed names the files that a gateway does not read.
func (ws *workspace) writePassed(w io.Writer) error {
	if len(ws.passed) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "a gateway reads only files that end with %s; it ignores: %s\n", lang.RulesSuffix, strings.Join(ws.passed, ", "))
	return err
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// testReport is the JSON output of Test.
type testReport struct {
	OK          bool            `json:"ok"`
	Passed      int             `json:"passed"`
	Failed      int             `json:"failed"`
	Results     []testResult    `json:"results"`
	Coverage    *coverage       `json:"coverage,omitempty"`
	Diagnostics doc.Diagnostics `json:"diagnostics,omitempty"`
}

// Test runs the tests below the paths and writes the results. ok is false if a test fails or the rules do not compile.
// The error is errNoTests if there is none.
func Test(w io.Writer, paths []string, o ToolOptions) (ok bool, err error) {
	ws, err := openPaths(paths)
	if err != nil {
		return false, err
	}
	rep, err := ws.test(context.Background(), o)
	if err != nil {
		return false, err
	}
	if o.JSON {
		return rep.OK, writeJSON(w, rep)
	}
	return rep.OK, rep.write(w)
}

// test runs the tests. The error is errNoTests, or that of ctx if it ends first.
func (ws *workspace) test(ctx context.Context, o ToolOptions) (testReport, error) {
	set, tests, diags := ws.compile(o)
	rep := testReport{OK: true, Results: []testResult{}, Diagnostics: diags}
	if diags.HasErrors() || o.Strict && len(diags) > 0 {
		rep.OK = false
		return rep, nil
	}
	if len(tests) == 0 {
		return rep, errNoTests
	}
	sets, covered := map[string]*lang.Set{}, covering{}
	for _, t := range tests {
		at := o.Options
		at.Cell = cmp.Or(t.cell, o.Cell, defaultTestCell)
		if sets[at.Cell] == nil { // ${cell} is part of a set
			sets[at.Cell], _ = lang.Compile(lang.NewSource(ws.rules), at)
		}
		res, err := t.run(ctx, sets[at.Cell], covered)
		if err != nil {
			return rep, err
		}
		rep.Results = append(rep.Results, res)
		if res.Passed {
			rep.Passed++
		} else {
			rep.Failed, rep.OK = rep.Failed+1, false
		}
	}
	rep.Coverage = covered.of(set)
	return rep, nil
}

func (rep *testReport) write(w io.Writer) error {
	if len(rep.Results) == 0 {
		return rep.Diagnostics.Write(w)
	}
	var b strings.Builder
	for _, r := range rep.Results {
		if r.Passed {
			fmt.Fprintf(&b, "ok    %s\n", r.Name)
			continue
		}
		fmt.Fprintf(&b, "FAIL  %s\n", r.Name)
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "      %s:%d: step %d: %s\n", r.File, f.Line, f.Step, f.Message)
		}
	}
	fmt.Fprintf(&b, "%d passed, %d failed\n", rep.Passed, rep.Failed)
	if c := rep.Coverage; c != nil {
		fmt.Fprintf(&b, "covered: %s rules, %s branches, %s targets\n", c.Rules, c.Branches, c.Targets)
		for _, missing := range c.Missing {
			fmt.Fprintf(&b, "      not covered: %s\n", missing)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// noFiles returns the finding of a check without a rule file.
func noFiles(paths []string) doc.Diagnostic {
	return doc.Diagnostic{
		File: filepath.ToSlash(strings.Join(paths, ", ")), Line: 1, Column: 1, Level: doc.Error, Code: doc.CodeMissing, Rule: "folder",
		Message: lang.ErrNoFiles.Error() + ": a gateway refuses the folder", Suggestion: lang.SayNone,
	}
}
