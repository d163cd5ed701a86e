package expr

import (
	"github.com/expr-lang/expr/ast"

	"cellgate/rules/doc"
)

// Part is a part of an expression and its value.
type Part struct {
	Text  string
	Value any
	Err   error
}

// Parts evaluates an expression that was compiled with these names, and its named parts and comparisons, for the record
// of a scope. It returns at most limit parts.
func (n *Names) Parts(s *doc.Scalar, at *Scope, limit int) []Part {
	if s == nil {
		return nil
	}
	tree, err := parseExpr(s.Value)
	if err != nil {
		return nil
	}
	var found []ast.Node
	gatherParts(tree.Node, &found)
	own := *n
	own.Timed = false // uses of a message where there is none are reported when the rule is compiled
	own.Symbols = &Symbols{ByKey: map[string]uint16{}}
	d := doc.New("", nil, func(doc.Diagnostic) {}, "a value")
	var out []Part
	seen := map[string]bool{}
	for _, node := range found {
		text := node.String()
		if seen[text] || len(out) == limit {
			continue
		}
		seen[text] = true
		e := own.Compile(d, &doc.Scalar{Value: text, Lines: []string{text}}, WantAny)
		if e == nil {
			continue
		}
		sc := NewScope(at.cell, own.Symbols.List)
		sc.Begin(at.Record)
		sc.Given, sc.item = at.Given, at.item
		v, err := sc.Run(e)
		out = append(out, Part{text, v, err})
	}
	return out
}

// gatherParts collects the parts worth showing: an operation before its operands.
func gatherParts(n ast.Node, out *[]ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryNode:
		*out = append(*out, n)
		gatherParts(n.Left, out)
		gatherParts(n.Right, out)
	case *ast.UnaryNode:
		*out = append(*out, n)
		gatherParts(n.Node, out)
	case *ast.ConditionalNode:
		*out = append(*out, n)
		gatherParts(n.Cond, out)
		gatherParts(n.Exp1, out)
		gatherParts(n.Exp2, out)
	case *ast.BuiltinNode:
		*out = append(*out, n)
		for _, a := range n.Arguments {
			gatherParts(a, out)
		}
	case *ast.IdentifierNode, *ast.MemberNode, *ast.ChainNode, *ast.CallNode:
		*out = append(*out, n)
	case *ast.VariableDeclaratorNode:
		*out = append(*out, n)
		gatherParts(n.Value, out)
	}
}
