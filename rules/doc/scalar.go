package doc

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"cellgate/broker/shared/message/duration"
)

// Scalar is a YAML value with its position, so that an offset in the value can be converted to a position in the file.
type Scalar struct {
	Value string
	Line  int // of the first character of the token
	Col   int
	style token.Type
	Kind  scalarKind
	many  bool // plain or quoted text on several lines
	Lines []string
}

type scalarKind uint8

// Kinds of scalars.
const (
	textScalar scalarKind = iota
	NumberScalar
	BoolScalar
	nullScalar
)

// Scalar reads a scalar node.
func (d *Document) Scalar(n ast.Node, what string) (Scalar, bool) {
	n, ok := d.plain(n)
	if !ok {
		return Scalar{}, false
	}
	t := n.GetToken()
	s := Scalar{style: t.Type, Lines: d.Lines}
	s.Line, s.Col = t.Position.Line, t.Position.Column
	switch n := n.(type) {
	case *ast.StringNode:
		s.Value = n.Value
		s.many = strings.Contains(strings.TrimSpace(t.Origin), "\n")
	case *ast.LiteralNode:
		s.Value = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		s.Value, s.Kind = t.Value, NumberScalar
	case *ast.BoolNode:
		s.Value, s.Kind = t.Value, BoolScalar
	case *ast.NullNode:
		s.Value, s.Kind = "", nullScalar
	case *ast.MappingKeyNode:
		d.FailAt(n, CodeYAMLFeature, "write key: value", `keys after "?" are not supported`)
		return Scalar{}, false
	default:
		d.FailAt(n, CodeWrongType, "", "%s must be a single value, this is %s", what, kindName(n))
		return Scalar{}, false
	}
	return s, true
}

// At returns the position in the file of the character at index (in runes) in the value.
func (s *Scalar) At(index int) (line, col int) {
	switch s.style {
	case token.LiteralType:
		return s.inBlock(index)
	case token.SingleQuoteType, token.DoubleQuoteType:
		return s.Line, s.Col + 1 + s.inQuotes(index)
	default:
		return s.Line, s.Col + index
	}
}

// inBlock returns the position of a character in a "|" block, whose lines are indented in the file.
func (s *Scalar) inBlock(index int) (line, col int) {
	for i, text := range strings.Split(s.Value, "\n") {
		n := utf8.RuneCountInString(text)
		if index > n {
			index -= n + 1
			continue
		}
		line = s.Line + 1 + i
		if line > len(s.Lines) {
			break
		}
		raw := strings.TrimRight(s.Lines[line-1], "\r")
		indent := utf8.RuneCountInString(raw) - n
		return line, max(indent, 0) + index + 1
	}
	return s.Line, s.Col
}

// Quoted reports whether the value is in quotes.
func (s *Scalar) Quoted() bool {
	return s.style == token.SingleQuoteType || s.style == token.DoubleQuoteType
}

// inQuotes returns the length in the file of the first index characters of a quoted value.
func (s *Scalar) inQuotes(index int) int {
	raw := []rune(s.Lines[s.Line-1])
	start := min(s.Col, len(raw))
	pos := start
	for ; index > 0 && pos < len(raw); index-- {
		pos += s.escape(raw[pos:])
	}
	return pos - start
}

