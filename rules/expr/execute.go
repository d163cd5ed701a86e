package expr

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"

	"github.com/expr-lang/expr/ast"
)

// executable rewrites a resolved tree for execution. Operators and functions become calls of Go functions (compute.go,
// functions.go), so that their behavior is defined in one place, independent of the library. The calls accept any
// values: a missing field is not an error, but makes comparisons false (== and != test for it) and calculations and
// functions missing. A value of the wrong kind is an error. The library handles names, constants, and, or, not, ?? and
// ?:.
//
// known means that the expression must distinguish false from unknown because a field is missing: unknown is nil
// (Kleene's three-valued logic).
type executable struct {
	known   bool
	vars    int
	bools   map[ast.Node]bool                 // calls that return true or false
	members map[*ast.CallNode]*ast.MemberNode // original form of calls of fetch: the callee of a method
	names   *Names
}

func newExecutable(known bool, names *Names) *executable {
	return &executable{known: known, names: names, bools: map[ast.Node]bool{}, members: map[*ast.CallNode]*ast.MemberNode{}}
}

// Visit is called for every node, children first.
func (p *executable) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.BinaryNode:
		p.binary(node, n)
	case *ast.UnaryNode:
		p.unary(node, n)
	case *ast.ConditionalNode:
		if !p.known {
			n.Cond = p.truth(n.Cond)
			return
		}
		v := p.variable(n.Cond)
		n.Cond = at(n, &ast.BinaryNode{Operator: "??", Left: v.name(), Right: at(n, &ast.BoolNode{})})
		missing := at(n, &ast.BinaryNode{Operator: "==", Left: v.name(), Right: at(n, &ast.NilNode{})})
		*node = v.in(at(n, &ast.ConditionalNode{Ternary: true, Cond: missing, Exp1: at(n, &ast.NilNode{}), Exp2: n}))
	case *ast.MemberNode:
		c := p.call(node, fetch, n.Node, n.Property)
		p.members[c] = n
	case *ast.ChainNode:
		*node = n.Node
	case *ast.SliceNode:
		p.call(node, part, n.Node, orNil(n.From, n), orNil(n.To, n))
	case *ast.CallNode:
		p.method(node, n)
	case *ast.BuiltinNode:
		p.function(node, n.Name, n.Arguments)
	}
}

// orNil returns n, or nil as a constant for a bound of [a:b] that is left out.
func orNil(n, beside ast.Node) ast.Node {
	if n == nil {
		return at(beside, &ast.NilNode{})
	}
	return n
}

func (p *executable) call(node *ast.Node, fn any, args ...ast.Node) *ast.CallNode {
	for i := range args {
		if c, ok := args[i].(*ast.ConstantNode); ok {
			if l, ok := c.Value.(*List); ok {
				args[i] = at(c, &ast.ConstantNode{Value: l.values})
			}
		}
	}
	c := &ast.CallNode{Callee: at(*node, &ast.ConstantNode{Value: fn}), Arguments: args}
	*node = at(*node, c)
	return c
}

// compareBy replaces a node by a call that returns true or false; with known, nil if an operand is missing.
func (p *executable) compareBy(node *ast.Node, fn func(a, b any) bool, a, b ast.Node) {
	if !p.known {
		p.bools[p.call(node, fn, a, b)] = true
		return
	}
	p.call(node, func(a, b any) any {
		if a == nil || b == nil {
			return nil
		}
		return fn(a, b)
	}, a, b)
}

var comparisons = map[string]func(a, b any) bool{
	"<": less, "<=": lessOrEqual, ">": greater, ">=": greaterOrEqual,
	"contains": contains, "startsWith": startsWith, "endsWith": endsWith,
}

var calculations = map[string]func(a, b any) any{
	"+": add, "-": subtract, "*": multiply, "/": divide, "%": remainder, "**": power, "^": power,
}

func (p *executable) binary(node *ast.Node, n *ast.BinaryNode) {
	if fn := comparisons[n.Operator]; fn != nil {
		p.compareBy(node, fn, n.Left, n.Right)
		return
	}
	if fn := calculations[n.Operator]; fn != nil {
		if !fold(node, fn, n.Left, n.Right) {
			p.call(node, fn, n.Left, n.Right)
		}
		return
	}
	switch n.Operator {
	case "==", "!=":
		p.equality(node, n)
	case "in":
		p.in(node, n)
	case "matches":
		p.matches(node, n)
	case "and", "&&", "or", "||":
		p.junction(node, n, n.Operator == "or" || n.Operator == "||")
	}
}

