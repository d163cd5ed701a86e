package expr

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"cellgate/rules/doc"
)

// Bounds of one expression.
const (
	maxExprBytes = 8 << 10 // expr's parser recurses per parenthesis, and Go cannot recover from a stack overflow
	maxExprNodes = 2000    // with macros expanded
	maxExprRange = 1000    // elements of a..b
	maxConcat    = 128     // operands of one +, so that let a = b + b cannot keep doubling
)

// Names are the names that one rule's expressions may use.
type Names struct {
	Lists     map[string]*List
	Macros    []Macro // the macros in scope
	Places    map[string]*Place
	Tables    map[string]*Table
	Calls     Calls
	Schema    *Schema
	Operators []string // names of the values that the rule's operators give
	Symbols   *Symbols
	Each      bool // item is an element of a list
	Timed     bool // the expression is evaluated at the end of a period, without a message
	Decodes   bool // set when a compiled expression reads the payload
	Gives     bool // set when a compiled expression refers to operator.x
	// HashKeys are the gateway's keys, nil without a gateway. Stored means that the source was already in force.
	HashKeys *HashKeys
	Stored   bool
	// Used has the names of the file's lists and macros that are in use.
	Used map[string]bool
}

// use records that a name of the file is used.
func (n *Names) use(name string) {
	if n.Used != nil {
		n.Used[name] = true
	}
}

// problem is an error in an expression, with its character offset.
type problem struct {
	from       int
	code       doc.Code
	message    string
	suggestion string
}

// resolver rewrites an expression's tree before type checking: it expands macros and lists, and turns payload.a.b,
// properties.x, levels[n] and operator.x into single names. It reports names and functions that rules must not use.
type resolver struct {
	names    *Names
	locals   map[string]bool // names that let declares
	flat     map[*ast.IdentifierNode]Symbol
	problems []problem
	nodes    int
	execute  bool // keep lists in the form used for lookups
}

func newResolver(n *Names) *resolver {
	return &resolver{names: n, locals: map[string]bool{}, flat: map[*ast.IdentifierNode]Symbol{}}
}

func (r *resolver) fail(n ast.Node, code doc.Code, suggestion, format string, args ...any) {
	r.problems = append(r.problems, problem{n.Location().From, code, fmt.Sprintf(format, args...), suggestion})
}

func (r *resolver) resolve(root *ast.Node) {
	ast.Walk(root, localNames(r.locals))
	ast.Walk(root, r)
	if r.nodes > maxExprNodes {
		r.problems = append(r.problems[:0], problem{
			0, doc.CodeExprTooLarge,
			fmt.Sprintf("the expression has more than %d parts", maxExprNodes), "split it over several rules",
		})
		return
	}
	if growth(*root, map[string]int{}) > maxConcat {
		r.fail(*root, doc.CodeUnbounded, "", "more than %d values are added together", maxConcat)
	}
}

// localNames collects the names that let declares.
type localNames map[string]bool

func (l localNames) Visit(node *ast.Node) {
	if n, ok := (*node).(*ast.VariableDeclaratorNode); ok {
		l[n.Name] = true
	}
}

// Visit is called for every node, children first.
func (r *resolver) Visit(node *ast.Node) {
	if r.nodes++; r.nodes > maxExprNodes {
		return
	}
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		r.identifier(node, n)
	case *ast.MemberNode:
		r.member(node, n)
	case *ast.ChainNode:
		if id, ok := n.Node.(*ast.IdentifierNode); ok && r.isFlat(id) {
			*node = id
		}
	case *ast.BuiltinNode:
		r.function(n, n.Name)
	case *ast.CallNode:
		r.call(node, n)
	case *ast.BinaryNode:
		r.binary(n)
	case *ast.VariableDeclaratorNode:
		if IsReserved(n.Name) || r.names.Lists[n.Name] != nil || r.macro(n.Name) != nil {
			r.fail(n, doc.CodeBadName, "choose another name", "%q already has a meaning here", n.Name)
		}
	}
}

func (r *resolver) isFlat(id *ast.IdentifierNode) bool { _, ok := r.flat[id]; return ok }

func (r *resolver) macro(name string) *Macro {
	for i := range r.names.Macros {
		if r.names.Macros[i].Name.Value == name {
			return &r.names.Macros[i]
		}
	}
	return nil
}