// escape returns the length of the escape sequence or single character at the start of raw.
func (s *Scalar) escape(raw []rune) int {
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

// Range of durations in rules.
const (
	minDuration = time.Millisecond
	MaxDuration = 10 * 365 * 24 * time.Hour
)

// Duration reads the duration of a key: Go's units, and d for days.
func (o *Object) Duration(key string) (time.Duration, bool) {
	s, ok := o.Text(key)
	if !ok {
		return 0, false
	}
	return o.Doc.duration(s)
}

func (d *Document) duration(s Scalar) (time.Duration, bool) {
	v, ok := ParseDuration(s.Value)
	switch {
	case !ok:
		d.Fail(s.Line, s.Col, CodeBadDuration, meantDuration(s.Value), "%q is not a duration", s.Value)
	case v < minDuration || v > MaxDuration:
		d.Fail(s.Line, s.Col, CodeBadDuration, "", "%s is out of range: from 1ms to 3650d", s.Value)
	default:
		return v, true
	}
	return 0, false
}

// durationWords maps unit words, in lower case, to units.
var durationWords = map[string]string{
	"ms": "ms", "msec": "ms", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "sek": "s", "sekunden": "s",
	"min": "m", "mins": "m", "minute": "m", "minutes": "m", "minuten": "m",
	"h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "stunde": "h", "stunden": "h", "std": "h",
	"d": "d", "day": "d", "days": "d", "tag": "d", "tage": "d",
}

// meantDuration suggests how to write an invalid duration.
func meantDuration(s string) string {
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit := durationWords[strings.ToLower(strings.TrimSpace(s[len(number):]))]
	if meant := strings.Replace(number, ",", ".", 1) + unit; unit != "" {
		if _, ok := ParseDuration(meant); ok {
			return fmt.Sprintf("did you mean %s?", meant)
		}
	}
	return "write a number and a unit: 500ms, 10s, 5m, 24h, 7d"
}

// ParseDuration parses a duration. It accepts negative ones, so that they are reported as out of range rather than
// malformed.
func ParseDuration(s string) (time.Duration, bool) {
	plain, negative := strings.CutPrefix(s, "-")
	v, err := duration.Parse(plain)
	if negative {
		v = -v
	}
	return v, err == nil
}

// Integer reads the whole number of a key, within a range.
func (o *Object) Integer(key string, lo, hi int) (int, bool) {
	s, ok := o.Text(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(strings.ReplaceAll(s.Value, "_", ""))
	if err != nil || n < lo || n > hi {
		o.Doc.Fail(s.Line, s.Col, CodeBadNumber, "", "%s must be a whole number from %d to %d", key, lo, hi)
		return 0, false
	}
	return n, true
}

// ValidName reports whether s is a valid name in expressions.
func ValidName(s string) bool {
	for i, r := range s {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// ValidID reports whether s is a valid rule id: at most 64 letters and digits, with "-", "_" and "." inside.
func ValidID(s string) bool {
	for i, r := range s {
		letter := (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9')
		if !letter && (i == 0 || (r != '-' && r != '_' && r != '.')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// Expression reads a scalar that must be an expression.
func (d *Document) Expression(n ast.Node, what string) (Scalar, bool) {
	switch n.(type) {
	case *ast.SequenceNode, *ast.MappingNode:
		d.FailAt(n, CodeWrongType, "an expression that begins with a bracket or brace needs single quotes: '[payload.a, payload.b]'",
			"%s must be an expression, this is %s", what, kindName(n))
		return Scalar{}, false
	}
	s, ok := d.Scalar(n, what)
	if !ok {
		return s, false
	}
	if lit, isLit := n.(*ast.LiteralNode); isLit && strings.HasPrefix(lit.Start.Value, ">") || s.many {
		d.Fail(s.Line, s.Col, CodeFolded, `write it on one line, or below "|"`,
			"an expression over several lines must be below \"|\": folding hides where its lines begin")
		return s, false
	}
	if s.Kind == nullScalar || strings.TrimSpace(s.Value) == "" {
		d.Fail(s.Line, s.Col, CodeMissing, "write an expression, or remove the key", "%s is empty", what)
		return s, false
	}
	return s, true
}

// Expr reads the expression of a key; nil if it is absent or has been reported.
func (o *Object) Expr(key string) *Scalar {
	n, ok := o.Values[key]
	if !ok {
		return nil
	}
	s, ok := o.Doc.Expression(n, fmt.Sprintf("%q", key))
	if !ok {
		return nil
	}
	return &s
}

// Optional reads an optional text.
func (o *Object) Optional(key string, to *string) {
	if s, ok := o.Text(key); ok {
		*to = s.Value
	}
}

// Text returns the value without surrounding blanks. s may be nil.
func (s *Scalar) Text() string {
	if s == nil {
		return ""
	}
	return strings.TrimSpace(s.Value)
}
