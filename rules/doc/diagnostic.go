package doc

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Level is the severity of a finding.
type Level string

// Severities. A set with an error is not applied. A warning says that a rule probably does not do what is intended.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Diagnostic is one finding in a rule file. README.md documents its code.
type Diagnostic struct {
	File string `json:"file"`
	// Line and Column count from 1; Column counts characters, not bytes.
	Line   int   `json:"line"`
	Column int   `json:"column"`
	Level  Level `json:"level"`
	// Code is R and three digits.
	Code Code `json:"code"`
	// Rule is the id of the rule, or the subject of the finding if there is no rule: "macro NAME", "list NAME",
	// "schema" or "file".
	Rule    string `json:"rule"`
	Message string `json:"message"`
	// Source is the line that the finding points at; "" if there is none.
	Source string `json:"source,omitempty"`
	// Suggestion says what to write instead.
	Suggestion string `json:"suggestion,omitempty"`
}

// String formats the finding for editors and people, without a final newline:
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

// indentTo returns blanks up to a column. It keeps the tabs of the line above so that the caret lines up.
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

// Diagnostics are findings sorted by file, line and column. A set with an error is not applied.
type Diagnostics []Diagnostic

// HasErrors reports whether a finding is an error, so that the set must not be used.
func (ds Diagnostics) HasErrors() bool { return ds.Count(Error) > 0 }

// Count returns the number of findings of a level.
func (ds Diagnostics) Count(l Level) int {
	n := 0
	for i := range ds {
		if ds[i].Level == l {
			n++
		}
	}
	return n
}

// Error implements error: it returns all findings, one after another.
func (ds Diagnostics) Error() string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.String()
	}
	return strings.Join(texts, "\n")
}

// Err returns ds as an error, nil if no finding is an error.
func (ds Diagnostics) Err() error {
	if !ds.HasErrors() {
		return nil
	}
	return ds
}

// Write writes the findings as text, separated by empty lines.
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

// Sort sorts the findings by file, line and column.
func (ds Diagnostics) Sort() {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// MaxDiagnostics bounds the findings of one Compile.
const MaxDiagnostics = 200

const maxSourceLine = 400

// SourceLine returns line n of the text, cut to maxSourceLine.
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
