package configs

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestForeignFiles checks that a file that is not a configuration gives one problem with the place, what was expected
// and what to do, and without any of the file's contents.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^f\.yaml:\d+:\d+: not a configuration: .+; .*configs/cell\.yaml`)
	files := check.ForeignFiles()
	files["UTF-16"] = "\xff\xfec\x00a\x00n\x00a\x00r\x00y\x00"
	for name, text := range files {
		_, err := parseEnv("f.yaml", []byte(text), noEnv)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !shape.MatchString(err.Error()) {
			t.Errorf("%s: want one finding that says it is not a configuration, got:\n%v", name, err)
		}
		if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "4711") || strings.Contains(err.Error(), "[[") {
			t.Errorf("%s: the finding shows the file:\n%v", name, err)
		}
	}
}

// TestMistypedIsNotForeign checks that a configuration with a typing error is reported as that error.
func TestMistypedIsNotForeign(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"cel: {id: x}\n":                     `did you mean "cell"?`,
		"cell: {id: x}\nother: 1\n":          "other: unknown key",
		"cell: {id: \"x}\n":                  "1:12: not YAML: could not find end character",
		"# only a comment\n":                 "cell.id: is required",
		"{cell: {id: x}, bogus: [1}\n":       "not YAML",
		"cell: {id: a}\ncell: {id: b}\n":     "2:1: the same key as at 1:1",
		"data_dir: /x\n\tcell: {id: x}\n":    "not YAML",
		"&a cell: {id: x}\nmetric: {a: b}\n": `did you mean "metrics"?`,
	} {
		_, err := parseEnv("f.yaml", []byte(text), noEnv)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q in: %v", text, want, err)
		}
	}
}