// equality tests for a missing field only if it is compared with nil itself.
func (p *executable) equality(node *ast.Node, n *ast.BinaryNode) {
	fn := equal
	if n.Operator == "!=" {
		fn = unequal
	}
	_, left := n.Left.(*ast.NilNode)
	_, right := n.Right.(*ast.NilNode)
	if left || right {
		p.bools[p.call(node, fn, n.Left, n.Right)] = true
		return
	}
	p.compareBy(node, fn, n.Left, n.Right)
}

func (p *executable) in(node *ast.Node, n *ast.BinaryNode) {
	fn := membership(n.Right)
	if fn == nil {
		p.compareBy(node, element, n.Left, n.Right)
		return
	}
	if p.known {
		p.call(node, func(v any) any {
			if v == nil {
				return nil
			}
			return fn(v)
		}, n.Left)
		return
	}
	p.bools[p.call(node, fn, n.Left)] = true
}

// membership returns a lookup in a constant list; nil if the list is not constant.
func membership(of ast.Node) func(v any) bool {
	l := NewList()
	switch of := of.(type) {
	case *ast.ConstantNode:
		if list, ok := of.Value.(*List); ok {
			return list.contains
		}
		return nil
	case *ast.ArrayNode:
		for _, n := range of.Nodes {
			v, ok := constant(n)
			if !ok {
				return nil
			}
			l.add(v)
		}
		return l.contains
	case *ast.BinaryNode:
		lo, okLo := of.Left.(*ast.IntegerNode)
		hi, okHi := of.Right.(*ast.IntegerNode)
		if of.Operator == ".." && okLo && okHi {
			return func(v any) bool {
				i, ok := v.(int)
				return ok && i >= lo.Value && i <= hi.Value
			}
		}
	}
	return nil
}

func (p *executable) matches(node *ast.Node, n *ast.BinaryNode) {
	pattern, ok := n.Right.(*ast.StringNode)
	if !ok {
		return // already reported
	}
	re, err := regexp.Compile(pattern.Value)
	if err != nil {
		return // already reported
	}
	each := max(1, steps(pattern.Value))
	longest := maxMatching / each
	p.compareBy(node, func(v, left any) bool {
		if v == nil {
			return false
		}
		s := text(v)
		if len(s) > longest {
			fail("the pattern takes texts of at most %d bytes, this one has %d", longest, len(s))
		}
		if w, ok := left.(*work); ok && !w.spend(len(s)*each*workOfStep) {
			fail("all patterns of the rule together take too long for this message")
		}
		return re.MatchString(s)
	}, n.Left, at(n, &ast.IdentifierNode{Value: workName}))
}

// maxMatching bounds the work of matching a text against a pattern: steps of the pattern times bytes of the text, since
// RE2's time is proportional to both. 1<<24 takes half a second at worst; a pattern of 60 steps can process the largest
// message.
const maxMatching = 1 << 24

// steps returns the number of instructions of a compiled pattern.
func steps(pattern string) int {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return maxMatching
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return maxMatching
	}
	return len(prog.Inst)
}

// junction handles and, or. It evaluates the right side only if the left one does not decide.
func (p *executable) junction(node *ast.Node, n *ast.BinaryNode, or bool) {
	if !p.known {
		n.Left, n.Right = p.truth(n.Left), p.truth(n.Right)
		return
	}
	v := p.variable(n.Left)
	decided := at(n, &ast.BinaryNode{Operator: "??", Left: v.name(), Right: at(n, &ast.BoolNode{Value: !or})})
	rest := ast.Node(n)
	p.call(&rest, func(a, b any) any {
		switch b := truth(b).(type) {
		case bool:
			if b == or {
				return or
			}
			return truth(a)
		}
		return nil
	}, v.name(), n.Right)
	yes, no := at(n, &ast.BoolNode{Value: true}), rest
	if !or {
		yes, no = rest, at(n, &ast.BoolNode{})
	}
	*node = v.in(at(n, &ast.ConditionalNode{Ternary: true, Cond: decided, Exp1: yes, Exp2: no}))
}

// truth returns true, false or nil; other values are an error.
func truth(v any) any {
	if _, ok := v.(bool); !ok && v != nil {
		fail("%s where true or false is needed", typeOf(v))
	}
	return v
}

func (p *executable) unary(node *ast.Node, n *ast.UnaryNode) {
	switch n.Operator {
	case "not", "!":
		if p.known {
			p.call(node, func(v any) any {
				if b, ok := truth(v).(bool); ok {
					return !b
				}
				return nil
			}, n.Node)
			return
		}
		n.Node = p.truth(n.Node)
	case "-":
		if !fold(node, func(_, v any) any { return negate(v) }, n.Node, n.Node) {
			p.call(node, negate, n.Node)
		}
	default:
		p.call(node, func(v any) any { return add(v, 0) }, n.Node)
	}
}

