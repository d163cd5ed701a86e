package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"cellgate/broker/message/duration"
)

// scalar is one value of a YAML file with its place, so that a position inside the value can be told as
// a position in the file.
type scalar struct {
	value string
	line  int // of the first character of the token
	col   int
	style token.Type
	kind  scalarKind
	many  bool // plain or quoted text over several lines
	lines []string
}

type scalarKind uint8

const (
	textScalar scalarKind = iota
	numberScalar
	boolScalar
	nullScalar
)

// scalar reads a scalar node.
func (d *document) scalar(n ast.Node, what string) (scalar, bool) {
	n, ok := d.plain(n)
	if !ok {
		return scalar{}, false
	}
	t := n.GetToken()
	s := scalar{style: t.Type, lines: d.lines}
	s.line, s.col = t.Position.Line, t.Position.Column
	switch n := n.(type) {
	case *ast.StringNode:
		s.value = n.Value
		s.many = strings.Contains(strings.TrimSpace(t.Origin), "\n")
	case *ast.LiteralNode:
		s.value = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		s.value, s.kind = t.Value, numberScalar
	case *ast.BoolNode:
		s.value, s.kind = t.Value, boolScalar
	case *ast.NullNode:
		s.value, s.kind = "", nullScalar
	case *ast.MappingKeyNode:
		d.failAt(n, CodeYAMLFeature, "write key: value", `keys after "?" are not supported`)
		return scalar{}, false
	default:
		d.failAt(n, CodeWrongType, "", "%s must be a single value, this is %s", what, kindName(n))
		return scalar{}, false
	}
	return s, true
}

// at returns the place in the file of the character with the given index (in runes) in the value.
func (s *scalar) at(index int) (line, col int) {
	switch s.style {
	case token.LiteralType:
		return s.inBlock(index)
	case token.SingleQuoteType, token.DoubleQuoteType:
		return s.line, s.col + 1 + s.inQuotes(index)
	default:
		return s.line, s.col + index
	}
}

// inBlock finds a character below "|": the value's lines stand in the file, indented.
func (s *scalar) inBlock(index int) (line, col int) {
	for i, text := range strings.Split(s.value, "\n") {
		n := utf8.RuneCountInString(text)
		if index > n {
			index -= n + 1
			continue
		}
		line = s.line + 1 + i
		if line > len(s.lines) {
			break
		}
		raw := strings.TrimRight(s.lines[line-1], "\r")
		indent := utf8.RuneCountInString(raw) - n
		return line, max(indent, 0) + index + 1
	}
	return s.line, s.col
}

// quoted reports whether the value stands between quotes.
func (s *scalar) quoted() bool {
	return s.style == token.SingleQuoteType || s.style == token.DoubleQuoteType
}

// inQuotes returns how many characters of the file stand for the first index characters of a quoted value.
func (s *scalar) inQuotes(index int) int {
	raw := []rune(s.lines[s.line-1])
	start := min(s.col, len(raw))
	pos := start
	for ; index > 0 && pos < len(raw); index-- {
		pos += s.escape(raw[pos:])
	}
	return pos - start
}

// escape is the length of the escape sequence or single character at the front of raw.
func (s *scalar) escape(raw []rune) int {
	switch {
	case s.style == token.SingleQuoteType && len(raw) > 1 && raw[0] == '\'' && raw[1] == '\'':
		return 2
	case s.style != token.DoubleQuoteType || raw[0] != '\\' || len(raw) < 2:
		return 1
	}
	switch raw[1] {
	case 'x':
		return 4
	case 'u':
		return 6
	case 'U':
		return 10
	}
	return 2
}

// Durations that a rule may name.
const (
	minDuration = time.Millisecond
	maxDuration = 10 * 365 * 24 * time.Hour
)

// duration reads a key's duration: Go's units and d for days.
func (o *object) duration(key string) (time.Duration, bool) {
	s, ok := o.text(key)
	if !ok {
		return 0, false
	}
	return o.d.duration(s)
}

