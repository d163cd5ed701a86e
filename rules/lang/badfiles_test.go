package lang_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink/webhook"
	"cellgate/test/check"
)

// goWords matches terms of Go and of the gateway's libraries (expressions, YAML), which messages to analysts must not
// contain.
var goWords = regexp.MustCompile(`\b(u?int(8|16|32|64)|float(32|64)|interface|reflect|nil pointer|func\(|time\.[TD]|map\[|\[\]any|mismatched|regexp|builtin|unknown operator|undefined|panic|strconv|literal|non-map|pre-defined|invalid syntax|allowed in this context)\b`)

// TestBadFiles compares the findings of each bad file in testdata with its golden file.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.rules.yaml")
	if err != nil || len(files) < 140 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			src, err := lang.Load(f)
			check.OK(t, err)
			set, diags := lang.Compile(src, options())
			if set != nil || !diags.HasErrors() {
				t.Fatal("the file compiles")
			}
			for _, d := range diags {
				if word := goWords.FindString(d.Message + " " + d.Suggestion); word != "" {
					t.Errorf("%s: %q is no word of an analyst", d, word)
				}
			}
			var b strings.Builder
			check.OK(t, diags.Write(&b))
			check.Golden(t, strings.TrimSuffix(f, ".rules.yaml")+".golden", b.String())
		})
	}
}

func options() lang.Options {
	o := rulestest.Options("cell-1")
	o.Targets = slices.Insert(o.Targets, 3, &webhook.Target)
	return o
}
