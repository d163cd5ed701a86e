package lang_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/rules/lang"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
			if err != nil {
				t.Fatal(err)
			}
			set, diags := lang.Compile(src, lang.Options{Cell: "cell-1"})
			if set != nil || !diags.HasErrors() {
				t.Fatal("the file compiles")
			}
			var b strings.Builder
			if err := diags.Write(&b); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(f, ".rules.yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
			}
		})
	}
}
