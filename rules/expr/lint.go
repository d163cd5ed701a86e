package expr

import (
	"math"
	"regexp"
	"strings"

	"github.com/expr-lang/expr/ast"

	"cellgate/rules/doc"
)

// lint warns of expressions that probably do not mean what is intended. tree is the expression as written.
type lint struct {
	names *Names
	d     *doc.Document
	s     *doc.Scalar
}

func (n *Names) lint(d *doc.Document, s *doc.Scalar, e *Expression, w Want) {
	tree, err := parseExpr(s.Value)
	if err != nil {
		return
	}
	l := &lint{n, d, s}
	ast.Walk(&tree.Node, l)
	if w != WantAny {
		l.whole(tree.Node, e)
	} else {
		l.quoted(tree.Node)
	}
}

func (l *lint) warn(n ast.Node, code doc.Code, suggestion, format string, args ...any) {
	line, col := l.s.At(n.Location().From)
	l.d.Warn(line, col, code, suggestion, format, args...)
}

// Visit is called for every node.
func (l *lint) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == "late_ms" && l.names.Schema.EventAt == nil {
			l.warn(n, doc.CodeNoEventTime, "name the field with the vehicle's time at the top of the file: schema: {event_at: ts}",
				"late_ms is missing in every message: the schema names no event_at")
		}
	case *ast.SequenceNode:
		for _, part := range n.Nodes[:len(n.Nodes)-1] {
			l.warn(part, doc.CodeSequence, "join conditions with and, or", "only what follows the last ; counts, this does not")
		}
	case *ast.BinaryNode:
		l.binary(n)
	case *ast.ConditionalNode:
		l.constant(n.Cond)
	}
}

func (l *lint) binary(n *ast.BinaryNode) {
	switch n.Operator {
	case "and", "&&", "or", "||":
		l.constant(n.Left)
		l.constant(n.Right)
	case "==", "!=", "<", "<=", ">", ">=", "in":
		l.quoted(n.Left)
		l.quoted(n.Right)
		if n.Operator != "in" && !isConstant(n) && n.Left.String() == n.Right.String() {
			l.warn(n, doc.CodeConstant, "to test whether it exists write != nil", "this compares %s with itself", n.Left.String())
		}
	}
}

// nameLike matches a text that is probably meant as a name.
var nameLike = regexp.MustCompile(`^(payload|properties|operator)(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

// quoted warns of a name in quotes.
func (l *lint) quoted(n ast.Node) {
	if t, ok := n.(*ast.StringNode); ok && nameLike.MatchString(t.Value) {
		l.warn(n, doc.CodeQuotedName, "write "+t.Value+" without quotes", "%q is in quotes: it is a text, not the field", t.Value)
	}
}

// isConstant reports whether a node does not depend on the message.
func isConstant(n ast.Node) bool {
	constant := true
	ast.Walk(&n, collector(func(*ast.IdentifierNode) { constant = false }))
	return constant
}

// constant warns of a part that is always true or always false.
func (l *lint) constant(n ast.Node) {
	if value, ok := l.value(n); ok {
		l.warn(n, doc.CodeConstant, "remove it", "%s is always %t", shorten(n.String()), value)
	}
}

func (l *lint) value(n ast.Node) (value, ok bool) {
	if !isConstant(n) {
		return false, false
	}
	e := l.names.leaf(l.d, n)
	if e == nil || len(e.symbols) > 0 {
		return false, false
	}
	v, err := NewScope("", nil).Run(e)
	value, ok = v.(bool)
	return value, ok && err == nil
}

// whole warns of a condition that has the same result for all messages.
func (l *lint) whole(n ast.Node, e *Expression) {
	if value, ok := l.value(n); ok {
		suggestion := "to switch the rule off, write mode: disabled"
		if value {
			suggestion = "a rule without when takes every message"
		}
		l.warn(n, doc.CodeConstant, suggestion, "this condition is always %t", value)
	}
	if e.Condition == nil {
		return
	}
	if name := e.Condition.impossible(l.names.Symbols); name != "" {
		l.warn(n, doc.CodeConstant, "join them with or, if one of them is enough", "no value of %s satisfies all of these conditions: this is never true", name)
	}
	if name := e.Condition.certain(l.names.Symbols); name != "" {
		l.warn(n, doc.CodeConstant, "join them with and, or write not in [a, b]", "every value of %s satisfies one of these: this is always true", name)
	}
}

// impossible returns a symbol for which no value passes all tests.
func (c *Condition) impossible(symbols *Symbols) string {
	type asked struct {
		low, high Bound
		text      *Test
	}
	all := map[uint16]*asked{}
	for _, clause := range c.Clauses {
		if len(clause) != 1 || clause[0].Not {
			continue
		}
		t := &clause[0]
		a := all[t.Symbol]
		if a == nil {
			a = &asked{low: Bound{At: math.Inf(-1)}, high: Bound{At: math.Inf(1)}}
			all[t.Symbol] = a
		}
		switch t.Op {
		case Within:
			a.low, a.high = tighter(a.low, t.Low, 1), tighter(a.high, t.High, -1)
			if a.low.At > a.high.At || a.low.At == a.high.At && (a.low.Open || a.high.Open) {
				return symbols.shown(t.Symbol)
			}
		case Equals:
			if a.text != nil && a.text.Text != t.Text {
				return symbols.shown(t.Symbol)
			}
			a.text = t
		}
	}
	return ""
}

// tighter returns the tighter bound: the greater of two lower ones (sign 1), the smaller of two upper ones (-1).
func tighter(a, b Bound, sign float64) Bound {
	switch d := (b.At - a.At) * sign; {
	case d > 0:
		return b
	case d < 0:
		return a
	}
	return Bound{a.At, a.Open || b.Open}
}

// certain returns a symbol for which every value passes one of the tests, as in x != "a" or x != "b".
func (c *Condition) certain(symbols *Symbols) string {
	for _, clause := range c.Clauses {
		for i := range clause {
			for k := range clause[:i] {
				a, b := &clause[i], &clause[k]
				if a.Not && b.Not && a.Symbol == b.Symbol && a.Op == Equals && b.Op == Equals && a.Text != b.Text {
					return symbols.shown(a.Symbol)
				}
			}
		}
	}
	return ""
}

// shown returns a symbol's name as written.
func (t *Symbols) shown(symbol uint16) string {
	s := &t.List[symbol]
	if s.kind == symField {
		return FieldKey("payload", s.Path)
	}
	name, _, _ := strings.Cut(s.key, " ")
	return name
}
