package rules

import (
	"github.com/expr-lang/expr/ast"
)

// partOf is a part of an expression and what it gives.
type partOf struct {
	text  string
	value any
	err   error
}

// parts evaluates an expression that was compiled with these names, and everything in it that has a name or a comparison of
// its own, for the record of a scope; at most limit parts.
func (n *names) parts(s *scalar, at *scope, limit int) []partOf {
	if s == nil {
		return nil
	}
	tree, err := parseExpr(s.value)
	if err != nil {
		return nil
	}
	var found []ast.Node
	gatherParts(tree.Node, &found)
	own := *n
	own.symbols = &symbols{byKey: map[string]uint16{}}
	d := newDocument("", nil, func(Diagnostic) {}, "a value")
	var out []partOf
	seen := map[string]bool{}
	for _, node := range found {
		text := node.String()
		if seen[text] || len(out) == limit {
			continue
		}
		seen[text] = true
		e := own.compile(d, &scalar{value: text, lines: []string{text}}, wantAny)
		if e == nil {
			continue
		}
		sc := newScope(at.cell, own.symbols.list)
		sc.begin(at.rec)
		sc.opers = at.opers
		v, err := sc.run(e)
		out = append(out, partOf{text, v, err})
	}
	return out
}

// gatherParts collects the parts worth showing: an operation in front of its operands.
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
