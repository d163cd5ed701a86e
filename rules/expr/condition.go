package expr

import (
	"math"
	"reflect"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
)

// Condition is the part of a condition that can be decided without the virtual machine. A condition is a conjunction of
// clauses. Clauses are the leading ones that compare a name with constants; the values come from Scope.Look. As long as
// the names have the kinds in Needs, neither the clauses nor the names in the rest can give an error, so a message that
// fails a clause need not be evaluated. A zone contributes its box as clauses, a table's column its keys.
type Condition struct {
	Clauses []Clause
	Needs   []Need
	// Whole means that the condition has no other clauses.
	Whole bool
	// Common is the first clause that Clauses do not decide, if other conditions have it in that place too. It is
	// evaluated once per message for all of them. If it is false, so is the condition. Names.Share sets it.
	Common *Expression
	rest   string // that clause as written; "" if unknown
	code   uint64 // equal for clauses of equal meaning
}

// Clause is a disjunction of tests.
type Clause []Test

// Need names the kinds of value with which a condition's clauses cannot give an error.
type Need struct {
	Symbol uint16
	Kinds  Kind
}

// TestOp is the comparison of a test.
type TestOp uint8

// Comparisons. A missing value passes only negated ones.
const (
	Within  TestOp = iota + 1 // a number between Low and High
	Equals                    // the Text
	OneOf                     // a text in Texts, or a number in Numbers
	IsBool                    // the Bool
	IsThere                   // not nil
)

// Test compares a name with constants.
type Test struct {
	Symbol uint16
	Op     TestOp
	Not    bool
	Low    Bound
	High   Bound
	Text   string
	Bool   bool
	Texts  map[string]struct{}
	// Numbers of OneOf; mixed lists have texts too.
	Numbers map[float64]struct{}
}

// Identity distinguishes lists of texts and numbers.
func (t *Test) Identity() uintptr {
	return reflect.ValueOf(t.Texts).Pointer() ^ reflect.ValueOf(t.Numbers).Pointer()
}

// Bound is one end of a range.
type Bound struct {
	At   float64
	Open bool // At is excluded
}

// Holds decides a test for a value of a kind in the condition's Needs.
func (t *Test) Holds(v *Seen) bool {
	var is bool
	switch t.Op {
	case Within:
		is = v.Kind == NumberKind && t.Low.below(v.Number) && t.High.above(v.Number)
	case Equals:
		is = v.Kind == TextKind && v.Text == t.Text
	case OneOf:
		switch v.Kind {
		case TextKind:
			_, is = t.Texts[v.Text]
		case NumberKind:
			_, is = t.Numbers[v.Number]
		}
	case IsBool:
		is = v.Kind == BoolKind && v.Bool == t.Bool
	case IsThere:
		is = v.Kind != Missing
	}
	return is != t.Not
}

func (b Bound) below(v float64) bool { return b.At < v || b.At == v && !b.Open }
func (b Bound) above(v float64) bool { return v < b.At || b.At == v && !b.Open }

// condition analyses a resolved tree; nil if nothing can be decided without evaluation.
func (n *Names) condition(src string, root ast.Node, r *resolver, used []Symbol) *Condition {
	for i := range used {
		if k := used[i].kind; k == symPayload || k == symOperator || k == symItem {
			return nil
		}
	}
	a := analysis{names: n, resolver: r, needs: map[uint16]Kind{}}
	a.conjunction(root)
	c := &Condition{Whole: !a.open, Clauses: a.clauses}
	if a.open {
		c.behind(src, root, a.first)
	}
	for i := range used {
		sym := n.Symbols.ByKey[used[i].key]
		kinds, tested := a.needs[sym]
		if !tested && used[i].kind == symField {
			kinds, tested = anyScalar, true // only its value can give an error
		}
		if used[i].kind == symLateMS || used[i].kind == symEventAt {
			kinds &^= Missing // compiled as a number or a time: nil may be an error
		}
		if tested {
			c.Needs = append(c.Needs, Need{sym, kinds})
		}
	}
	return c
}

// behind finds the first clause that is not decided. A macro with several clauses hides it.
func (c *Condition) behind(src string, root ast.Node, at int) {
	tree, err := parseExpr(src)
	if err != nil {
		return
	}
	written, meant := conjuncts(tree.Node, nil), conjuncts(root, nil)
	if len(written) == len(meant) && at < len(meant) {
		c.rest, c.code = written[at].String(), message.Hash(meant[at].String())
	}
}

