package op

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// maxKept bounds the lists that an operator keeps per VIN.
const maxKept = 1000

// Key is one key in the mapping of an operator or a target.
type Key struct {
	Name  string
	Value Value
	// Need is an example of a required key; "" if the key is optional.
	Need string
	// Alone allows the value instead of the whole mapping.
	Alone bool
	// Default is the value of an absent key, nil for none.
	Default any
	// Shown is the key's name in a diff, if it differs from Name.
	Shown string
}

// Value describes the values of a key.
type Value struct {
	schema JSON
	// read reads the value of a key that is present. It reports errors and returns false for them.
	read func(o *doc.Object, key string) (any, bool)
	// Place marks a value that is the destination of a target, such as its topic.
	Place bool
}

var (
	durationValue   = Value{schema: Ref("duration"), read: func(o *doc.Object, key string) (any, bool) { return o.Duration(key) }}
	expressionValue = Value{schema: Ref("expression"), read: readExpr}
	templateValue   = Value{schema: Ref("template"), read: readText, Place: true}
)

func readExpr(o *doc.Object, key string) (any, bool) {
	s := o.Expr(key)
	return s, s != nil
}

func readText(o *doc.Object, key string) (any, bool) {
	s, ok := o.Text(key)
	return &s, ok
}

// PlaceValue returns a text value that is the destination of a target.
func PlaceValue(description string) Value {
	return Value{schema: TextOf(description), read: readText, Place: true}
}

func integerValue(lo, hi int) Value {
	return Value{schema: whole(lo, hi), read: func(o *doc.Object, key string) (any, bool) { return o.Integer(key, lo, hi) }}
}

// oneOfValue returns a value that is one of some words. what completes the finding `"…" is not …`.
func oneOfValue(what string, code doc.Code, suggestion string, words ...string) Value {
	read := func(o *doc.Object, key string) (any, bool) {
		s, ok := o.Text(key)
		if ok && !slices.Contains(words, s.Value) {
			o.Doc.Fail(s.Line, s.Col, code, suggestion, "%q is not %s", s.Value, what)
		}
		return s.Value, ok
	}
	return Value{schema: JSON{"enum": words}, read: read}
}

// Args are the key values of an operator or a target.
type Args struct {
	d      *doc.Document
	Node   ast.Node
	Keys   []Key
	Values map[string]any
	env    *Env
	odd    bool // a value could not be read; this has been reported
	Code   strings.Builder
}

// Env is the context for compiling an operator or a target.
type Env struct {
	*expr.Names
	// Transform is the rule's transform, nil if it has none. TransformDecodes means that it reads the payload.
	Transform        *expr.Value
	TransformDecodes bool
	// Event means that operators use the vehicle's clock.
	Event bool
	// Stored means that the source was already in force with an earlier version.
	Stored bool
	// Webhooks are the names of the gateway's endpoints; nil if unknown.
	Webhooks []string
}

// readArgs reads the values of an object's keys. It reports missing and wrong ones and continues with the rest.
func readArgs(o *doc.Object, keys []Key) *Args {
	a := &Args{d: o.Doc, Node: o.Node, Keys: keys, Values: map[string]any{}}
	for i := range keys {
		k := &keys[i]
		switch {
		case o.Has(k.Name):
			if v, ok := k.Value.read(o, k.Name); ok {
				a.Values[k.Name] = v
			} else {
				a.odd = true
			}
		case k.Default != nil:
			a.Values[k.Name] = k.Default
		case k.Need != "":
			o.Missing(k.Name, k.Need)
		}
	}
	return a
}

// KeyNames returns the names of keys.
func KeyNames(keys []Key) []string {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = keys[i].Name
	}
	return names
}

// Read reads the operator of a rule. It reports errors and returns nil if no key is usable.
func (op *Operator) Read(d *doc.Document, n ast.Node) *Args {
	quoted := strconv.Quote(op.Name)
	first := op.Keys[0]
	if _, isMap := n.(*ast.MappingNode); !isMap && first.Alone {
		o := &doc.Object{Doc: d, Node: n, What: quoted, Values: map[string]ast.Node{op.Name: n}}
		v, ok := first.Value.read(o, op.Name)
		if !ok {
			return nil
		}
		return &Args{d: d, Node: n, Keys: op.Keys, Values: map[string]any{first.Name: v}}
	}
	o, ok := d.Object(n, quoted, KeyNames(op.Keys)...)
	if !ok {
		return nil
	}
	return readArgs(o, op.Keys)
}

// Compile compiles the operator and reports errors.
func (op *Operator) Compile(a *Args, env Env) Runner {
	a.env = &env
	return op.wrap(a, op.New(a))
}

// Given returns the names of the values that the operator gives with these keys.
func (op *Operator) Given(a *Args) []string {
	if op.GivesOf != nil {
		return op.GivesOf(a)
	}
	return op.Gives
}

// Scalar returns the value of a key as written; nil if it is missing or wrong.
func (a *Args) Scalar(key string) *doc.Scalar {
	s, _ := a.Values[key].(*doc.Scalar)
	return s
}

// Fail reports an error in a value.
func (a *Args) Fail(s *doc.Scalar, code doc.Code, suggestion, format string, args ...any) {
	a.d.Fail(s.Line, s.Col, code, suggestion, format, args...)
}

// Env returns the context for compiling the operator or target.
func (a *Args) Env() *Env { return a.env }

// compiled adds the digest of an expression or template to Code.
func (a *Args) compiled(code any) { fmt.Fprint(&a.Code, code, " ") }

func (a *Args) expression(key string) *expr.Expression { return a.compile(key, expr.WantAny) }

// known compiles a condition with three results: true, false, and unknown because a field is missing.
func (a *Args) known(key string) *expr.Expression { return a.compile(key, expr.WantKnown) }

func (a *Args) compile(key string, w expr.Want) *expr.Expression {
	e := a.env.Compile(a.d, a.Scalar(key), w)
	a.compiled(e.Digest())
	return e
}

// template compiles a template; nil if there is none.
func (a *Args) template(key string) *expr.Template {
	s := a.Scalar(key)
	if s == nil {
		return nil
	}
	t := a.env.Template(a.d, *s)
	a.compiled(t.Code())
	return t
}

// Text returns the value of a key that is a word or a template, as written.
func (a *Args) Text(key string) string {
	switch v := a.Values[key].(type) {
	case string:
		return v
	case *doc.Scalar:
		return v.Value
	}
	return ""
}

func (a *Args) integer(key string) int {
	n, _ := a.Values[key].(int)
	return n
}

func (a *Args) duration(key string) time.Duration {
	d, _ := a.Values[key].(time.Duration)
	return d
}

func (a *Args) millis(key string) int64 { return a.duration(key).Milliseconds() }

// Place returns the destination of a target, as written.
func (a *Args) Place() string {
	for i := range a.Keys {
		if s := a.Scalar(a.Keys[i].Name); s != nil && a.Keys[i].Value.Place {
			return s.Value
		}
	}
	return ""
}

// Expressions returns the expressions as written, in the order of the keys.
func (a *Args) Expressions() []*doc.Scalar {
	var all []*doc.Scalar
	for i := range a.Keys {
		if s := a.Scalar(a.Keys[i].Name); s != nil {
			all = append(all, s)
		}
	}
	return all
}
