package configs

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// foreignFiles are files that someone might name by mistake. Everything in them that must not be printed holds
// the canary.
var foreignFiles = map[string]string{
	"a private key":       "-----BEGIN EC PRIVATE KEY-----\ncanary+cANARY==\n-----END EC PRIVATE KEY-----\n",
	"a token":             "eyJhbGciOiJFUzI1NiJ9.canary.canary\n",
	"an environment":      "DB_PASSWORD=canary\nexport API=canary\n",
	"a password file":     "canary:canary:0:0:root:/root:/bin/bash\nx:canary:1:\n",
	"cut JSON":            `{"canary": "canary", "a": [1,2`,
	"other JSON":          `{"canary": "canary"}`,
	"prose":               "just a canary: that goes on: here\n",
	"a list":              "- canary\n- canary\n",
	"other YAML":          "apiVersion: v1\ndata: {canary: canary}\n",
	"one key twice":       "canary: 1\ncanary: 2\n",
	"a version":           "%YAML canary\n---\na: 1\n",
	"an unclosed quote":   "a: \"canary\nb: canary\n",
	"another's anchors":   "a: *canary\nb: !canary x\n",
	"bytes":               "\x00\x01canary\xff\xfe{[canary",
	"UTF-16":              "\xff\xfec\x00a\x00n\x00a\x00r\x00y\x00",
	"a number":            "4711\n",
	"a script":            "#!/bin/sh\nset -e; PASS=canary\nif [ \"$1\" = canary ]; then echo \"canary\"; fi\n",
	"a map of everything": "? canary\n: canary\n",
}

// TestForeignFiles holds that a file that is no configuration is told as one finding that names the place,
// what was expected and what to do, and shows none of the file's contents.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^f\.yaml:\d+:\d+: not a configuration: .+; .*configs/cell\.yaml`)
	for name, text := range foreignFiles {
		_, err := ParseEnv("f.yaml", []byte(text), noEnv)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !shape.MatchString(err.Error()) {
			t.Errorf("%s: want one finding that says it is not a configuration, got:\n%v", name, err)
		}
		if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: the finding shows the file:\n%v", name, err)
		}
	}
}

// TestMistypedIsNotForeign holds that a configuration with a mistake in it is told what the mistake is.
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
		_, err := ParseEnv("f.yaml", []byte(text), noEnv)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q in: %v", text, want, err)
		}
	}
}
