package rules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSourceHashFollowsContents(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{"a.rules.yaml": oneRule, "a_test.yaml": "x", ".hidden.rules.yaml": "x", "notes.txt": "x"})
	src, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := src.Files(); !slices.Equal(got, []string{"a.rules.yaml"}) {
		t.Errorf("files %v", got)
	}
	if same := NewSource(map[string][]byte{"a.rules.yaml": []byte(oneRule)}); same.Hash() != src.Hash() {
		t.Error("the hash depends on more than names and contents")
	}
	if other := NewSource(map[string][]byte{"b.rules.yaml": []byte(oneRule)}); other.Hash() == src.Hash() {
		t.Error("another name has the same hash")
	}
	back, err := UnmarshalSource(src.Marshal())
	if err != nil || back.Hash() != src.Hash() || string(back.Bytes("a.rules.yaml")) != oneRule {
		t.Errorf("a stored source does not come back: %v", err)
	}
	set, diags := Compile(back, Options{})
	if diags.HasErrors() || set.Hash() != src.Hash() {
		t.Errorf("%v", diags)
	}
	for n := range len(src.Marshal()) {
		if _, err := UnmarshalSource(src.Marshal()[:n]); !errors.Is(err, ErrBadSource) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestLoadBounds(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{"a.rules.yaml": strings.Repeat("#", MaxFileBytes+1)})
	if _, err := Load(dir); !errors.Is(err, ErrFileTooLarge) {
		t.Errorf("a large file: %v", err)
	}
	many := map[string]string{}
	for i := range MaxFiles + 1 {
		many[fmt.Sprintf("%d.rules.yaml", i)] = ""
	}
	if _, err := Load(writeFiles(t, many)); !errors.Is(err, ErrTooManyFiles) {
		t.Errorf("many files: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if src, err := Load(t.TempDir()); err != nil || len(src.Files()) != 0 {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestHostileTexts must neither hang nor overflow the stack, which nothing could recover from.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	when := func(e string) string {
		return "rules:\n  - id: r\n    from: [\"#\"]\n    when: |\n      " + e + "\n    to: [{kafka: {topic: t}}]\n"
	}
	macros := "macros:\n  m0: payload.a == 1\n"
	for i := 1; i < 40; i++ {
		macros += fmt.Sprintf("  m%d: m%d or m%d\n", i, i-1, i-1)
	}
	for name, c := range map[string]struct {
		text string
		code Code
	}{
		"brackets":    {strings.Repeat("[", 500_000), CodeTooLarge},
		"dashes":      {strings.Repeat("- ", 500_000), CodeTooLarge},
		"questions":   {strings.Repeat("? ", 500_000), CodeTooLarge},
		"parentheses": {when(strings.Repeat("(", 1_000_000)), CodeExprTooLarge},
		"parens 8k":   {when(strings.Repeat("(", 8000)), CodeExprSyntax},
		"not":         {when(strings.Repeat("not ", 2000) + "true"), CodeExprTooLarge},
		"minus":       {when(strings.Repeat("-", 8000) + "1 > 0"), CodeExprTooLarge},
		"doubling": {
			when("let a = raw + raw; let b = a + a; let c = b + b; let d = c + c; let e = d + d; let f = e + e; let g = f + f; let h = g + g; h contains \"x\""),
			CodeUnbounded,
		},
		"macro bomb": {macros + when("m39"), CodeExprTooLarge},
		"zero":       {"\x00", CodeWrongType},
		"latin1":     {"rules: \xe9", CodeSyntax},
		"two roots":  {"\xef\xbb\xbfrules: []\nrules: []", CodeSyntax},
	} {
		_, diags := Compile(NewSource(map[string][]byte{"a": []byte(c.text)}), Options{})
		if !diags.HasErrors() || !slices.ContainsFunc(diags, func(d Diagnostic) bool { return d.Code == c.code }) {
			t.Errorf("%s: no %s in %.300s", name, c.code, diags.Error())
		}
	}
}
