package doc

import (
	"regexp"
	"slices"
	"testing"

	"cellgate/test/check"
)

// TestCodesAreDocumented compares code.go with the table in README.md.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	text := check.Read(t, "code.go")
	readme := check.Read(t, "../README.md")
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
