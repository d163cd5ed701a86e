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

// maxKept is the longest list that an operator may keep per VIN.
const maxKept = 1000

// Key is one key of the mapping of an operator or a target.
type Key struct {
	Name  string
	Value Value
	// Need is the example of a key that must be there.
	Need string
	// Alone says that the value may stand in place of the whole mapping.
	Alone bool
	// Default is the value when the key is absent, nil for none.
	Default any
	// Shown is the key's name in a diff, where it is another one.
	Shown string
}

// Value is what a key may hold.
type Value struct {
	schema JSON
	// read reads the value of a key that is there. false means that it is wrong, which has been reported.
	read func(o *doc.Object, key string) (any, bool)
	// Place says that it tells where a target leads.
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

// PlaceValue is a text that tells where a target leads.
func PlaceValue(description string) Value {
	return Value{schema: TextOf(description), read: readText, Place: true}
}

func integerValue(lo, hi int) Value {
	return Value{schema: whole(lo, hi), read: func(o *doc.Object, key string) (any, bool) { return o.Integer(key, lo, hi) }}
}

// oneOfValue is one of a few words; what says in a finding what another word is not.
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

// Args are the values of an operator's or a target's keys.
type Args struct {
	d      *doc.Document
	Node   ast.Node
	Keys   []Key
	Values map[string]any
	env    *Env
	odd    bool // a value could not be read, which has been reported
	Code   strings.Builder
}

// Env is what an operator or a target is compiled with.
type Env struct {
	*expr.Names
	// Transform is the rule's, nil when it has none. TransformDecodes says that it reads the payload.
	Transform        *expr.Value
	TransformDecodes bool
	// Event says that operators go by the vehicle's clock.
	Event bool
	// Stored says that the source was in force before this version.
	Stored bool
	// Webhooks are the endpoints of the gateway, nil when they are not known.
	Webhooks []string
}

// readArgs reads the values of an object's keys. What is missing or wrong is reported, and the rest is looked at all the same.
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

// KeyNames are the names of keys.
func KeyNames(keys []Key) []string {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = keys[i].Name
	}
	return names
}

// Read reads the operator of a rule; nil when it has no keys that can be looked at, which has been reported.
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

// Compile compiles the operator; what is wrong has been reported.
func (op *Operator) Compile(a *Args, env Env) Runner {
	a.env = &env
	return op.wrap(a, op.New(a))
}

// Given are the values that the operator gives with these keys.
func (op *Operator) Given(a *Args) []string {
	if op.GivesOf != nil {
		return op.GivesOf(a)
	}
	return op.Gives
}

// Scalar is the value of a key as it is written; nil when it is missing or wrong, which has been reported.
func (a *Args) Scalar(key string) *doc.Scalar {
	s, _ := a.Values[key].(*doc.Scalar)
	return s
}

// Fail reports what is wrong with a value.
func (a *Args) Fail(s *doc.Scalar, code doc.Code, suggestion, format string, args ...any) {
	a.d.Fail(s.Line, s.Col, code, suggestion, format, args...)
}

// Env is what the operator or target is compiled with.
func (a *Args) Env() *Env { return a.env }

// compiled notes what an expression or template came to.
func (a *Args) compiled(code any) { fmt.Fprint(&a.Code, code, " ") }

func (a *Args) expression(key string) *expr.Expression { return a.compile(key, expr.WantAny) }

// known is a condition that tells false from what a missing field keeps from being told.
func (a *Args) known(key string) *expr.Expression { return a.compile(key, expr.WantKnown) }

func (a *Args) compile(key string, w expr.Want) *expr.Expression {
	e := a.env.Compile(a.d, a.Scalar(key), w)
	a.compiled(e.Digest())
	return e
}

// template compiles a template, which names a Kafka topic or not.
func (a *Args) template(key string) *expr.Template {
	s := a.Scalar(key)
	if s == nil {
		return nil
	}
	t := a.env.Template(a.d, *s)
	a.compiled(t.Code())
	return t
}

// Text is the value of a key that is a word or a template, as it is written.
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

// Place is where a target leads, as it is written.
func (a *Args) Place() string {
	for i := range a.Keys {
		if s := a.Scalar(a.Keys[i].Name); s != nil && a.Keys[i].Value.Place {
			return s.Value
		}
	}
	return ""
}

// Expressions are the expressions as they are written, in the order of the keys.
func (a *Args) Expressions() []*doc.Scalar {
	var all []*doc.Scalar
	for i := range a.Keys {
		if s := a.Scalar(a.Keys[i].Name); s != nil {
			all = append(all, s)
		}
	}
	return all
}