func (r *resolver) identifier(node *ast.Node, n *ast.IdentifierNode) {
	if r.isFlat(n) || r.locals[n.Value] || baseNames[n.Value] != 0 {
		return
	}
	if n.Value == ItemName && r.names.Each {
		id := &ast.IdentifierNode{Value: ItemName}
		r.flat[id] = Symbol{kind: symItem, key: ItemName}
		r.replace(node, id)
		return
	}
	if l := r.names.Lists[n.Value]; l != nil {
		r.names.use(n.Value)
		if r.execute {
			r.replace(node, &ast.ConstantNode{Value: l})
		} else {
			r.replace(node, l.node())
		}
		return
	}
	if m := r.macro(n.Value); m != nil {
		r.names.use(n.Value)
		r.expand(node, m)
		return
	}
	if r.names.Tables[n.Value] != nil { // tableColumn removes the finding
		r.fail(n, doc.CodeBadTable, fmt.Sprintf("write %s[vin].tank, with the key and the column", n.Value), "%q is a table", n.Value)
		return
	}
	if r.names.Places[n.Value] != nil { // inside removes the finding
		r.fail(n, doc.CodeExprType, fmt.Sprintf("write inside(payload.lat, payload.lon, %s)", n.Value), "%q is a zone", n.Value)
		return
	}
	if isFunction(n.Value) { // call removes the finding
		r.fail(n, doc.CodeUnknownName, fmt.Sprintf("write %s(…)", n.Value), "%q is a function", n.Value)
		return
	}
	if why := deniedFunctions[n.Value]; why != "" {
		r.fail(n, doc.CodeUnbounded, "", "%s cannot be used in rules: %s", n.Value, why)
		return
	}
	r.fail(n, doc.CodeUnknownName, r.suggest(n.Value), "unknown name %q", n.Value)
}

func (r *resolver) replace(node *ast.Node, with ast.Node) {
	with.SetLocation((*node).Location())
	*node = with
}

// expand expands a macro. A macro can use only earlier macros, so expansion ends.
func (r *resolver) expand(node *ast.Node, m *Macro) {
	tree, err := parseExpr(m.Expr.Value)
	if err != nil { // reported at the macro
		r.replace(node, &ast.BoolNode{})
		return
	}
	inner := newResolver(&Names{
		Lists: r.names.Lists, Schema: r.names.Schema, Used: r.names.Used, HashKeys: r.names.HashKeys, Stored: r.names.Stored,
		Operators: r.names.Operators, Each: r.names.Each, Places: r.names.Places, Tables: r.names.Tables, Calls: r.names.Calls,
		Macros: r.names.Macros[:slices.IndexFunc(r.names.Macros, func(o Macro) bool { return o.Name.Value == m.Name.Value })],
	})
	inner.nodes, inner.execute = r.nodes, r.execute
	ast.Walk(&tree.Node, localNames(inner.locals))
	ast.Walk(&tree.Node, inner)
	r.nodes = inner.nodes
	for id, s := range inner.flat {
		r.flat[id] = s
	}
	for name := range inner.locals {
		r.locals[name] = true
	}
	ast.Walk(&tree.Node, relocate((*node).Location()))
	*node = tree.Node
}

// relocate gives a macro's nodes the position of its name, so that messages point into the rule.
type relocate file.Location

func (l relocate) Visit(node *ast.Node) { (*node).SetLocation(file.Location(l)) }

