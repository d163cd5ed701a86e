package expr

import (
	"slices"

	"github.com/expr-lang/expr/ast"
	"github.com/valyala/fastjson"

	"cellgate/rules/doc"
)

// passed is an expression that passes payload values on or selects among them. These values stay as received, decimals
// and long whole numbers with all digits; computed values use the numbers of expressions.
type passed struct {
	kind   passedKind
	symbol uint16 // for passedField and passedGiven
	expr   *Expression
	items  []*passed
	names  []string
}

type passedKind uint8

const (
	passedComputed passedKind = iota // computed by expr
	passedField                      // a payload field, or the payload
	passedGiven                      // operator.x
	passedItem                       // item, or a field of item
	passedEither                     // items[0] ?? items[1]
	passedChoice                     // expr ? items[0] : items[1]
	passedList
	passedObject
)

// passing analyses an expression's tree as written; nil if it passes nothing on.
func (n *Names) passing(d *doc.Document, tree ast.Node) *passed {
	p := &passed{}
	if !n.part(d, tree, p) || !p.passes() {
		return nil
	}
	return p
}

func (p *passed) passes() bool {
	if p.kind == passedField || p.kind == passedGiven || p.kind == passedItem {
		return true
	}
	for _, item := range p.items {
		if item.passes() {
			return true
		}
	}
	return false
}

// part analyses a part of a tree; false if it cannot.
func (n *Names) part(d *doc.Document, tree ast.Node, p *passed) bool {
	switch t := tree.(type) {
	case *ast.IdentifierNode:
		if i := slices.IndexFunc(n.Macros, func(m Macro) bool { return m.Name.Value == t.Value }); i >= 0 {
			inner := *n
			inner.Macros = n.Macros[:i]
			tree, err := parseExpr(n.Macros[i].Expr.Value)
			return err == nil && inner.part(d, tree.Node, p)
		}
	case *ast.BinaryNode:
		if t.Operator == "??" {
			return n.parts(d, p, passedEither, t.Left, t.Right)
		}
	case *ast.ConditionalNode:
		p.expr = n.leaf(d, t.Cond)
		return p.expr != nil && n.parts(d, p, passedChoice, t.Exp1, t.Exp2)
	case *ast.ArrayNode:
		return n.parts(d, p, passedList, t.Nodes...)
	case *ast.MapNode:
		names, values, ok := fieldsOf(t)
		p.names = names
		return ok && n.parts(d, p, passedObject, values...)
	}
	p.expr = n.leaf(d, tree)
	if p.expr == nil {
		return false
	}
	if p.expr.whole >= 0 {
		p.kind, p.symbol = passedField, uint16(p.expr.whole) //nolint:gosec // a symbol
		switch n.Symbols.List[p.symbol].kind {
		case symOperator:
			p.kind = passedGiven
		case symItem:
			p.kind = passedItem
		}
	}
	return true
}

// fieldsOf returns the names and values of an object; false if a name is not a text.
func fieldsOf(object *ast.MapNode) (names []string, values []ast.Node, ok bool) {
	for _, node := range object.Pairs {
		pair, _ := node.(*ast.PairNode)
		if pair == nil {
			return nil, nil, false
		}
		name, ok := pair.Key.(*ast.StringNode)
		if !ok {
			return nil, nil, false
		}
		names, values = append(names, name.Value), append(values, pair.Value)
	}
	return names, values, true
}

func (n *Names) parts(d *doc.Document, p *passed, kind passedKind, trees ...ast.Node) bool {
	p.kind = kind
	for _, t := range trees {
		item := &passed{}
		if !n.part(d, t, item) {
			return false
		}
		p.items = append(p.items, item)
	}
	return true
}

// leaf compiles a part as an expression of its own.
func (n *Names) leaf(d *doc.Document, tree ast.Node) *Expression {
	text := tree.String()
	return n.compile(d.Silent(), &doc.Scalar{Value: text, Lines: []string{text}}, WantAny)
}

// PassOn evaluates an expression and keeps passed values as they are: it returns a *fastjson.Value of the payload,
// RawJSON of an operator, lists and objects of these, or a result of Run. The value is valid until the next record.
func (sc *Scope) PassOn(e *Expression) (any, error) {
	switch {
	case e.Field >= 0:
		return sc.passField(uint16(e.Field)) //nolint:gosec // a symbol
	case e.passed != nil:
		return sc.pass(e.passed)
	}
	return sc.Run(e)
}

// passField returns a field as received, nil if it is missing.
func (sc *Scope) passField(symbol uint16) (any, error) {
	v, err := sc.field(symbol)
	if err != nil || v == nil || v.Type() == fastjson.TypeNull {
		return nil, err
	}
	if s := &sc.symbols[symbol]; s.bounds != nil {
		if n, err := sc.typed(s, v); n == nil || err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (sc *Scope) pass(p *passed) (any, error) {
	switch p.kind {
	case passedField:
		return sc.passField(p.symbol)
	case passedItem:
		if v := fieldBelow(sc.item, sc.symbols[p.symbol].Path); v != nil && v.Type() != fastjson.TypeNull {
			return v, nil
		}
		return nil, nil //nolint:nilnil // missing
	case passedGiven:
		v := sc.given(sc.symbols[p.symbol].Path[0])
		if raw, ok := v.(RawJSON); ok && (len(raw) == 0 || string(raw) == "null") {
			return nil, nil //nolint:nilnil // missing
		}
		return v, nil
	case passedEither:
		v, err := sc.pass(p.items[0])
		if err != nil || v != nil {
			return v, err
		}
		return sc.pass(p.items[1])
	case passedChoice:
		holds, err := sc.Test(p.expr)
		if err != nil {
			return nil, err
		}
		if holds {
			return sc.pass(p.items[0])
		}
		return sc.pass(p.items[1])
	case passedList, passedObject:
		return sc.passAll(p)
	}
	return sc.Run(p.expr)
}

// passAll returns a list or an object of passed values.
func (sc *Scope) passAll(p *passed) (any, error) {
	list := make([]any, len(p.items))
	for i, item := range p.items {
		v, err := sc.pass(item)
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	if p.kind == passedList {
		return list, nil
	}
	object := make(map[string]any, len(list))
	for i, name := range p.names {
		object[name] = list[i]
	}
	return object, nil
}
