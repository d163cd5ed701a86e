package lang_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

func TestSourceHashFollowsContents(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "a_test.yaml": "x", ".hidden.rules.yaml": "x", "notes.txt": "x"})
	src, err := lang.Load(dir)
	check.OK(t, err)
	if got := src.Files(); !slices.Equal(got, []string{"a.rules.yaml"}) {
		t.Errorf("files %v", got)
	}
	if same := lang.NewSource(map[string][]byte{"a.rules.yaml": []byte(rulestest.OneRule)}); same.Hash() != src.Hash() {
		t.Error("the hash depends on more than names and contents")
	}
	if other := lang.NewSource(map[string][]byte{"b.rules.yaml": []byte(rulestest.OneRule)}); other.Hash() == src.Hash() {
		t.Error("another name has the same hash")
	}
	back, err := lang.UnmarshalSource(src.Marshal())
	if err != nil || back.Hash() != src.Hash() || string(back.Bytes("a.rules.yaml")) != rulestest.OneRule {
		t.Errorf("a stored source does not come back: %v", err)
	}
	set, diags := lang.Compile(back, rulestest.Options(""))
	if diags.HasErrors() || set.Hash() != src.Hash() {
		t.Errorf("%v", diags)
	}
	for n := range len(src.Marshal()) {
		if _, err := lang.UnmarshalSource(src.Marshal()[:n]); !errors.Is(err, lang.ErrBadSource) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestLoadBounds(t *testing.T) {
	t.Parallel()
	dir := rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": strings.Repeat("#", lang.MaxFileBytes+1)})
	if _, err := lang.Load(dir); !errors.Is(err, lang.ErrFileTooLarge) {
		t.Errorf("a large file: %v", err)
	}
	many := map[string]string{}
	for i := range lang.MaxFiles + 1 {
		many[fmt.Sprintf("%d.rules.yaml", i)] = ""
	}
	if _, err := lang.Load(rulestest.WriteFiles(t, many)); !errors.Is(err, lang.ErrTooManyFiles) {
		t.Errorf("many files: %v", err)
	}
	if _, err := lang.Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if src, err := lang.Load(t.TempDir()); err != nil || len(src.Files()) != 0 {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestHostileTexts checks texts that must neither hang nor overflow the stack, from which Go cannot recover.
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
		code doc.Code
	}{
		"brackets":    {strings.Repeat("[", 500_000), doc.CodeTooLarge},
		"dashes":      {strings.Repeat("- ", 500_000), doc.CodeTooLarge},
		"questions":   {strings.Repeat("? ", 500_000), doc.CodeTooLarge},
		"parentheses": {when(strings.Repeat("(", 1_000_000)), doc.CodeExprTooLarge},
		"parens 8k":   {when(strings.Repeat("(", 8000)), doc.CodeExprSyntax},
		"not":         {when(strings.Repeat("not ", 2000) + "true"), doc.CodeExprTooLarge},
		"minus":       {when(strings.Repeat("-", 8000) + "1 > 0"), doc.CodeExprTooLarge},
		"doubling": {
			when("let a = raw + raw; let b = a + a; let c = b + b; let d = c + c; let e = d + d; let f = e + e; let g = f + f; let h = g + g; h contains \"x\""),
			doc.CodeUnbounded,
		},
		"macro bomb": {macros + when("m39"), doc.CodeExprTooLarge},
		"zero":       {"\x00", doc.CodeWrongType},
		"latin1":     {"rules: \xe9", doc.CodeSyntax},
		"two roots":  {"\xef\xbb\xbfrules: []\nrules: []", doc.CodeSyntax},
	} {
		_, diags := lang.Compile(lang.NewSource(map[string][]byte{"a": []byte(c.text)}), rulestest.Options(""))
		if !diags.HasErrors() || !slices.ContainsFunc(diags, func(d doc.Diagnostic) bool { return d.Code == c.code }) {
			t.Errorf("%s: no %s in %.300s", name, c.code, diags.Error())
		}
	}
}
