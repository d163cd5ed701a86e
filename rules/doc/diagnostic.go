package doc

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Level is how bad a finding is.
type Level string

// The levels. A set with an error is not applied; a warning is about what is likely to be meant otherwise.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Diagnostic is one finding in a rule file. Its code is in the table of README.md and never changes its
// meaning.
type Diagnostic struct {
	File string `json:"file"`
	// Line and Column count from 1; Column counts characters, not bytes.
	Line   int   `json:"line"`
	Column int   `json:"column"`
	Level  Level `json:"level"`
	// Code is R and three digits.
	Code Code `json:"code"`
	// Rule is the id of the rule, or what the finding is about when no rule is known: "macro NAME",
	// "list NAME", "schema" or "file".
	Rule    string `json:"rule"`
	Message string `json:"message"`
	// Source is the line of the file that the finding points at; "" when there is none.
	Source string `json:"source,omitempty"`
	// Suggestion says what to write instead.
	Suggestion string `json:"suggestion,omitempty"`
}

// String gives the form that editors and people read, without a newline at its end:
//
//	file:line:col: error[Rnnn] rule-id: message (or warning[Rnnn])
//	the source line
//	   ^
//	suggestion: what to write instead
func (d Diagnostic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s[%s] %s: %s", d.File, d.Line, d.Column, cmp.Or(d.Level, Error), d.Code, d.Rule, d.Message)
	if d.Source != "" {
		b.WriteString("\n" + d.Source + "\n" + indentTo(d.Source, d.Column) + "^")
	}
	if d.Suggestion != "" {
		b.WriteString("\nsuggestion: " + d.Suggestion)
	}
	return b.String()
}

// indentTo returns blanks up to a column, with the tabs of the line above kept so that the caret lines up.
func indentTo(line string, column int) string {
	var b strings.Builder
	for _, r := range line {
		if column--; column <= 0 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	for ; column > 1; column-- {
		b.WriteByte(' ')
	}
	return b.String()
}

// Diagnostics are findings in the order of file, line and column. A set with an error among them is not applied.
type Diagnostics []Diagnostic

// HasErrors reports whether the set must not be used.
func (ds Diagnostics) HasErrors() bool { return ds.Count(Error) > 0 }

// Count is how many findings are of a level.
func (ds Diagnostics) Count(l Level) int {
	n := 0
	for i := range ds {
		if ds[i].Level == l {
			n++
		}
	}
	return n
}

// Error makes Diagnostics an error: all findings, one after another.
func (ds Diagnostics) Error() string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.String()
	}
	return strings.Join(texts, "\n")
}

// Err returns ds as an error, nil when there is none among them.
func (ds Diagnostics) Err() error {
	if !ds.HasErrors() {
		return nil
	}
	return ds
}

// Write writes the findings as text, an empty line between two.
func (ds Diagnostics) Write(w io.Writer) error {
	for i, d := range ds {
		sep := "\n"
		if i < len(ds)-1 {
			sep = "\n\n"
		}
		if _, err := io.WriteString(w, d.String()+sep); err != nil {
			return err
		}
	}
	return nil
}

// Sort puts them in order.
func (ds Diagnostics) Sort() {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// MaxDiagnostics bounds what one Compile reports: past it an analyst mends the first ones anyway.
const MaxDiagnostics = 200

// maxSourceLine bounds the quoted line, in bytes.
const maxSourceLine = 400

// SourceLine returns line n of the text, cut to a sensible length.
func SourceLine(text []byte, n int) string {
	for line := range strings.Lines(string(text)) {
		if n--; n > 0 {
			continue
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) > maxSourceLine {
			line = line[:maxSourceLine]
		}
		return strings.ToValidUTF8(line, string(utf8.RuneError))
	}
	return ""
}
