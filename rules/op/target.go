package op

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// Targets are what the rules of a gateway may send to, in the order in which they are named.
type Targets []*Target

// Target describes what a rule may send to. There is one for each key that may stand in `to`, and one sink for each.
type Target struct {
	// Kind is its key in `to`, and the kind of the sink that delivers what it makes.
	Kind SinkKind
	Keys []Key
	// Check looks at which keys are there, nil when Need says all.
	Check func(o *doc.Object) bool
	// Schema is its JSON Schema, nil for a mapping of the keys.
	Schema func() JSON
	// New compiles it; nil when something has been reported.
	New func(a *Args) Sender
	// View is a message of it as tests and explanations show it; Expect are the keys that it may have.
	View   func(r *Rendered) map[string]any
	Expect []string
	// Reference is its text in rules/README.md.
	Reference string
}

// Sender is a compiled target. It is immutable.
type Sender interface {
	// Render makes the message for the record of sc. It depends on record and decision alone.
	Render(sc *expr.Scope, r *Rendered) error
}

// Of returns the target of a kind, nil when there is none.
func (ts Targets) Of(kind SinkKind) *Target {
	for _, t := range ts {
		if t.Kind == kind {
			return t
		}
	}
	return nil
}

// Names are the keys that may stand in `to`.
func (ts Targets) Names() []string {
	var names []string
	for _, t := range ts {
		names = append(names, string(t.Kind))
	}
	return names
}

// Read reads an element of `to`; nil when it cannot be used, which has been reported.
func (ts Targets) Read(d *doc.Document, n ast.Node) (*Target, *Args) {
	names := ts.Names()
	if besideSink(d, n, names) {
		return nil, nil
	}
	o, ok := d.Object(n, "a target", names...)
	if !ok {
		return nil, nil
	}
	switch {
	case len(o.Values) == 0 && o.Odd:
		return nil, nil
	case len(o.Values) == 0:
		d.FailAt(n, doc.CodeNoTarget, "write "+orList(names), "a target without a sink")
		return nil, nil
	case len(o.Values) > 1:
		d.FailAt(n, doc.CodeTwoSinks, `give each sink its own "- " line`, "a target with %d sinks", len(o.Values))
		return nil, nil
	}
	for name, value := range o.Values {
		t := ts.Of(SinkKind(name))
		return t, t.read(d, value)
	}
	return nil, nil
}

// orList is "a, b or c".
func orList(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func (t *Target) read(d *doc.Document, n ast.Node) *Args {
	o, ok := d.Object(n, strconv.Quote(string(t.Kind)), KeyNames(t.Keys)...)
	if !ok || t.Check != nil && !t.Check(o) {
		return nil
	}
	return readArgs(o, t.Keys)
}

// Compile compiles the target; nil when something has been reported.
func (t *Target) Compile(a *Args, env Env) Sender {
	a.env = &env
	return t.New(a)
}

// besideSink reports keys that were to stand below an empty kafka, redis or central, and stand beside it.
func besideSink(d *doc.Document, n ast.Node, sinks []string) bool {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return false
	}
	sink := ""
	for _, p := range m.Values {
		key := p.Key.GetToken().Value
		_, empty := p.Value.(*ast.NullNode)
		switch known := slices.Contains(sinks, key); {
		case known && empty:
			sink = key
		case !known && sink != "":
			_, col := doc.Place(p.Key)
			d.FailAt(p.Key, doc.CodeUnknownKey, fmt.Sprintf("begin it in column %d, further than %s", col+2, sink), "%q stands beside %q, not below it", key, sink)
			return true
		}
	}
	return false
}

// Transform is the rule's transform, which the target sends instead of the payload; nil when it has none.
func (a *Args) Transform() *expr.Value {
	a.env.Decodes = a.env.Decodes || a.env.TransformDecodes
	return a.env.Transform
}

// eventTime is where a message says when it was measured, which decides on the target's write; nil when it does not.
func (a *Args) eventTime() ([]string, expr.TimeUnit) {
	a.env.Decodes = a.env.Decodes || a.env.Schema.EventAt != nil
	return a.env.Schema.EventAt, a.env.Schema.Unit
}

// PayloadView is JSON decoded, with numbers as they are written; anything else as text.
func PayloadView(b []byte) any {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if json.Valid(b) && d.Decode(&v) == nil {
		return v
	}
	return string(b)
}

// TopicKey is the name of a Kafka topic, or a template of one.
var TopicKey = Key{Name: "topic", Value: templateValue, Need: "for example topic: vehicle.telemetry"}

// topic compiles the name of a Kafka topic; nil when something has been reported.
func (a *Args) topic() *expr.Template {
	s, t := a.Scalar("topic"), a.template("topic")
	if t == nil {
		return nil
	}
	t.Topic = true
	a.env.BoundClasses(a.d, *s, t, a.env.Stored)
	a.env.PerVehicle(a.d, *s, t)
	if !ValidTopic(t.Sample()) {
		a.Fail(s, doc.CodeBadTopic, "use letters, digits, . _ and -, for example vehicle.telemetry", "%q is not a Kafka topic", s.Value)
	}
	return t
}

// ValidTopic reports whether s is a name that Kafka accepts for a topic.
func ValidTopic(s string) bool {
	if s == "" || len(s) > 249 || s == "." || s == ".." {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	}) < 0
}
