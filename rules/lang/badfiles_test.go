package lang_test

import (
	"path/filepath"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/test/check"
)

// TestBadFiles holds the findings of each bad file in testdata against its golden file.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.rules.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			src, err := lang.Load(f)
			check.OK(t, err)
			set, diags := lang.Compile(src, lang.Options{Cell: "cell-1"})
			if set != nil || !diags.HasErrors() {
				t.Fatal("the file compiles")
			}
			var b strings.Builder
			check.OK(t, diags.Write(&b))
			check.Golden(t, strings.TrimSuffix(f, ".rules.yaml")+".golden", b.String())
		})
	}
}
