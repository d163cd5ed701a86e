package rules

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Diagnostic is one finding in a rule file. Its code is in the table of README.md and never changes its
// meaning.
type Diagnostic struct {
	File string `json:"file"`
	// Line and Column count from 1; Column counts characters, not bytes.
	Line   int `json:"line"`
	Column int `json:"column"`
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
//	file:line:col: error[Rnnn] rule-id: message
//	the source line
//	   ^
//	suggestion: what to write instead
func (d Diagnostic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: error[%s] %s: %s", d.File, d.Line, d.Column, d.Code, d.Rule, d.Message)
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

// Diagnostics are findings in the order of file, line and column. Every one is an error: a set with any
// is not applied.
type Diagnostics []Diagnostic

// HasErrors reports whether the set must not be used.
func (ds Diagnostics) HasErrors() bool { return len(ds) > 0 }

// Error makes Diagnostics an error: all findings, one after another.
func (ds Diagnostics) Error() string {
	texts := make([]string, len(ds))
	for i, d := range ds {
		texts[i] = d.String()
	}
	return strings.Join(texts, "\n")
}

// Err returns ds as an error, nil when there is none.
func (ds Diagnostics) Err() error {
	if len(ds) == 0 {
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

func (ds Diagnostics) sort() {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// maxDiagnostics bounds what one Compile reports: past it an analyst mends the first ones anyway.
const maxDiagnostics = 200

// maxSourceLine bounds the quoted line, in bytes.
const maxSourceLine = 400

// sourceLine returns line n of the text, cut to a sensible length.
func sourceLine(text []byte, n int) string {
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

// nearest returns the candidate that differs from name by the fewest edits, "" if none is close enough
// to be what was meant.
func nearest(name string, candidates []string) string {
	best, found := len(name)/2+1, ""
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(name), strings.ToLower(c)); d < best {
			best, found = d, c
		}
	}
	return found
}

// editDistance counts insertions, deletions and replacements; swapped neighbours count as one. Names
// longer than 64 bytes are infinitely far apart, which bounds the work.
func editDistance(a, b string) int {
	const limit = 64
	if len(a) > limit || len(b) > limit {
		return limit
	}
	var rows [3][limit + 1]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur, prev, before := &rows[i%3], &rows[(i+2)%3], &rows[(i+1)%3]
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