// member turns payload.a.b and similar into one name.
func (r *resolver) member(node *ast.Node, n *ast.MemberNode) {
	if r.tableColumn(node, n) {
		return
	}
	if c, ok := n.Node.(*ast.ConstantNode); ok { // a list of the file
		if name, ok := n.Property.(*ast.StringNode); ok && c.Value != nil {
			r.fail(n.Property, doc.CodeExprType, "test whether it contains a value: vin in pilots", "a list has no field %s", name.Value)
			return
		}
	}
	base, ok := n.Node.(*ast.IdentifierNode)
	if !ok || r.locals[base.Value] {
		return
	}
	s, seen := r.flat[base]
	if !seen {
		s = Symbol{kind: baseNames[base.Value]}
	} else if s.kind != symField && s.kind != symItem {
		return
	}
	step, ok := step(n.Property)
	if !ok {
		return
	}
	switch s.kind {
	case symPayload, symField:
		s = r.field(n, append(slices.Clone(s.Path), step))
	case symItem:
		path := append(slices.Clone(s.Path), step)
		if s = (Symbol{kind: symItem, Path: path, key: FieldKey(ItemName, path)}); len(path) > MaxPath {
			r.fail(n, doc.CodeExprTooLarge, "", "a field deeper than %d", MaxPath)
		}
	case symProperties:
		s = Symbol{kind: symProperty, Path: []string{step}, key: FieldKey("properties", []string{step})}
	case symOperator:
		s = Symbol{kind: symOperator, Path: []string{step}, key: FieldKey("operator", []string{step})}
		if !slices.Contains(r.names.Operators, step) {
			r.fail(n.Property, doc.CodeOperatorName, doc.DidYouMean(step, r.names.Operators), "no operator of this rule gives %q", "operator."+step)
		}
	case symLevels:
		i, err := strconv.Atoi(step)
		if err != nil || i < 0 {
			return
		}
		s = Symbol{kind: symLevel, level: i, key: "levels[" + step + "]"}
	default:
		return
	}
	id := &ast.IdentifierNode{Value: s.key}
	r.flat[id] = s
	r.replace(node, id)
}

// step returns a constant element of a path.
func step(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode:
		return strconv.Itoa(n.Value), n.Value >= 0
	}
	return "", false
}

// field returns the symbol of a payload field and checks it against the schema.
func (r *resolver) field(n *ast.MemberNode, path []string) Symbol {
	t, ok := r.names.Schema.lookup(path)
	if !ok && !r.names.Schema.hasDeeper(path) {
		name := strings.Join(path, ".")
		suggestion := addToSchema
		if f := r.names.Schema.nearest(name); f != "" {
			suggestion = fmt.Sprintf("did you mean payload.%s?", f)
		}
		r.fail(n.Property, doc.CodeUnknownField, suggestion, "the schema has no field %q", name)
	}
	if len(path) > MaxPath {
		r.fail(n, doc.CodeExprTooLarge, "", "a field deeper than %d", MaxPath)
	}
	s := Symbol{kind: symField, Path: path, field: t, key: FieldKey("payload", path)}
	if t != AnyField && t != NumberField {
		s.key += fmt.Sprintf(" as %d", t) // one field with two schemas has two names
	}
	if s.bounds = r.names.Schema.Bounds[strings.Join(path, ".")]; s.bounds != nil {
		s.key += fmt.Sprintf(" of %g to %g %t", s.bounds.Low, s.bounds.High, s.bounds.Missing)
	}
	return s
}

// function checks a call of one of expr's functions.
func (r *resolver) function(n ast.Node, name string) {
	if b, ok := n.(*ast.BuiltinNode); ok {
		for _, a := range b.Arguments {
			if _, closure := a.(*ast.PredicateNode); closure {
				r.fail(n, doc.CodeUnbounded, "compare single fields, or let the vehicle send the result", "%s cannot be used in rules: %s", name, whyLoop)
				return
			}
		}
	}
	if isFunction(name) {
		return
	}
	why := deniedFunctions[name]
	if why == "" {
		why = "it is not one of the functions of rules"
	}
	r.fail(n, doc.CodeUnbounded, meantFunction(name), "%s cannot be used in rules: %s", name, why)
}

// call checks a call of a method of a time, or of a function that the library does not have.
func (r *resolver) call(node *ast.Node, n *ast.CallNode) {
	switch callee := n.Callee.(type) {
	case *ast.MemberNode:
		if name, ok := callee.Property.(*ast.StringNode); ok {
			r.method(node, n, callee, name.Value)
			return
		}
	case *ast.IdentifierNode:
		if s, flat := r.flat[callee]; flat {
			r.withdraw(callee)
			r.fieldCalled(callee, s.Path[len(s.Path)-1])
			return
		}
		r.withdraw(callee)
		switch callee.Value {
		case "at_zone":
			r.atZone(n)
		case "hash":
			r.hash(n)
		case "inside":
			r.inside(n)
			return
		}
		if !isFunction(callee.Value) {
			r.fail(callee, doc.CodeUnknownName, cmp.Or(r.meantTable(callee.Value), meantFunction(callee.Value), doc.DidYouMean(callee.Value, functionNames())), "unknown function %q", callee.Value)
		}
		return
	}
	r.fail(n, doc.CodeUnbounded, "", "this cannot be called")
}

