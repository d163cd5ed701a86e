package rules

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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
			src, err := Load(f)
			if err != nil {
				t.Fatal(err)
			}
			set, diags := Compile(src, Options{Cell: "cell-1"})
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

// TestCodesAreDocumented holds code.go and the table of README.md together.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("code.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`"(R\d{3})"`).FindAllStringSubmatch(string(text), -1)
	rows := regexp.MustCompile(`(?m)^\| (R\d{3}) \|`).FindAllStringSubmatch(string(readme), -1)
	var want, got []string
	for _, c := range codes {
		want = append(want, c[1])
	}
	for _, r := range rows {
		got = append(got, r[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("README.md lists %v, code.go %v", got, want)
	}
}

func TestDiagnosticForm(t *testing.T) {
	t.Parallel()
	d := Diagnostic{File: "a.rules.yaml", Line: 3, Column: 4, Code: CodeExprType, Rule: "r", Message: "m", Source: "\tä x", Suggestion: "s"}
	if got, want := d.String(), "a.rules.yaml:3:4: error[R024] r: m\n\tä x\n\t  ^\nsuggestion: s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
