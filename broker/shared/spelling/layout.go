package spelling

import (
	"fmt"
	"strings"
)

// Bounds of a YAML text. They keep hostile input from exhausting the parser: 100,000 open brackets take it gigabytes.
const (
	MaxDepth  = 100 // open brackets
	maxDashes = 32  // "- - - -" on one line
)

// TooDeep returns the first line at which the nesting exceeds the bounds, 0 if none does. It also counts brackets in
// strings, but no sensible file has a hundred of them.
func TooDeep(lines []string) int {
	depth := 0
	for i, line := range lines {
		depth += strings.Count(line, "[") + strings.Count(line, "{")
		dashes := 0
		for rest := strings.TrimSpace(line); strings.HasPrefix(rest, "- ") || strings.HasPrefix(rest, "? "); rest = strings.TrimSpace(rest[1:]) {
			dashes++
		}
		if depth > MaxDepth || dashes > maxDashes {
			return i + 1
		}
		depth = max(0, depth-strings.Count(line, "]")-strings.Count(line, "}"))
	}
	return 0
}

// Fault is a mistake in the layout of a YAML text. Line and Column count from 1, Column in characters.
type Fault struct {
	Line, Column int
	// Why says what is wrong, Fix what to do.
	Why, Fix string
}

// Layout explains a YAML syntax error at a line if it is caused by a tab or a wrong indentation, which parsers do not
// name. ok is false if neither is on that line or next to it.
func Layout(lines []string, at int) (f Fault, ok bool) {
	for i, line := range lines {
		blanks := strings.TrimLeft(line, " ")
		if near(i+1, at) && strings.HasPrefix(blanks, "\t") && strings.TrimSpace(line) != "" {
			return Fault{
				Line: i + 1, Column: len(line) - len(blanks) + 1,
				Why: "this line is indented with a tab; YAML allows only spaces", Fix: "use as many spaces as the lines next to it",
			}, true
		}
	}
	f, ok = oddIndent(lines)
	return f, ok && near(f.Line, at)
}

// near allows for parsers that name the value before the faulty line.
func near(line, at int) bool { return line >= at-1 && line <= at+1 }

// outline tracks the indentation of a text line by line.
type outline struct {
	open  []level // open mappings and lists, outermost first
	below bool    // the previous line ends with a key without a value, so that a deeper line may follow
	block int     // lines that are indented further belong to a text below "|"; -1: none
	flow  int     // open brackets
}

// level is a mapping or a list and its indentation.
type level struct {
	indent int
	list   bool
}

// oddIndent finds the first line whose indentation matches no open level.
func oddIndent(lines []string) (Fault, bool) {
	o := outline{block: -1}
	for i, line := range lines {
		text := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case text == "" || text[0] == '#' || text == "---":
			continue
		case o.block >= 0 && indent > o.block:
			continue
		}
		o.block = -1
		if why, fix := o.odd(indent, text); why != "" {
			return Fault{Line: i + 1, Column: indent + 1, Why: why, Fix: fix}, true
		}
		o.follow(indent, text)
	}
	return Fault{}, false
}

// odd says why a line may not begin at the indentation, and closes the levels that the line ends.
func (o *outline) odd(indent int, text string) (why, fix string) {
	switch {
	case o.flow > 0:
		return "", ""
	case len(o.open) == 0:
		o.open = []level{{indent, isElement(text)}}
		return "", ""
	}
	last := o.open[len(o.open)-1].indent
	switch {
	case indent > last && o.below:
		o.open = append(o.open, level{indent, isElement(text)})
		return "", ""
	case indent > last && !isKey(text): // a text may continue over several lines
		return "", ""
	case indent > last:
		return "this line is indented further than the one above, which has a value of its own",
			fmt.Sprintf("begin it in column %d, aligned with the keys above it", last+1)
	}
	for len(o.open) > 0 && o.open[len(o.open)-1].indent > indent {
		last, o.open = o.open[len(o.open)-1].indent, o.open[:len(o.open)-1]
	}
	if n := len(o.open); n > 0 && o.open[n-1].indent == indent {
		if !o.open[n-1].list || isElement(text) {
			return "", ""
		}
		return `this line is in line with the "-" of a list and has none itself`, fmt.Sprintf("begin it in column %d, aligned with the keys of the element above", last+1)
	}
	return "this line is aligned with none of the lines above it", fmt.Sprintf("begin it in column %d, aligned with the keys that it belongs to", last+1)
}

// follow opens the levels of a line.
func (o *outline) follow(indent int, text string) {
	if o.flow == 0 {
		for strings.HasPrefix(text, "- ") {
			rest := strings.TrimLeft(text[2:], " ")
			indent += len(text) - len(rest)
			if text = rest; isKey(text) {
				o.open = append(o.open, level{indent: indent})
			}
		}
	}
	text = withoutComment(text)
	o.flow = max(0, o.flow+strings.Count(text, "[")+strings.Count(text, "{")-strings.Count(text, "]")-strings.Count(text, "}"))
	o.below = strings.HasSuffix(text, ":") || text == "-"
	if key, style, ok := strings.Cut(text, ": "); ok && key != "" {
		if style = strings.TrimSpace(style); style != "" && strings.Trim(style, "|>+-0123456789") == "" && strings.ContainsAny(style[:1], "|>") {
			o.block = indent
		}
	}
}

func isElement(text string) bool { return text == "-" || strings.HasPrefix(text, "- ") }

// isKey reports whether a line begins with a key or is a list's element.
func isKey(text string) bool {
	key, _, ok := strings.Cut(withoutComment(text)+" ", ": ")
	return isElement(text) || ok && key != "" && !strings.ContainsAny(key, " ?(<>=")
}

func withoutComment(text string) string {
	text, _, _ = strings.Cut(text, " #")
	return strings.TrimRight(text, " \r")
}
