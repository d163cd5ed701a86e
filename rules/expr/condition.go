package expr

import (
	"math"
	"reflect"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
)

// Condition is what can be told of a condition without the virtual machine. A condition is a conjunction of clauses. The
// leading ones that compare a name with constants are Clauses; they are decided from what Scope.Look gives, and as long as
// the names are of the kinds that Needs tells, neither they nor the names that the rest uses can give an error. So a
// message for which one of them does not hold need not be evaluated. Of a zone its box is a clause, of a table's column the keys.
type Condition struct {
	Clauses []Clause
	Needs   []Need
	// Whole says that the clauses are all that there is.
	Whole bool
	// Common is the first clause that they do not decide, when other conditions have it there too: one evaluation a message
	// serves all. Where it is false, so is the condition. Names.Share sets it.
	Common *Expression
	rest   string // that clause as it is written, "" when it is not known
	code   uint64 // equal for those of equal meaning
}

// Clause holds when one of its tests does.
type Clause []Test

// Need tells the kinds of value of a name with which a condition's clauses cannot give an error.
type Need struct {
	Symbol uint16
	Kinds  Kind
}

// TestOp is how a test compares.
type TestOp uint8

// The comparisons. Missing passes none of them but a negated one.
const (
	Within  TestOp = iota + 1 // a number between Low and High
	Equals                    // the Text
	OneOf                     // a text of Texts, or a number of Numbers
	IsBool                    // the Bool
	IsThere                   // anything but nil
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

// Identity tells lists of texts and numbers apart.
func (t *Test) Identity() uintptr {
	return reflect.ValueOf(t.Texts).Pointer() ^ reflect.ValueOf(t.Numbers).Pointer()
}

// Bound is an end of a range.
type Bound struct {
	At   float64
	Open bool // At itself is outside
}

// Holds decides a test on a value of a kind that the condition's Needs allow.
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

// condition analyses a resolved tree; nil when nothing can be told of it.
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
			kinds, tested = anyScalar, true // its value alone can be an error
		}
		if used[i].kind == symLateMS || used[i].kind == symEventAt {
			kinds &^= Missing // compiled as a number or a time, for which nil may be an error
		}
		if tested {
			c.Needs = append(c.Needs, Need{sym, kinds})
		}
	}
	return c
}

// behind finds the first clause that is not known. A macro of several clauses hides it.
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

// Share finds what several conditions of rules with these names have in common, so that it is evaluated once a message.
// Conditions of which nothing is known then are nil.
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

// analysis takes a condition apart.
type analysis struct {
	names    *Names
	resolver *resolver
	clauses  []Clause
	needs    map[uint16]Kind
	seen     int  // conjuncts that are decided, or narrowed, by the clauses
	open     bool // some conjunct is not decided by them
	first    int  // the first such
}

// conjunction collects the leading clauses; it reports whether they are all.
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

// add adds a clause, and the kinds of value with which it gives no error.
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

// kinds are those with which a test cannot give an error. They are those that it is meant for: what else a comparison makes
// of them is for the virtual machine to say.
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

// turned are the comparisons with their sides changed.
var turned = map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

// symbol is the symbol that a node is, if it is one that can be looked at.
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

// comparison is the test of a symbol against a constant.
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

// list reads a list of constants.
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

// sorted sorts the values of a list that has a name, once for all who use it.
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

// sort tells texts from numbers.
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

// maxExact is the largest whole number up to which a float64 holds every one.
const maxExact = 1 << 53

// numberOf reads a constant that a float64 holds exactly.
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

// calculate joins two whole constants, as in 5 * 60 * 1000.
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

// exact reports whether a number is one of those that a float64 tells apart.
func exact(v float64) bool { return math.Abs(v) < maxExact }
