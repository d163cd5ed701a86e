package expr

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"cellgate/broker/shared/message"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"

	"cellgate/rules/doc"
)

// Expression is a compiled expression. It is immutable and shared by all workers.
type Expression struct {
	Text    string // as written
	code    uint64 // digest with macros and lists expanded: equal for expressions of equal meaning
	program *vm.Program
	symbols []uint16
	// Field is the symbol if the whole expression is one payload field, which is copied as received; otherwise -1.
	Field int
	// Condition is nil if nothing can be decided without evaluation.
	Condition *Condition
	// calls counts the calls that may process a whole text or list.
	calls int
	// whole is the symbol if the whole expression is a field, the payload or operator.x; otherwise -1.
	whole int
	// passed says which parts of the expression are passed on as received; nil if none, or if the expression is a
	// field.
	passed *passed
}

var errExprTooLarge = fmt.Errorf("the expression is larger than %d bytes", maxExprBytes)

// Want is the required result of an expression.
type Want uint8

// Required results.
const (
	WantAny Want = iota
	WantBool
	// WantKnown is a condition that returns nil if it is unknown because a field is missing.
	WantKnown
)

// Compile compiles the expression of a scalar. It compiles twice: with the known types, to find errors before any
// message arrives; and for execution, with payload fields of any type and nil-safe. It reports errors and returns nil
// for them.
func (n *Names) Compile(d *doc.Document, s *doc.Scalar, w Want) *Expression {
	e := n.compile(d, s, w)
	if e == nil {
		return nil
	}
	n.lint(d, s, e, w)
	if w != WantAny || e.Field >= 0 {
		return e
	}
	if tree, err := parseExpr(s.Value); err == nil {
		e.passed = n.passing(d, tree.Node)
	}
	return e
}

func (n *Names) compile(d *doc.Document, s *doc.Scalar, w Want) *Expression {
	if s == nil {
		return nil
	}
	tree, err := parseExpr(s.Value)
	if err != nil {
		n.exprError(d, s, err, doc.CodeExprSyntax)
		return nil
	}
	r := newResolver(n)
	r.resolve(&tree.Node)
	e := &Expression{Text: s.Value, Field: -1, whole: -1}
	used := r.collect(tree.Node)
	if len(r.problems) > 0 {
		r.report(d, s)
		return nil
	}
	e.code, e.calls = message.Hash(tree.Node.String()), calls(tree.Node)
	if !n.check(d, s, used, w) {
		return nil
	}
	if e.program, err = n.program(s.Value, used, w); err != nil {
		n.exprError(d, s, err, doc.CodeExprType)
		return nil
	}
	for _, sym := range used {
		i, ok := n.Symbols.add(sym)
		if !ok {
			d.Fail(s.Line, s.Col, doc.CodeTooLarge, "", "the rule set uses more than %d names", maxSymbols)
			return nil
		}
		e.symbols = append(e.symbols, i)
		n.Gives = n.Gives || sym.kind == symOperator
		n.Decodes = n.Decodes || sym.decodes()
	}
	if w != WantAny {
		e.Condition = n.condition(s.Value, tree.Node, r, used)
	}
	if id, ok := tree.Node.(*ast.IdentifierNode); ok {
		switch kind := r.flat[id].kind; {
		case kind == symField:
			e.Field = int(n.Symbols.ByKey[r.flat[id].key])
			e.whole = e.Field
		case kind == symOperator, kind == symItem:
			e.whole = int(n.Symbols.ByKey[r.flat[id].key])
		case baseNames[id.Value] == symPayload && !r.locals[id.Value]:
			e.whole = int(n.Symbols.ByKey[id.Value])
		}
	}
	return e
}

// report reports the problems of an expression that was read from s.
func (r *resolver) report(d *doc.Document, s *doc.Scalar) {
	for _, p := range r.problems {
		line, col := s.At(p.from)
		if p.code == doc.CodeUnknownName && s.Quoted() && doc.ValidName(s.Value) {
			p.suggestion += fmt.Sprintf(" (YAML takes the quotes away: a constant text has two pairs, '\"%s\"')", s.Value)
		}
		d.Fail(line, col, p.code, p.suggestion, "%s", p.message)
	}
}

// collect returns the symbols of a resolved tree, sorted by key.
func (r *resolver) collect(root ast.Node) []Symbol {
	found := map[string]Symbol{}
	ast.Walk(&root, collector(func(n *ast.IdentifierNode) {
		s, flat := r.flat[n]
		switch kind := baseNames[n.Value]; {
		case flat:
		case kind == symOperator:
			r.fail(n, doc.CodeOperatorName, "write operator.x", "operator needs a field")
			return
		case kind != 0 && !r.locals[n.Value]:
			s = Symbol{kind: kind, key: n.Value}
			if kind == symEventAt || kind == symLateMS {
				s.when, s.unit = r.names.Schema.EventAt, r.names.Schema.Unit
				s.key += FieldKey(" of", s.when) + fmt.Sprintf(" %d", s.unit)
				n.Value = s.key
			}
		default:
			return
		}
		if r.names.Timed && !s.withoutMessage() {
			r.fail(n, doc.CodeNoMessage, "take it from operator.x, or from vin, cell and received_at, the end of the period",
				"at the end of a period there is no message, and no %s", s.name())
			return
		}
		found[s.key] = s
	}))
	out := make([]Symbol, 0, len(found))
	for _, s := range found {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Symbol) int { return strings.Compare(a.key, b.key) })
	return out
}

