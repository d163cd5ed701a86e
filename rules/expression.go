package rules

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"cellgate/broker/message"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
)

// expression is a compiled expression. It is immutable and shared by all workers.
type expression struct {
	text    string // as written
	code    uint64 // digest with macros and lists written out: equal for expressions of equal meaning
	program *vm.Program
	symbols []uint16
	// field is the symbol when the whole expression is one payload field, which is then copied as it was
	// sent; -1 otherwise.
	field int
}

var errExprTooLarge = fmt.Errorf("the expression is larger than %d bytes", maxExprBytes)

// want is what an expression must give.
type want uint8

const (
	wantAny want = iota
	wantBool
)

// compile makes an expression of a scalar. It is compiled twice: with the types that are known, for what
// can be told before any message arrives; and for execution, with every payload field of any type and
// nil-safe. What is wrong is reported and gives nil.
func (n *names) compile(d *document, s *scalar, w want) *expression {
	if s == nil {
		return nil
	}
	tree, err := parseExpr(s.value)
	if err != nil {
		n.exprError(d, s, err, CodeExprSyntax)
		return nil
	}
	r := newResolver(n)
	r.resolve(&tree.Node)
	e := &expression{text: s.value, field: -1}
	used := r.collect(tree.Node)
	if len(r.problems) > 0 {
		for _, p := range r.problems {
			line, col := s.at(p.from)
			if p.code == CodeUnknownName && s.quoted() && validName(s.value) {
				p.suggestion += fmt.Sprintf(" (YAML takes the quotes away: a constant text has two pairs, '\"%s\"')", s.value)
			}
			d.fail(line, col, p.code, p.suggestion, "%s", p.message)
		}
		return nil
	}
	e.code = message.Hash(tree.Node.String())
	if !n.check(d, s, used, w) {
		return nil
	}
	if e.program, err = n.program(s.value, used); err != nil {
		n.exprError(d, s, err, CodeExprType)
		return nil
	}
	for _, sym := range used {
		i, ok := n.symbols.add(sym)
		if !ok {
			d.fail(s.line, s.col, CodeTooLarge, "", "the rule set uses more than %d names", maxSymbols)
			return nil
		}
		e.symbols = append(e.symbols, i)
		n.gives = n.gives || sym.kind == symOperator
		n.decodes = n.decodes || sym.decodes()
	}
	if id, ok := tree.Node.(*ast.IdentifierNode); ok && r.flat[id].kind == symField {
		e.field = int(n.symbols.byKey[r.flat[id].key])
	}
	return e
}

// collect returns the symbols of a resolved tree in the order of their keys.
func (r *resolver) collect(root ast.Node) []symbol {
	found := map[string]symbol{}
	ast.Walk(&root, collector(func(n *ast.IdentifierNode) {
		s, flat := r.flat[n]
		switch kind := baseNames[n.Value]; {
		case flat:
		case kind == symOperator:
			r.fail(n, CodeOperatorName, "write operator.x", "operator stands alone")
			return
		case kind != 0 && !r.locals[n.Value]:
			s = symbol{kind: kind, key: n.Value}
			if kind == symEventAt || kind == symLateMS {
				s.when, s.unit = r.names.schema.eventAt, r.names.schema.unit
				s.key += fieldKey(" of", s.when) + fmt.Sprintf(" %d", s.unit)
				n.Value = s.key
			}
		default:
			return
		}
		found[s.key] = s
	}))
	out := make([]symbol, 0, len(found))
	for _, s := range found {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b symbol) int { return strings.Compare(a.key, b.key) })
	return out
}

type collector func(*ast.IdentifierNode)

func (c collector) Visit(node *ast.Node) {
	if id, ok := (*node).(*ast.IdentifierNode); ok {
		c(id)
	}
}

// rewrite is the resolver as a patch of expr's compiler, which calls it node by node.
type rewrite struct{ *resolver }

