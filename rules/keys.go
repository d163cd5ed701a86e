package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
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
	schema js
	// read reads the value of a key that is there. false means that it is wrong, which has been reported.
	read func(o *object, key string) (any, bool)
	// lenient values that are wrong do not keep the rest from being looked at.
	lenient bool
	// place says that it tells where a target leads.
	place bool
}

var (
	durationValue   = Value{schema: ref("duration"), read: func(o *object, key string) (any, bool) { return o.duration(key) }}
	expressionValue = Value{schema: ref("expression"), read: readExpr, lenient: true}
	templateValue   = Value{schema: ref("template"), read: readText, lenient: true, place: true}
)

func readExpr(o *object, key string) (any, bool) {
	s := o.expr(key)
	return s, s != nil
}

func readText(o *object, key string) (any, bool) {
	s, ok := o.text(key)
	return &s, ok
}

func integerValue(lo, hi int) Value {
	return Value{schema: whole(lo, hi), read: func(o *object, key string) (any, bool) { return o.integer(key, lo, hi) }}
}

// oneOfValue is one of a few words; what says in a finding what another word is not.
func oneOfValue(what string, code Code, suggestion string, words ...string) Value {
	read := func(o *object, key string) (any, bool) {
		s, ok := o.text(key)
		if ok && !slices.Contains(words, s.value) {
			o.d.fail(s.line, s.col, code, suggestion, "%q is not %s", s.value, what)
		}
		return s.value, ok
	}
	return Value{schema: js{"enum": words}, read: read, lenient: true}
}

// Args are the values of an operator's or a target's keys.
type Args struct {
	d      *document
	node   ast.Node
	keys   []Key
	values map[string]any
	env    *Env
	code   strings.Builder
}

// Env is what an operator or a target is compiled with.
type Env struct {
	*names
	// Transform is the rule's, nil when it has none. TransformDecodes says that it reads the payload.
	Transform        *value
	TransformDecodes bool
	// Stored says that the source was in force before this version.
	Stored bool
}

// readArgs reads the values of an object's keys. A key that is missing is reported; it ends the reading when strict. A wrong
// value of a key that must be there, when strict of any key but lenient ones, makes the whole unusable: nil.
func readArgs(o *object, keys []Key, strict bool) *Args {
	a := &Args{d: o.d, node: o.node, keys: keys, values: map[string]any{}}
	usable := true
	for i := range keys {
		k := &keys[i]
		if !o.has(k.Name) {
			if k.Default != nil {
				a.values[k.Name] = k.Default
			}
			if k.Need == "" {
				continue
			}
			o.missing(k.Name, k.Need)
			if usable = false; strict {
				return nil
			}
			continue
		}
		v, ok := k.Value.read(o, k.Name)
		if ok {
			a.values[k.Name] = v
		} else if k.Need != "" || strict && !k.Value.lenient {
			usable = false
		}
	}
	if !usable {
		return nil
	}
	return a
}

func keyNames(keys []Key) []string {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = keys[i].Name
	}
	return names
}

// Read reads the operator of a rule; nil when it cannot be used, which has been reported.
func (op *Operator) Read(d *document, n ast.Node) *Args {
	quoted := strconv.Quote(op.Name)
	first := op.Keys[0]
	if _, isMap := n.(*ast.MappingNode); !isMap && first.Alone {
		o := &object{d: d, node: n, what: quoted, values: map[string]ast.Node{op.Name: n}}
		v, ok := first.Value.read(o, op.Name)
		if !ok {
			return nil
		}
		return &Args{d: d, node: n, keys: op.Keys, values: map[string]any{first.Name: v}}
	}
	o, ok := d.object(n, quoted, keyNames(op.Keys)...)
	if !ok {
		return nil
	}
	return readArgs(o, op.Keys, true)
}

// Compile compiles the operator; what is wrong has been reported.
func (op *Operator) Compile(a *Args, env Env) Runner {
	a.env = &env
	return op.New(a)
}

func (a *Args) scalar(key string) *scalar {
	s, _ := a.values[key].(*scalar)
	return s
}

// compiled notes what an expression or template came to.
func (a *Args) compiled(code any) { fmt.Fprint(&a.code, code, " ") }

func (a *Args) expression(key string) *expression { return a.compile(key, wantAny) }

func (a *Args) condition(key string) *expression { return a.compile(key, wantBool) }

func (a *Args) compile(key string, w want) *expression {
	e := a.env.compile(a.d, a.scalar(key), w)
	a.compiled(e.digest())
	return e
}

// template compiles a template, which names a Kafka topic or not.
func (a *Args) template(key string) *template {
	s := a.scalar(key)
	if s == nil {
		return nil
	}
	t := a.env.template(a.d, *s)
	a.compiled(t.code())
	return t
}

func (a *Args) text(key string) string {
	switch v := a.values[key].(type) {
	case string:
		return v
	case *scalar:
		return v.value
	}
	return ""
}

func (a *Args) integer(key string) int {
	n, _ := a.values[key].(int)
	return n
}

func (a *Args) duration(key string) time.Duration {
	d, _ := a.values[key].(time.Duration)
	return d
}

func (a *Args) millis(key string) int64 { return a.duration(key).Milliseconds() }

// Place is where a target leads, as it is written.
func (a *Args) Place() string {
	for i := range a.keys {
		if s := a.scalar(a.keys[i].Name); s != nil && a.keys[i].Value.place {
			return s.value
		}
	}
	return ""
}

// Expressions are the expressions as they are written, in the order of the keys.
func (a *Args) Expressions() []*scalar {
	var all []*scalar
	for i := range a.keys {
		if s := a.scalar(a.keys[i].Name); s != nil {
			all = append(all, s)
		}
	}
	return all
}
