package configs

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestDocumentsNameTheDefaults fails if a document, a help text or a comment gives a default that differs from Default.
func TestDocumentsNameTheDefaults(t *testing.T) {
	t.Parallel()
	seen := 0
	sections := strings.Join(names(fieldsOf(reflect.TypeFor[Config]())), "|")
	said := regexp.MustCompile("\\b((?:" + sections + ")\\.(?:[a-z_]+\\.)*[a-z_]+)`?" +
		"(?:, | \\(|: ?|=| is | of )(?:default )?`?([0-9][0-9,]*(?: ?[KMG]iB| ?ms| ?[smhd])?(?:/s)?)\\b(?:[^.0-9]|$)")
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "bin" || d.Name() == "data" {
				return fs.SkipDir
			}
			return err
		}
		switch ext := filepath.Ext(file); {
		case strings.HasSuffix(file, "_test.go"), d.Name() == "CHANGELOG.md", ext != ".md" && ext != ".go" && ext != ".yaml":
			return nil
		}
		text, err := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			n, wrong := wrongDefaults(said, line)
			seen += n
			for _, w := range wrong {
				t.Errorf("%s: %s", file, w)
			}
		}
		return err
	})
	if err != nil || seen < 5 {
		t.Errorf("%d defaults were found (%v): the test reads the wrong files", seen, err)
	}
	for _, text := range []string{"`sessions.max_queued_messages` (500)", "uplink.window, 32 by default", "`auth.revocation.poll` is 400ms"} {
		if _, wrong := wrongDefaults(said, text); len(wrong) != 1 {
			t.Errorf("%s: %v", text, wrong)
		}
	}
}

// wrongDefaults returns the defaults that a text states, as a full key followed by a value, and those that are wrong.
func wrongDefaults(said *regexp.Regexp, text string) (seen int, wrong []string) {
	if !strings.ContainsAny(text, "0123456789") || !strings.Contains(text, ".") {
		return 0, nil // fast path for most lines
	}
	for _, m := range said.FindAllStringSubmatch(text, -1) {
		keys := strings.Split(m[1], ".")
		value := strings.NewReplacer(",", "", " ", "").Replace(m[2])
		c, err := Parse("", []byte("cell: {id: c}\n"+strings.Join(keys, ": {")+": "+value+strings.Repeat("}", len(keys)-1)))
		if err != nil {
			continue // not a key, or not a value of it
		}
		seen++
		for _, differs := range Diff(Default(), c) {
			if differs.Path == m[1] {
				wrong = append(wrong, m[0])
			}
		}
	}
	return seen, wrong
}

// TestCellYAMLShowsOptionalDefaults checks the keys of optional sections and list elements, which Default does not
// contain: cell.yaml must list them with their defaults, most of them in comments.
func TestCellYAMLShowsOptionalDefaults(t *testing.T) {
	t.Parallel()
	text, err := Samples.ReadFile("cell.yaml")
	check.OK(t, err)
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Listener](), reflect.TypeFor[ServerTLS](), reflect.TypeFor[Role](), reflect.TypeFor[TokenAPI](),
		reflect.TypeFor[Issuer](), reflect.TypeFor[Central](),
	} {
		v := fresh(typ)
		for _, f := range fieldsOf(typ) {
			var line strings.Builder
			if printed := v.Field(f.index); !printed.IsZero() && printed.Kind() != reflect.Struct {
				p := printer{bufio.NewWriter(&line), true}
				p.entry(f.name, printed, 0)
				_ = p.w.Flush()
				if want := strings.TrimSpace(line.String()); !strings.Contains(strings.ReplaceAll(string(text), `"`, ""), strings.ReplaceAll(want, `"`, "")) {
					t.Errorf("cell.yaml does not show %s", want)
				}
			}
		}
	}
}