// conjuncts appends the clauses of a conjunction.
func conjuncts(n ast.Node, out []ast.Node) []ast.Node {
	if b, ok := n.(*ast.BinaryNode); ok && (b.Operator == "and" || b.Operator == "&&") {
		return conjuncts(b.Right, conjuncts(b.Left, out))
	}
	return append(out, n)
}

// Share finds the clauses that several conditions of rules with these names share, so that they are evaluated once per
// message. It removes conditions that are then without any known clause.
func (n *Names) Share(whens []*Expression) {
	groups := map[uint64][]*Condition{}
	for _, e := range whens {
		if c := e.Condition; c != nil && c.rest != "" {
			groups[c.code] = append(groups[c.code], c)
		}
	}
	own := *n
	d := doc.New("", nil, func(doc.Diagnostic) {}, "a clause")
	for _, e := range whens {
		c := e.Condition
		if c == nil {
			continue
		}
		if group := groups[c.code]; c.rest != "" && len(group) > 1 && c == group[0] {
			common := own.compile(d, &doc.Scalar{Value: c.rest, Lines: []string{c.rest}}, WantBool)
			for _, other := range group {
				other.Common = common
			}
		}
		if len(c.Clauses) == 0 && c.Common == nil {
			e.Condition = nil
		}
	}
}

// analysis splits a condition into clauses.
type analysis struct {
	names    *Names
	resolver *resolver
	clauses  []Clause
	needs    map[uint16]Kind
	seen     int  // conjuncts that the clauses decide or narrow
	open     bool // a conjunct is not decided by the clauses
	first    int  // index of the first such conjunct
}

// conjunction collects the leading clauses and reports whether it reached the end.
func (a *analysis) conjunction(n ast.Node) bool {
	if b, ok := n.(*ast.BinaryNode); ok && (b.Operator == "and" || b.Operator == "&&") {
		return a.conjunction(b.Left) && a.conjunction(b.Right)
	}
	if a.inside(n) {
		if !a.open {
			a.open, a.first = true, a.seen
		}
		a.seen++
		return true
	}
	clause, ok := a.disjunction(n, nil)
	if !ok {
		if !a.open {
			a.open, a.first = true, a.seen
		}
		return false
	}
	a.seen++
	a.add(clause)
	return true
}

// add adds a clause, and the kinds of value for which it cannot fail.
func (a *analysis) add(clause Clause) {
	a.clauses = append(a.clauses, clause)
	for i := range clause {
		sym := clause[i].Symbol
		if _, known := a.needs[sym]; !known {
			a.needs[sym] = anyScalar
		}
		a.needs[sym] &= clause[i].kinds()
	}
}

// kinds returns the kinds of value for which a test cannot fail: those that it compares. For other kinds the virtual
// machine decides.
func (t *Test) kinds() Kind {
	switch t.Op {
	case Within:
		return Missing | NumberKind
	case Equals:
		return Missing | TextKind
	case OneOf:
		k := Missing
		if len(t.Texts) > 0 {
			k |= TextKind
		}
		if len(t.Numbers) > 0 {
			k |= NumberKind
		}
		return k
	case IsBool:
		return Missing | BoolKind
	}
	return anyScalar
}

func (a *analysis) disjunction(n ast.Node, c Clause) (Clause, bool) {
	if b, ok := n.(*ast.BinaryNode); ok && (b.Operator == "or" || b.Operator == "||") {
		c, ok = a.disjunction(b.Left, c)
		if !ok {
			return nil, false
		}
		return a.disjunction(b.Right, c)
	}
	t, ok := a.test(n)
	return append(c, t), ok
}

func (a *analysis) test(n ast.Node) (Test, bool) {
	switch n := n.(type) {
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			t, ok := a.test(n.Node)
			t.Not = !t.Not
			return t, ok
		}
	case *ast.IdentifierNode:
		sym, ok := a.symbol(n)
		return Test{Symbol: sym, Op: IsBool, Bool: true}, ok
	case *ast.BinaryNode:
		if sym, ok := a.symbol(n.Left); ok {
			return a.comparison(sym, n.Operator, n.Right)
		}
		if t, ok := a.column(n.Left, n.Operator, n.Right); ok {
			return t, true
		}
		if sym, ok := a.symbol(n.Right); ok {
			return a.comparison(sym, turned[n.Operator], n.Left)
		}
	}
	return Test{}, false
}

// turned maps comparisons to those with swapped operands.
var turned = map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