// hash checks a call of hash and adds the message's time as an argument.
func (r *resolver) hash(n *ast.CallNode) {
	if len(n.Arguments) != 1 {
		r.fail(n, doc.CodeExprType, "for example hash(vin)", "hash takes one value")
		return
	}
	if k := r.names.HashKeys; k != nil && len(*k) == 0 && !r.names.Stored {
		r.fail(n, doc.CodeHashKey, "add a key to the configuration: rules: {hash_keys: [{id: k1, key: ${RULES_HASH_KEY}}]}", "hash has no key: the configuration of this gateway names none")
	}
	n.Arguments = append(n.Arguments, at(n, &ast.IdentifierNode{Value: "received_at"}))
}

// method checks a call of a method of a time.
func (r *resolver) method(node *ast.Node, n *ast.CallNode, callee *ast.MemberNode, name string) {
	if name == "at_zone" && len(n.Arguments) == 1 {
		c := &ast.CallNode{Callee: at(callee.Property, &ast.IdentifierNode{Value: name}), Arguments: []ast.Node{callee.Node, n.Arguments[0]}}
		r.replace(node, c)
		r.atZone(c)
		return
	}
	if !isMethod(name) || len(n.Arguments) > 0 {
		r.fail(callee.Property, doc.CodeUnbounded, meantMethod(name), "the method %s cannot be used in rules", name)
		return
	}
	if !r.execute && methods[name] != nil { // returns a whole number; the library has types of its own
		id := at(callee.Property, &ast.IdentifierNode{Value: methodPrefix + name})
		r.replace(node, &ast.CallNode{Callee: id, Arguments: []ast.Node{callee.Node}})
	}
}

func (r *resolver) binary(n *ast.BinaryNode) {
	switch n.Operator {
	case "..":
		lo, okLo := n.Left.(*ast.IntegerNode)
		hi, okHi := n.Right.(*ast.IntegerNode)
		if !okLo || !okHi || hi.Value-lo.Value > maxExprRange {
			r.fail(n, doc.CodeUnbounded, "write x >= a and x <= b", "a range must have two whole numbers at most %d apart", maxExprRange)
		}
	case "matches":
		if _, ok := n.Right.(*ast.StringNode); !ok {
			r.fail(n.Right, doc.CodeUnbounded, `for example vin matches "^LTEST"`, "a pattern must be a constant text")
		}
	}
}

// growth returns a bound of the size of an expression's value, as a multiple of the message.
func growth(n ast.Node, locals map[string]int) int {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return max(1, locals[n.Value])
	case *ast.BinaryNode:
		l, r := growth(n.Left, locals), growth(n.Right, locals)
		if n.Operator == "+" {
			return min(l+r, maxConcat+1)
		}
		return max(l, r)
	case *ast.ConditionalNode:
		return max(growth(n.Cond, locals), growth(n.Exp1, locals), growth(n.Exp2, locals))
	case *ast.VariableDeclaratorNode:
		locals[n.Name] = growth(n.Value, locals)
		return max(locals[n.Name], growth(n.Expr, locals))
	}
	total := 0
	for _, c := range children(n) {
		total = min(total+growth(c, locals), maxConcat+1)
	}
	return max(1, total)
}

// children returns the parts of a node whose values can become part of its own.
func children(n ast.Node) []ast.Node {
	switch n := n.(type) {
	case *ast.UnaryNode:
		return []ast.Node{n.Node}
	case *ast.ChainNode:
		return []ast.Node{n.Node}
	case *ast.MemberNode:
		return []ast.Node{n.Node}
	case *ast.SliceNode:
		return []ast.Node{n.Node}
	case *ast.BuiltinNode:
		return n.Arguments
	case *ast.CallNode:
		return []ast.Node{n.Callee}
	case *ast.SequenceNode:
		return n.Nodes
	case *ast.ArrayNode:
		return n.Nodes
	case *ast.MapNode:
		return n.Pairs
	case *ast.PairNode:
		return []ast.Node{n.Value}
	}
	return nil
}

// parseExpr parses an expression and checks its bounds.
func parseExpr(src string) (tree *parser.Tree, err error) {
	if len(src) > maxExprBytes {
		return nil, errExprTooLarge
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the expression cannot be read: %v", p)
		}
	}()
	return parser.Parse(src)
}
