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

// Targets are the targets that a gateway's rules may use, in the order in which messages name them.
type Targets []*Target

// Target describes a target: a key of `to`. Each has its own sink.
type Target struct {
	// Kind is the key in `to` and the kind of the sink that delivers the messages.
	Kind SinkKind
	Keys []Key
	// Check checks which keys are present; nil if Need suffices.
	Check func(o *doc.Object) bool
	// Schema returns the JSON Schema; nil for the mapping of the keys.
	Schema func() JSON
	// New compiles the target. It reports errors and returns nil for them.
	New func(a *Args) Sender
	// View shows a message as tests and explanations do; Expect lists the keys it may have.
	View   func(r *Rendered) map[string]any
	Expect []string
	// Reference is the target's text in rules/README.md.
	Reference string
}

// Sender is a compiled target. It is immutable.
type Sender interface {
	// Render renders the message for the record of sc. The result depends only on record and decision.
	Render(sc *expr.Scope, r *Rendered) error
}

// Of returns the target of a kind, nil if there is none.
func (ts Targets) Of(kind SinkKind) *Target {
	for _, t := range ts {
		if t.Kind == kind {
			return t
		}
	}
	return nil
}

// Names returns the keys that `to` accepts.
func (ts Targets) Names() []string {
	var names []string
	for _, t := range ts {
		names = append(names, string(t.Kind))
	}
	return names
}

// Read reads an element of `to`. It reports errors and returns nil if the element is unusable.
func (ts Targets) Read(d *doc.Document, n ast.Node) (*Target, *Args) {
	names := ts.Names()
	if misplacedBelowSink(d, n, names) {
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

// orList joins names as "a, b or c".
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

// Compile compiles the target. It reports errors and returns nil for them.
func (t *Target) Compile(a *Args, env Env) Sender {
	a.env = &env
	return t.New(a)
}

// misplacedBelowSink reports keys that are next to an empty sink key but belong below it.
func misplacedBelowSink(d *doc.Document, n ast.Node, sinks []string) bool {
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
			d.FailAt(p.Key, doc.CodeUnknownKey, fmt.Sprintf("begin it in column %d, further than %s", col+2, sink), "%q is next to %q, not below it", key, sink)
			return true
		}
	}
	return false
}

// Transform returns the rule's transform, which the target sends instead of the payload; nil if there is none.
func (a *Args) Transform() *expr.Value {
	a.env.Decodes = a.env.Decodes || a.env.TransformDecodes
	return a.env.Transform
}

// eventTime returns the path and unit of the event time, which decides about the target's write; nil if the schema has
// none.
func (a *Args) eventTime() ([]string, expr.TimeUnit) {
	a.env.Decodes = a.env.Decodes || a.env.Schema.EventAt != nil
	return a.env.Schema.EventAt, a.env.Schema.Unit
}

// PayloadView returns decoded JSON with numbers as written; other payloads as text.
func PayloadView(b []byte) any {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if json.Valid(b) && d.Decode(&v) == nil {
		return v
	}
	return string(b)
}

// TopicKey is the key for a Kafka topic: a name or a template.
var TopicKey = Key{Name: "topic", Value: templateValue, Need: "for example topic: vehicle.telemetry"}

// topic compiles the Kafka topic. It reports errors and returns nil for them.
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

// ValidTopic reports whether s is a valid Kafka topic name.
func ValidTopic(s string) bool {
	if s == "" || len(s) > 249 || s == "." || s == ".." {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	}) < 0
}
