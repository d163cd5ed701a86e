package expr

import (
	"strconv"

	"github.com/expr-lang/expr/ast"
)

// nilSafe rewrites a resolved tree so that a missing field is no error: compared with anything it is
// false (but == and !=, which ask for it), in arithmetic and functions it gives nil, and where true or
// false is asked it is false. What is not missing but of the wrong kind stays an error.
//
// An operand that is more than a name is evaluated once, into a variable whose name no source can have.
type nilSafe struct {
	vars int
}

// Visit is called with every node, children first.
func (p *nilSafe) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.BinaryNode:
		p.binary(node, n)
	case *ast.UnaryNode:
		if n.Operator == "not" || n.Operator == "!" {
			n.Node = p.truth(n.Node)
		} else {
			p.guard(node, []*ast.Node{&n.Node}, &ast.NilNode{})
		}
	case *ast.ConditionalNode:
		n.Cond = p.truth(n.Cond)
	case *ast.MemberNode:
		if _, levels := n.Node.(*ast.IdentifierNode); !levels || mayBeNil(n.Node) {
			p.guard(node, []*ast.Node{&n.Node}, &ast.NilNode{})
		}
	case *ast.SliceNode:
		p.guard(node, []*ast.Node{&n.Node}, &ast.NilNode{})
	case *ast.CallNode:
		if m, ok := n.Callee.(*ast.MemberNode); ok {
			p.guard(node, []*ast.Node{&m.Node}, &ast.NilNode{})
		}
	case *ast.BuiltinNode:
		if n.Name == "type" || n.Name == "toJSON" {
			return
		}
		args := make([]*ast.Node, len(n.Arguments))
		for i := range n.Arguments {
			args[i] = &n.Arguments[i]
		}
		p.guard(node, args, &ast.NilNode{})
	}
}

func (p *nilSafe) binary(node *ast.Node, n *ast.BinaryNode) {
	switch n.Operator {
	case "<", "<=", ">", ">=", "contains", "startsWith", "endsWith", "matches":
		p.guard(node, []*ast.Node{&n.Left, &n.Right}, &ast.BoolNode{})
	case "in":
		p.guard(node, []*ast.Node{&n.Left}, &ast.BoolNode{})
	case "+", "-", "*", "/", "%", "**", "^":
		p.guard(node, []*ast.Node{&n.Left, &n.Right}, &ast.NilNode{})
	case "and", "&&", "or", "||":
		n.Left, n.Right = p.truth(n.Left), p.truth(n.Right)
	}
}

// truth makes nil false.
func (p *nilSafe) truth(n ast.Node) ast.Node {
	if !mayBeNil(n) {
		return n
	}
	return at(n, &ast.BinaryNode{Operator: "??", Left: n, Right: at(n, &ast.BoolNode{})})
}

// guard replaces a node by: its value when no operand is nil, else otherwise.
func (p *nilSafe) guard(node *ast.Node, operands []*ast.Node, otherwise ast.Node) {
	var cond ast.Node
	var lets []*ast.VariableDeclaratorNode
	for _, operand := range operands {
		if !mayBeNil(*operand) {
			continue
		}
		name, simple := (*operand).(*ast.IdentifierNode)
		if !simple {
			v := &ast.VariableDeclaratorNode{Name: "$" + strconv.Itoa(p.vars), Value: *operand}
			p.vars++
			lets = append(lets, v)
			name = &ast.IdentifierNode{Value: v.Name}
			*operand = at(v.Value, &ast.IdentifierNode{Value: v.Name})
		}
		there := at(*operand, &ast.BinaryNode{
			Operator: "!=", Left: at(*operand, &ast.IdentifierNode{Value: name.Value}), Right: at(*operand, &ast.NilNode{}),
		})
		if cond == nil {
			cond = there
		} else {
			cond = at(*node, &ast.BinaryNode{Operator: "and", Left: cond, Right: there})
		}
	}
	if cond == nil {
		return
	}
	guarded := at(*node, &ast.ConditionalNode{Ternary: true, Cond: cond, Exp1: *node, Exp2: at(*node, otherwise)})
	for i := len(lets) - 1; i >= 0; i-- {
		lets[i].Expr = guarded
		guarded = at(*node, lets[i])
	}
	*node = guarded
}

// at gives a new node the place of an old one.
func at(old, n ast.Node) ast.Node {
	n.SetLocation(old.Location())
	return n
}

// mayBeNil reports whether a node's value can be nil. It errs towards true.
func mayBeNil(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode, *ast.ConstantNode, *ast.ArrayNode, *ast.MapNode:
		return false
	case *ast.IdentifierNode:
		switch baseNames[n.Value] {
		case symVIN, symCell, symTopic, symClass, symLevels, symQoS, symRetain, symReceivedAt, symRaw, symProperties:
			return false
		}
		return true
	case *ast.UnaryNode:
		return n.Operator != "not" && n.Operator != "!"
	case *ast.BinaryNode:
		switch n.Operator {
		case "<", "<=", ">", ">=", "contains", "startsWith", "endsWith", "matches", "in", "and", "&&", "or", "||", "==", "!=":
			return false
		case "??":
			return mayBeNil(n.Right)
		}
		return mayBeNil(n.Left) || mayBeNil(n.Right)
	case *ast.ConditionalNode:
		return mayBeNil(n.Exp1) || mayBeNil(n.Exp2)
	case *ast.VariableDeclaratorNode:
		return mayBeNil(n.Expr)
	}
	return true
}