type collector func(*ast.IdentifierNode)

func (c collector) Visit(node *ast.Node) {
	if id, ok := (*node).(*ast.IdentifierNode); ok {
		c(id)
	}
}

// rewrite is the resolver as a patch for expr's compiler, which calls it node by node.
type rewrite struct{ *resolver }

func (p rewrite) Visit(node *ast.Node) {
	p.resolver.Visit(node)
	if id, ok := (*node).(*ast.IdentifierNode); ok && !p.isFlat(id) {
		if kind := baseNames[id.Value]; kind == symEventAt || kind == symLateMS {
			id.Value += FieldKey(" of", p.names.Schema.EventAt) + fmt.Sprintf(" %d", p.names.Schema.Unit)
		}
	}
}

// check compiles with types and reports type errors.
func (n *Names) check(d *doc.Document, s *doc.Scalar, used []Symbol, w Want) bool {
	env := types.Map{}
	for i := range used {
		env[used[i].key] = used[i].exprType()
	}
	opts := append(n.signatures(), expr.Env(env), n.patch(s.Value, false))
	if w != WantAny {
		opts = append(opts, expr.AsBool(), expr.WarnOnAny())
	}
	_, err := safeCompile(s.Value, opts)
	if err == nil {
		return true
	}
	n.exprError(d, s, err, doc.CodeExprType)
	return false
}

// program compiles for execution, where every name may have any type and be missing.
func (n *Names) program(src string, used []Symbol, w Want) (*vm.Program, error) {
	env := types.Map{workName: types.Any}
	for i := range used {
		env[used[i].key] = types.Any
	}
	opts := []expr.Option{expr.Env(env), n.patch(src, true), expr.Patch(newExecutable(w == WantKnown, n))}
	return safeCompile(src, opts)
}

// patch returns the resolver for a further compilation of an expression that has passed it before.
func (n *Names) patch(src string, execute bool) expr.Option {
	r := newResolver(n)
	r.execute = execute
	if tree, err := parseExpr(src); err == nil {
		ast.Walk(&tree.Node, localNames(r.locals))
	}
	return expr.Patch(rewrite{r})
}

func safeCompile(src string, opts []expr.Option) (p *vm.Program, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the expression cannot be compiled: %v", r)
		}
	}()
	return expr.Compile(src, append(opts, expr.MaxNodes(maxExprNodes))...)
}

// exprError reports an error of expr at its position in the file, in an analyst's words.
func (n *Names) exprError(d *doc.Document, s *doc.Scalar, err error, code doc.Code) {
	if errors.Is(err, errExprTooLarge) {
		d.Fail(s.Line, s.Col, doc.CodeExprTooLarge, "split it with macros, or over several rules", "%v", err)
		return
	}
	from, message := 0, err.Error()
	var fe *file.Error
	if errors.As(err, &fe) {
		from, message = fe.From, fe.Message
	}
	line, col := s.At(from)
	if got, ok := strings.CutPrefix(message, "expected bool, but got "); ok {
		n.notBool(d, line, col, s.Value, got)
		return
	}
	if strings.Contains(message, "maximum allowed") {
		code = doc.CodeExprTooLarge
	}
	if open, ok := openQuote(s.Value); ok && message == "literal not terminated" {
		line, col = s.At(open)
		d.Fail(line, col, code, `a text is written between two quotes: "D"`, "the quote that begins here is not closed")
		return
	}
	text, suggestion := plainWords(message, s.Value)
	if suggestion == "" && decimalComma(s.Value, from) {
		suggestion = doc.DecimalPoint
	}
	if suggestion == "" && s.Quoted() && words.MatchString(s.Value) {
		suggestion = fmt.Sprintf("YAML takes the quotes away: a constant text has two pairs, '\"%s\"'", s.Value)
	}
	d.Fail(line, col, code, suggestion, "%s", text)
}

// words matches prose that is not an expression.
var words = regexp.MustCompile(`^[\pL\pN]+(?:[ ,!?]+[\pL\pN]+)+[.!?]?$`)

func (n *Names) notBool(d *doc.Document, line, col int, src, got string) {
	if got == "unknown" || got == "interface {}" || got == "any" {
		d.Fail(line, col, doc.CodeMaybeNotBool, fmt.Sprintf("compare it, for example %s == true, or declare the field as boolean in schema.fields", strings.TrimSpace(src)),
			"a condition must be true or false, and this may be anything")
		return
	}
	d.Fail(line, col, doc.CodeNotBool, "compare it with something: <, >, ==, in …", "a condition must be true or false, this is %s", typeWord(got))
}

// typeOf returns the type of a value in an analyst's words.
func typeOf(v any) string {
	if v == nil {
		return "nothing (nil)"
	}
	return typeWord(reflect.TypeOf(v).String())
}

// walkNames calls fn with every name in an unresolved tree.
func walkNames(root *ast.Node, fn func(name string)) {
	ast.Walk(root, collector(func(n *ast.IdentifierNode) { fn(n.Value) }))
}

// Digest identifies an expression in an operator's definition; 0 for nil.
func (e *Expression) Digest() uint64 {
	if e == nil {
		return 0
	}
	return e.code
}

// UsesMacro returns the first of the macros that an expression uses, "" if none.
func UsesMacro(src string, macros []Macro) string {
	tree, err := parseExpr(src)
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	walkNames(&tree.Node, func(name string) { used[name] = true })
	for _, m := range macros {
		if used[m.Name.Value] {
			return m.Name.Value
		}
	}
	return ""
}