func (p rewrite) Visit(node *ast.Node) {
	p.resolver.Visit(node)
	if id, ok := (*node).(*ast.IdentifierNode); ok && !p.isFlat(id) {
		if kind := baseNames[id.Value]; kind == symEventAt || kind == symLateMS {
			id.Value += fieldKey(" of", p.names.schema.eventAt) + fmt.Sprintf(" %d", p.names.schema.unit)
		}
	}
}

// check compiles with types and reports what does not fit.
func (n *names) check(d *document, s *scalar, used []symbol, w want) bool {
	env := types.Map{}
	for i := range used {
		env[used[i].key] = used[i].exprType()
	}
	opts := []expr.Option{expr.Env(env), n.patch(s.value)}
	if w == wantBool {
		opts = append(opts, expr.AsBool(), expr.WarnOnAny())
	}
	_, err := safeCompile(s.value, opts)
	if err == nil {
		return true
	}
	n.exprError(d, s, err, CodeExprType)
	return false
}

// program compiles for execution. A condition may still give nil there, which counts as false.
func (n *names) program(src string, used []symbol) (*vm.Program, error) {
	env := types.Map{}
	for i := range used {
		env[used[i].key] = types.Any
		if k := used[i].kind; k != symField && k != symProperty && k != symOperator && k != symLevel {
			env[used[i].key] = used[i].exprType()
		}
	}
	opts := []expr.Option{expr.Env(env), n.patch(src), expr.Patch(&nilSafe{})}
	return safeCompile(src, opts)
}