// symbol returns the symbol of a node; false if it is not a symbol that Look supports.
func (a *analysis) symbol(n ast.Node) (uint16, bool) {
	id, ok := n.(*ast.IdentifierNode)
	if !ok {
		return 0, false
	}
	key := id.Value
	if s, flat := a.resolver.flat[id]; flat {
		key = s.key
	} else if a.resolver.locals[key] {
		return 0, false
	}
	sym, ok := a.names.Symbols.ByKey[key]
	return sym, ok
}

// comparison returns the test of a symbol against a constant.
func (a *analysis) comparison(sym uint16, operator string, with ast.Node) (Test, bool) {
	t := Test{Symbol: sym, Not: operator == "!="}
	if operator == "in" {
		return t, a.list(&t, with)
	}
	if v, ok := numberOf(with); ok {
		t.Op, t.Low.At, t.High.At = Within, math.Inf(-1), math.Inf(1)
		switch operator {
		case "<", "<=":
			t.High = Bound{v, operator == "<"}
		case ">", ">=":
			t.Low = Bound{v, operator == ">"}
		case "==", "!=":
			t.Low.At, t.High.At = v, v
		default:
			return t, false
		}
		return t, true
	}
	if operator != "==" && operator != "!=" {
		return t, false
	}
	switch with := with.(type) {
	case *ast.StringNode:
		t.Op, t.Text = Equals, with.Value
	case *ast.BoolNode:
		t.Op, t.Bool = IsBool, with.Value
	case *ast.NilNode:
		t.Op, t.Not = IsThere, !t.Not
	default:
		return t, false
	}
	return t, true
}

func (a *analysis) list(t *Test, n ast.Node) bool {
	t.Op = OneOf
	switch n := n.(type) {
	case *ast.ConstantNode:
		switch values := n.Value.(type) {
		case map[string]struct{}:
			t.Texts = values
			return len(values) > 0
		case []any:
			return a.names.Symbols.sorted(values, t)
		}
	case *ast.ArrayNode:
		values := make([]any, len(n.Nodes))
		for i, item := range n.Nodes {
			if s, isText := item.(*ast.StringNode); isText {
				values[i] = s.Value
			} else if v, ok := numberOf(item); ok {
				values[i] = v
			}
		}
		return t.sort(values)
	}
	return false
}

// sorted splits the values of a named list by kind, once for all its uses.
func (t *Symbols) sorted(values []any, test *Test) bool {
	if len(values) == 0 {
		return false
	}
	known, ok := t.lists[&values[0]]
	if !ok {
		if !known.sort(values) {
			return false
		}
		if t.lists == nil {
			t.lists = map[*any]Test{}
		}
		t.lists[&values[0]] = known
	}
	test.Texts, test.Numbers = known.Texts, known.Numbers
	return true
}

// sort separates texts from numbers.
func (t *Test) sort(values []any) bool {
	t.Texts, t.Numbers = map[string]struct{}{}, map[float64]struct{}{}
	for _, v := range values {
		switch v := v.(type) {
		case string:
			t.Texts[v] = struct{}{}
		case int, float64:
			f, _ := float(v)
			if !exact(f) {
				return false
			}
			t.Numbers[f] = struct{}{}
		default:
			return false
		}
	}
	return len(values) > 0
}

// maxExact is 2^53: float64 represents every smaller whole number exactly.
const maxExact = 1 << 53

// numberOf reads a constant that a float64 represents exactly.
func numberOf(n ast.Node) (float64, bool) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		return float64(n.Value), exact(float64(n.Value))
	case *ast.FloatNode:
		return n.Value, exact(n.Value)
	case *ast.UnaryNode:
		v, ok := numberOf(n.Node)
		if n.Operator == "-" {
			v = -v
		}
		return v, ok && (n.Operator == "-" || n.Operator == "+")
	case *ast.BinaryNode:
		l, okLeft := numberOf(n.Left)
		r, okRight := numberOf(n.Right)
		if okLeft && okRight && l == math.Trunc(l) && r == math.Trunc(r) {
			return calculate(n.Operator, l, r)
		}
	}
	return 0, false
}

// calculate combines two whole constants, as in 5 * 60 * 1000.
func calculate(operator string, l, r float64) (float64, bool) {
	var v float64
	switch operator {
	case "+":
		v = l + r
	case "-":
		v = l - r
	case "*":
		v = l * r
	default:
		return 0, false
	}
	return v, exact(v)
}

// exact reports whether a float64 represents the number exactly.
func exact(v float64) bool { return math.Abs(v) < maxExact }