func (d *document) duration(s scalar) (time.Duration, bool) {
	v, ok := parseDuration(s.value)
	switch {
	case !ok:
		d.fail(s.line, s.col, CodeBadDuration, meantDuration(s.value), "%q is not a duration", s.value)
	case v < minDuration || v > maxDuration:
		d.fail(s.line, s.col, CodeBadDuration, "", "%s is out of range: from 1ms to 3650d", s.value)
	default:
		return v, true
	}
	return 0, false
}

// durationWords are units as people write them, without their capitals.
var durationWords = map[string]string{
	"ms": "ms", "msec": "ms", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "sek": "s", "sekunden": "s",
	"min": "m", "mins": "m", "minute": "m", "minutes": "m", "minuten": "m",
	"h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "stunde": "h", "stunden": "h", "std": "h",
	"d": "d", "day": "d", "days": "d", "tag": "d", "tage": "d",
}

// meantDuration suggests how to write what is no duration.
func meantDuration(s string) string {
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := durationWords[strings.ToLower(strings.TrimSpace(s[len(number):]))]
	if meant := strings.Replace(number, ",", ".", 1) + unit; unit != "" {
		if _, ok := parseDuration(meant); ok {
			return fmt.Sprintf("did you mean %s?", meant)
		}
	}
	return "write a number and a unit: 500ms, 10s, 5m, 24h, 7d"
}

// parseDuration reads a negative one too: that is out of range, which says more than that it is none.
func parseDuration(s string) (time.Duration, bool) {
	plain, negative := strings.CutPrefix(s, "-")
	v, err := duration.Parse(plain)
	if negative {
		v = -v
	}
	return v, err == nil
}

// integer reads a key's whole number within a range.
func (o *object) integer(key string, lo, hi int) (int, bool) {
	s, ok := o.text(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(strings.ReplaceAll(s.value, "_", ""))
	if err != nil || n < lo || n > hi {
		o.d.fail(s.line, s.col, CodeBadNumber, "", "%s must be a whole number from %d to %d", key, lo, hi)
		return 0, false
	}
	return n, true
}

// validName reports whether s is a name that expressions can use.
func validName(s string) bool {
	for i, r := range s {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// validID reports whether s is a rule id: letters, digits, and inside it "-", "_" and ".", at most 64.
func validID(s string) bool {
	for i, r := range s {
		letter := (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9')
		if !letter && (i == 0 || (r != '-' && r != '_' && r != '.')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// expression reads a scalar that is to be an expression.
func (d *document) expression(n ast.Node, what string) (scalar, bool) {
	switch n.(type) {
	case *ast.SequenceNode, *ast.MappingNode:
		d.failAt(n, CodeWrongType, "an expression that begins with a bracket or brace stands between single quotes: '[payload.a, payload.b]'",
			"%s must be an expression, this is %s", what, kindName(n))
		return scalar{}, false
	}
	s, ok := d.scalar(n, what)
	if !ok {
		return s, false
	}
	if lit, isLit := n.(*ast.LiteralNode); isLit && strings.HasPrefix(lit.Start.Value, ">") || s.many {
		d.fail(s.line, s.col, CodeFolded, `write it on one line, or below "|"`,
			"an expression over several lines must stand below \"|\": folding hides where its lines begin")
		return s, false
	}
	if s.kind == nullScalar || strings.TrimSpace(s.value) == "" {
		d.fail(s.line, s.col, CodeMissing, "write an expression, or remove the key", "%s is empty", what)
		return s, false
	}
	return s, true
}

// expr reads the expression of a key; nil when it is absent or reported.
func (o *object) expr(key string) *scalar {
	n, ok := o.values[key]
	if !ok {
		return nil
	}
	s, ok := o.d.expression(n, fmt.Sprintf("%q", key))
	if !ok {
		return nil
	}
	return &s
}

// Optional reads a text that may be absent.
func (o *object) Optional(key string, to *string) {
	if s, ok := o.text(key); ok {
		*to = s.value
	}
}

func (s *scalar) text() string {
	if s == nil {
		return ""
	}
	return strings.TrimSpace(s.value)
}
