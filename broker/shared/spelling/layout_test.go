package spelling

import (
	"strings"
	"testing"
)

func TestLayout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text   string
		at           int // the line that the parser reports
		line, column int // 0: no fault
		why, fix     string
	}{
		{"a line begins too early", "rules:\n  - id: a\n    from: [x]\n   when: b\n    to: c\n", 4, 4, 4, "aligned with none", "column 5"},
		{"a key below a value", "cell:\n  id: a\n   region: b\n", 2, 3, 4, "further than the one above", "column 3"},
		{"a tab", "cell:\n\tid: a\n", 2, 2, 1, "a tab", "spaces"},
		{"a tab after blanks", "cell:\n  id: a\n \tregion: b\n", 3, 3, 2, "a tab", "spaces"},
		{"a key in the column of its list", "a:\n  - b: c\n    d: e\n  f: g\n", 4, 4, 3, "has none itself", "column 5"},
		{"a list of lists", "a:\n  -\n    - b\n    - c\n  - d\n", 3, 0, 0, "", ""},
		{"list and key in one column", "rules:\n- id: a\n  to:\n  - kafka: x\n- id: b\n", 4, 0, 0, "", ""},
		{"a text over several lines", "a: one\n   two\n  three\nb: c\n", 3, 0, 0, "", ""},
		{"a text below |", "a: |\n    key: x\n  b: y\nc: d\n", 3, 0, 0, "", ""},
		{"brackets over several lines", "a: {b: c,\n d: e,\n      f: g}\nh: i\n", 2, 0, 0, "", ""},
		{"the wrong line is far from the error", "a:\n   b: c\n  d: e\nf: g\nh: i\nj: k ? l : m\n", 6, 0, 0, "", ""},
		{"a question in an expression", "rules:\n  - id: a\n    when: a > 1 ? b : c\n", 3, 0, 0, "", ""},
		{"nothing", "", 1, 0, 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, ok := Layout(strings.Split(c.text, "\n"), c.at)
			if ok != (c.line > 0) || f.Line != c.line && ok || f.Column != c.column && ok {
				t.Fatalf("%v %+v, want line %d column %d", ok, f, c.line, c.column)
			}
			if ok && (!strings.Contains(f.Why, c.why) || !strings.Contains(f.Fix, c.fix)) {
				t.Errorf("%+v, want %q and %q", f, c.why, c.fix)
			}
		})
	}
}

func FuzzLayout(f *testing.F) {
	f.Add("a:\n\tb: c\n- - d: |\n {[", 2)
	f.Fuzz(func(t *testing.T, text string, at int) {
		lines := strings.Split(text, "\n")
		if fault, ok := Layout(lines, at); ok && (fault.Line < 1 || fault.Line > len(lines) || fault.Column < 1 || fault.Column > len(lines[fault.Line-1])+1) {
			t.Errorf("%+v is not in the text", fault)
		}
	})
}
