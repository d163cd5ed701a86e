package workbench

import (
	"regexp"
	"strings"
	"testing"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

// TestForeignFiles checks that a file that is neither rules nor tests gives one finding with the position, what was
// expected and what to do, and without the file's contents.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	for name, text := range check.ForeignFiles() {
		_, found := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": []byte(text)}), rulestest.Options("cell-1"))
		checkForeign(t, name, found, `^f\.rules\.yaml:\d+:\d+: error\[R\d+\] file: not a rule file: .*lists, macros, schema, rules`)
		found = nil
		readTests("f_test.yaml", []byte(text), options("").Targets, func(d doc.Diagnostic) { found = append(found, d) })
		checkForeign(t, name, found, `^f_test\.yaml:\d+:\d+: error\[R\d+\] file: not a test file: .*tests`)
	}
}

func checkForeign(t *testing.T, name string, found doc.Diagnostics, shape string) {
	t.Helper()
	text := found.Error()
	if len(found) != 1 || !regexp.MustCompile(shape).MatchString(text) || !strings.Contains(text, "suggestion: ") {
		t.Errorf("%s: want one finding like %s, got:\n%s", name, shape, text)
	}
	if strings.Contains(text, "canary") || strings.Contains(text, "4711") || strings.Contains(text, "[[") {
		t.Errorf("%s: the finding shows the file:\n%s", name, text)
	}
}

// TestMistypedIsNotForeign checks that a rule file with a mistake gives a finding that shows the line.
func TestMistypedIsNotForeign(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"rule:\n  - id: a\n":             `did you mean "rules"?`,
		"rules: [\n":                     "rules: [\n       ^",
		"{\"rules\": [{\"id\": 1}":       "{\"rules\": [{\"id\": 1}\n",
		"rules: []\nbogus: 1\n":          "unknown key \"bogus\" in a rule file\nbogus: 1\n^",
		"Rules:\n- id: a\n":              `did you mean "rules"?`,
		"\xef\xbb\xbfrules:\n  - x: y\n": `unknown key "x"`,
	} {
		_, found := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": []byte(text)}), rulestest.Options("cell-1"))
		if !strings.Contains(found.Error(), want) {
			t.Errorf("%q: want %q in:\n%s", text, want, found.Error())
		}
	}
	for _, text := range []string{"", "# nothing yet\n", "{}\n", "---\n", "rules:\n"} {
		if _, found := lang.Compile(lang.NewSource(map[string][]byte{"f.rules.yaml": []byte(text)}), rulestest.Options("cell-1")); found.HasErrors() {
			t.Errorf("%q: %s", text, found.Error())
		}
	}
}