// patch is the resolver for one more compilation of an expression that has passed it before.
func (n *names) patch(src string) expr.Option {
	r := newResolver(n)
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

// exprError reports an error of expr at its place in the file, in the words of an analyst.
func (n *names) exprError(d *document, s *scalar, err error, code Code) {
	if errors.Is(err, errExprTooLarge) {
		d.fail(s.line, s.col, CodeExprTooLarge, "split it with macros, or over several rules", "%v", err)
		return
	}
	from, message := 0, err.Error()
	var fe *file.Error
	if errors.As(err, &fe) {
		from, message = fe.From, fe.Message
	}
	line, col := s.at(from)
	if got, ok := strings.CutPrefix(message, "expected bool, but got "); ok {
		n.notBool(d, line, col, s.value, got)
		return
	}
	if strings.Contains(message, "maximum allowed") {
		code = CodeExprTooLarge
	}
	if open, ok := openQuote(s.value); ok && message == "literal not terminated" {
		line, col = s.at(open)
		d.fail(line, col, code, `a text stands between two quotes: "D"`, "the quote that begins here is not closed")
		return
	}
	text, suggestion := plainWords(message, s.value)
	if decimalComma(s.value, from) {
		suggestion = decimalPoint
	}
	d.fail(line, col, code, suggestion, "%s", text)
}

func (n *names) notBool(d *document, line, col int, src, got string) {
	if got == "unknown" || got == "interface {}" || got == "any" {
		d.fail(line, col, CodeMaybeNotBool, fmt.Sprintf("compare it, for example %s == true, or declare the field as boolean in schema.fields", strings.TrimSpace(src)),
			"a condition must be true or false, and this may be anything")
		return
	}
	d.fail(line, col, CodeNotBool, "compare it with something: <, >, ==, in …", "a condition must be true or false, this is %s", typeWord(got))
}

var mismatch = regexp.MustCompile(`^invalid operation: (\S+) \(mismatched types (.+) and (.+)\)$`)

// plainWords turns expr's messages about types and syntax into ones without Go's type names.
func plainWords(message, src string) (text, suggestion string) {
	if m := mismatch.FindStringSubmatch(message); m != nil {
		text = fmt.Sprintf("%s does not work between %s and %s", m[1], typeWord(m[2]), typeWord(m[3]))
		if m[2] == "string" || m[3] == "string" {
			suggestion = "a text stands between quotes, a number does not; check the field's type in schema.fields"
		}
		return text, suggestion
	}
	if message == "unexpected token EOF" {
		if strings.Count(src, "(") > strings.Count(src, ")") {
			suggestion = "a ( is not closed"
		} else if strings.HasSuffix(strings.TrimSpace(src), "%") {
			suggestion = "leave the % away: it is the rest of a division here"
		}
		return "the expression ends too soon", suggestion
	}
	if strings.HasPrefix(message, "unrecognized character") && strings.ContainsAny(message, "“”„‟«»‘’‚") {
		return "a quote of a text editor", `write plain quotes: "D"`
	}
	m := unexpected.FindStringSubmatch(message)
	switch {
	case strings.Contains(src, "${"):
		return "${ has no meaning in an expression", "write the name alone: vin instead of ${vin}"
	case m == nil:
		return message, ""
	}
	return fmt.Sprintf("%q is not expected here", m[1]), meantOperator(m[1], src)
}

// meantOperator suggests what to write for a sign or a word that is one in another language.
func meantOperator(token, src string) string {
	switch strings.ToLower(token) {
	case "=":
		switch {
		case strings.Contains(src, "=<"):
			return `"less or equal" is written <=`
		case strings.Contains(src, "=>"):
			return `"greater or equal" is written >=`
		}
		return `"is equal" is written ==`
	case ">":
		if strings.Contains(src, "<>") {
			return `"is not equal" is written !=`
		}
	case "and", "or", "not":
		return "and, or, not are written in small letters"
	case "und", "oder", "nicht":
		return "write and, or, not"
	case "is":
		return "a field that is missing: == nil; one that is there: != nil"
	case "like":
		return `write startsWith, endsWith or contains, or matches "pattern"`
	}
	return ""
}

var unexpected = regexp.MustCompile(`^unexpected token \w+\("(.*)"\)$`)

// openQuote finds the character that begins a text without an end.
func openQuote(src string) (index int, ok bool) {
	quote, escaped, i := rune(0), false, 0
	for _, r := range src {
		switch {
		case escaped:
			escaped = false
		case quote == 0 && (r == '"' || r == '\'' || r == '`'):
			quote, index = r, i
		case r == quote:
			quote = 0
		case quote != 0 && quote != '`' && r == '\\':
			escaped = true
		}
		i++
	}
	return index, quote != 0
}

// decimalComma reports whether the character at index is a comma between two digits.
func decimalComma(src string, index int) bool {
	runes := []rune(src)
	digit := func(i int) bool { return i >= 0 && i < len(runes) && runes[i] >= '0' && runes[i] <= '9' }
	return index < len(runes) && index >= 0 && runes[index] == ',' && digit(index-1) && digit(index+1)
}

// typeWord names a Go type for people.
func typeWord(t string) string {
	words := map[string]string{
		"string": "a text", "float64": "a number", "int": "a whole number", "bool": "true or false",
		"time.Time": "a time", "time.Duration": "a duration", "unknown": "anything", "nil": "nothing (nil)",
		"[]interface {}": "a list", "map[string]interface {}": "an object",
	}
	if w, ok := words[t]; ok {
		return w
	}
	return t
}

// typeOf names the type of a value for people.
func typeOf(v any) string {
	if v == nil {
		return "nothing (nil)"
	}
	return typeWord(reflect.TypeOf(v).String())
}

// walkNames calls fn with every name in a tree that has not been resolved.
func walkNames(root *ast.Node, fn func(name string)) {
	ast.Walk(root, collector(func(n *ast.IdentifierNode) { fn(n.Value) }))
}

// digest stands for an expression in a definition; 0 for none.
func (e *expression) digest() uint64 {
	if e == nil {
		return 0
	}
	return e.code
}

// usesMacro returns the first of the macros that an expression names.
func usesMacro(src string, macros []macroDef) string {
	tree, err := parseExpr(src)
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	walkNames(&tree.Node, func(name string) { used[name] = true })
	for _, m := range macros {
		if used[m.name.value] {
			return m.name.value
		}
	}
	return ""
}
