package workbench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/stable"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/test/check"
)

const hotTest = `tests:
  - name: hot is told
    steps: [{payload: {temp: 90}, expect: [{rule: hot}]}]
`

// Files that are truncated before they are written, files that replace others, and a folder that is missing for a
// moment are not accepted.
func TestAFolderIsReadWhenItRests(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(t *testing.T, file string){
		"truncated": func(t *testing.T, file string) { write(t, file, "") },
		"half":      func(t *testing.T, file string) { write(t, file, "rules: []\n") },
		"away": func(t *testing.T, file string) {
			check.OK(t, os.Rename(filepath.Dir(file), filepath.Dir(file)+".old"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "rules")
			file := filepath.Join(dir, "a.rules.yaml")
			write(t, file, rulestest.OneRule)
			begin(t, file)
			looks := 0
			// The change ends between two reads, however slow the machine is.
			f, err := stable.Read(t.Context(), func() (*lang.Folder, string, error) {
				if looks++; looks == 2 {
					write(t, file, rulestest.OneRule)
				}
				f, err := lang.LookFolder(dir)
				if err != nil {
					return nil, "", err
				}
				return f, f.Hash(), nil
			})
			if err != nil || string(f.Source.Bytes("a.rules.yaml")) != rulestest.OneRule || looks != 3 {
				t.Errorf("%v after %d looks, %v", err, looks, f)
			}
		})
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	check.Write(t, file, text)
}

func readFolder(t *testing.T, files map[string]string) *lang.Folder {
	t.Helper()
	f, err := lang.LookFolder(rulestest.WriteFiles(t, files))
	check.OK(t, err)
	return f
}

// Tests count when folders are compared, but not for the hash of a set.
func TestAFolderKnowsItsTests(t *testing.T) {
	t.Parallel()
	without := readFolder(t, map[string]string{"a.rules.yaml": rulestest.OneRule})
	with := readFolder(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "a_test.yaml": hotTest})
	if without.Hash() == with.Hash() || without.Source.Hash() != with.Source.Hash() {
		t.Errorf("%s %s", without.Hash(), with.Hash())
	}
	for text, want := range map[string]string{
		"":                                      "",
		hotTest:                                 "",
		strings.Replace(hotTest, "90", "70", 1): `the test "hot is told" fails: `,
		strings.Replace(hotTest, "rule: hot", "rule: cold", 1): `there is no rule "cold"`,
		"tests: [": "error[R001]",
	} {
		files := map[string]string{"a.rules.yaml": rulestest.OneRule}
		if text != "" {
			files["a_test.yaml"] = text
		}
		f := readFolder(t, files)
		err := TestFolder(t.Context(), f, options("c"))
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := TestFolder(ctx, with, options("")); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hot is told") {
		t.Errorf("tests without end: %v", err)
	}
}

// A set that loses all its rules needs a new confirmation.
func TestAllRulesGoneNeedsAWord(t *testing.T) {
	t.Parallel()
	inForce := readFolder(t, map[string]string{"a.rules.yaml": rulestest.OneRule, "b.rules.yaml": "rules: []\n"})
	set, err := inForce.Compile(rulestest.Options(""))
	check.OK(t, err)
	for _, c := range []struct {
		files map[string]string
		gone  bool
	}{
		{map[string]string{"b.rules.yaml": "rules: []\n"}, true},
		{map[string]string{"b.rules.yaml": "rules: []  # none\n"}, false},
		{map[string]string{"a.rules.yaml": "rules: []\n", "b.rules.yaml": "rules: []\n"}, false},
		{map[string]string{"b.rules.yaml": "rules: []\n", "c.rules.yaml": "rules: []\n"}, false},
		{map[string]string{"a.rules.yaml": rulestest.OneRule}, false},
	} {
		f := readFolder(t, c.files)
		next, err := f.Compile(rulestest.Options(""))
		check.OK(t, err)
		if err := f.Loses(next, set); errors.Is(err, lang.ErrAllRulesGone) != c.gone {
			t.Errorf("%v: %v", c.files, err)
		}
		if err := f.Loses(next, nil); err != nil {
			t.Errorf("%v at a first start: %v", c.files, err)
		}
	}
}