// fold evaluates an operation on constants.
func fold(node *ast.Node, fn func(a, b any) any, left, right ast.Node) bool {
	a, okA := number(left)
	b, okB := number(right)
	if !okA || !okB {
		return false
	}
	switch v := fn(a, b).(type) {
	case int:
		*node = at(*node, &ast.IntegerNode{Value: v})
	case float64:
		*node = at(*node, &ast.FloatNode{Value: v})
	default:
		return false
	}
	return true
}

// number returns the value of a constant number.
func number(n ast.Node) (any, bool) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		return n.Value, true
	case *ast.FloatNode:
		return n.Value, true
	}
	return nil, false
}

// constant returns the value of a constant number, text, true or false.
func constant(n ast.Node) (any, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.BoolNode:
		return n.Value, true
	case *ast.UnaryNode:
		if v, ok := number(n.Node); ok && n.Operator == "-" {
			return negate(v), true
		}
	}
	return number(n)
}

// method replaces methods of times and functions that the library does not have.
func (p *executable) method(node *ast.Node, n *ast.CallNode) {
	switch callee := n.Callee.(type) {
	case *ast.IdentifierNode:
		p.function(node, callee.Value, n.Arguments)
	case *ast.CallNode:
		if m := p.members[callee]; m != nil {
			if name, ok := m.Property.(*ast.StringNode); ok {
				p.call(node, method(name.Value), m.Node)
			}
		}
	}
}

func (p *executable) function(node *ast.Node, name string, args []ast.Node) {
	f, b := functions[name], p.names.Calls[name]
	switch {
	case b.inside != nil && len(args) == 2:
		p.compareBy(node, b.inside, args[0], args[1])
	case b.lookup != nil && len(args) == 1:
		p.call(node, b.lookup, args...)
	case name == "hash" && len(args) == 2:
		keys := testKey()
		if p.names.HashKeys != nil {
			keys = *p.names.HashKeys
		}
		p.call(node, keys.hash, args...)
	case name == "at_zone":
		if zone := zoneOf(args); zone != nil {
			p.call(node, inZone(zone), args[0])
		}
	default:
		if fn := f.lifted(len(args)); fn != nil {
			p.call(node, fn, args...)
		}
	}
}

// lifted returns the function of n arguments, which is nil if one of them is; nil if there is none.
func (f function) lifted(n int) any {
	switch {
	case n == 1 && f.one != nil && f.nilToo:
		return f.one
	case n == 1 && f.one != nil:
		return func(v any) any {
			if v == nil {
				return nil
			}
			return f.one(v)
		}
	case n == 2 && f.two != nil:
		return func(a, b any) any {
			if a == nil || b == nil {
				return nil
			}
			return f.two(a, b)
		}
	case f.many != nil:
		return func(args ...any) any {
			if slices.Contains(args, nil) {
				return nil
			}
			return f.many(args...)
		}
	}
	return nil
}

// variable is an operand that is evaluated once, into a variable with a name that no source can use.
type variable struct{ *ast.VariableDeclaratorNode }

func (p *executable) variable(value ast.Node) variable {
	p.vars++
	return variable{&ast.VariableDeclaratorNode{Name: "$" + strconv.Itoa(p.vars), Value: value}}
}

func (v variable) name() ast.Node { return at(v.Value, &ast.IdentifierNode{Value: v.Name}) }

func (v variable) in(n ast.Node) ast.Node {
	v.Expr = n
	return at(n, v.VariableDeclaratorNode)
}

// truth turns nil into false.
func (p *executable) truth(n ast.Node) ast.Node {
	if !p.mayBeNil(n) {
		return n
	}
	return at(n, &ast.BinaryNode{Operator: "??", Left: n, Right: at(n, &ast.BoolNode{})})
}

func at(old, n ast.Node) ast.Node {
	n.SetLocation(old.Location())
	return n
}

// mayBeNil reports whether a node's value can be nil. When in doubt it returns true.
func (p *executable) mayBeNil(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BoolNode:
		return false
	case *ast.IdentifierNode:
		return baseNames[n.Value] != symRetain
	case *ast.CallNode:
		return !p.bools[n]
	case *ast.UnaryNode:
		return n.Operator != "not" && n.Operator != "!"
	case *ast.BinaryNode:
		switch n.Operator {
		case "and", "&&", "or", "||":
			return false
		case "??":
			return p.mayBeNil(n.Right)
		}
	case *ast.ConditionalNode:
		return p.mayBeNil(n.Exp1) || p.mayBeNil(n.Exp2)
	case *ast.VariableDeclaratorNode:
		return p.mayBeNil(n.Expr)
	}
	return true
}
