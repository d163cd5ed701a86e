package workbench

import (
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// testCase is one test of a *_test.yaml file: steps that start with an empty state.
type testCase struct {
	doc   *doc.Document
	name  doc.Scalar
	vin   string
	topic string
	rules []string // the rules that count; all if empty
	start time.Time
	cell  string // "": the cell of the tool
	steps []*testStep
}

type testStep struct {
	node    ast.Node
	line    int
	at      time.Duration // after the start
	vin     string
	topic   string
	payload []byte
	qos     byte
	retain  bool
	waits   bool // time passes without a message
	props   map[string]any
	expects bool // there is an expect key
	expect  []*expectation
}

// expectation is one expected output of a step.
type expectation struct {
	line, col int
	rule      string
	target    int // -1: any
	sink      op.SinkKind
	want      map[string]any // keys of the sink: topic, key, value, …
	err       *string        // text that an evaluation error must contain
}

// Defaults of a test.
const (
	defaultTestVIN  = "LTEST000000000001"
	defaultTestCell = "cell-test"
)

// defaultTestStart is 2025-01-01 00:00 UTC.
const defaultTestStart = 1_735_689_600_000

func readTests(display string, text []byte, targets op.Targets, report func(doc.Diagnostic)) []*testCase {
	d := doc.New(display, text, report, "a test file", "tests")
	o, ok := d.Root()
	if !ok || !o.Has("tests") {
		if ok {
			o.Missing("tests", "tests: [{name: …, steps: […]}]")
		}
		return nil
	}
	nodes, _ := d.List(o.Values["tests"], `"tests"`)
	var tests []*testCase
	for _, n := range nodes {
		d.Rule = "test"
		if t := readTest(d, n, targets); t != nil {
			tests = append(tests, t)
		}
	}
	return tests
}

func readTest(d *doc.Document, n ast.Node, targets op.Targets) *testCase {
	o, ok := d.Object(n, "a test", "name", "vin", "topic", "rules", "start", "cell", "steps")
	if !ok {
		return nil
	}
	t := &testCase{doc: d, vin: defaultTestVIN, start: time.UnixMilli(defaultTestStart).UTC()}
	if t.name, ok = o.Text("name"); !ok {
		if !o.Has("name") {
			o.Missing("name", "say in a few words what must be true")
		}
		return nil
	}
	d.Rule = "test " + t.name.Value
	o.Optional("vin", &t.vin)
	o.Optional("topic", &t.topic)
	o.Optional("cell", &t.cell)
	if s, ok := o.Text("start"); ok {
		var err error
		if t.start, err = time.Parse(time.RFC3339, s.Value); err != nil {
			d.Fail(s.Line, s.Col, doc.CodeTestFile, "for example 2025-01-01T08:00:00Z", "%q is not a time", s.Value)
		}
	}
	if n, ok := o.Values["rules"]; ok {
		v, _ := d.Any(n, `"rules"`, 0)
		list, _ := v.([]any)
		for _, id := range list {
			if s, ok := id.(string); ok {
				t.rules = append(t.rules, s)
			}
		}
	}
	if !o.Has("steps") {
		o.Missing("steps", "steps: [{payload: {soc: 12}, expect: [{rule: low-battery}]}]")
		return nil
	}
	nodes, _ := d.List(o.Values["steps"], `"steps"`)
	var now time.Duration
	for _, n := range nodes {
		if s := t.readStep(n, targets, &now); s != nil {
			t.steps = append(t.steps, s)
		}
	}
	return t
}

func (t *testCase) readStep(n ast.Node, targets op.Targets, now *time.Duration) *testStep {
	d := t.doc
	o, ok := d.Object(n, "a step", "at", "after", "wait", "vin", "topic", "payload", "qos", "retain", "properties", "expect")
	if !ok {
		return nil
	}
	s := &testStep{node: n, vin: t.vin, topic: t.topic, qos: 1}
	s.line, _ = doc.Place(n)
	o.Optional("vin", &s.vin)
	o.Optional("topic", &s.topic)
	if s.topic == "" {
		s.topic = "v1/${vin}/up/telemetry"
	}
	if !t.readTime(o, now) {
		return nil
	}
	s.at = *now
	if s.waits = o.Has("wait"); s.waits {
		for _, key := range []string{"vin", "topic", "payload", "qos", "retain", "properties"} {
			if at, ok := o.Keys[key]; ok {
				d.Fail(at.Line, at.Col, doc.CodeTestFile, "write after instead of wait for a message that comes then", "a step that waits has no message, and no %q", key)
			}
		}
	}
	if o.Has("qos") {
		q, _ := o.Integer("qos", 0, 2)
		s.qos = byte(q) //nolint:gosec // at most 2
	}
	if v, ok := o.Text("retain"); ok {
		s.retain = v.Value == "true"
	}
	if n, ok := o.Values["properties"]; ok {
		v, _ := d.Any(n, `"properties"`, 0)
		s.props, _ = v.(map[string]any)
	}
	if n, ok := o.Values["payload"]; ok {
		v, _ := d.Any(n, `"payload"`, 0)
		if text, ok := v.(string); ok {
			s.payload = []byte(text) // as written, valid JSON or not
		} else {
			s.payload = expr.AppendJSON(nil, v)
		}
	}
	if n, ok := o.Values["expect"]; ok {
		s.expects = true
		s.expect = readExpect(d, n, targets)
	}
	return s
}

// readTime moves the test's clock: at is relative to the test's start, after and wait to the previous step.
func (t *testCase) readTime(o *doc.Object, now *time.Duration) bool {
	for _, key := range []string{"at", "after", "wait"} {
		s, ok := o.Text(key)
		if !ok {
			continue
		}
		v, ok := doc.ParseDuration(s.Value)
		if key != "at" {
			v += *now
		}
		if !ok || v < *now || v-*now > doc.MaxDuration {
			t.doc.Fail(s.Line, s.Col, doc.CodeTestFile, "write a duration, not before the step above: 0s, 10s, 5m", "%q is not a time for this step", s.Value)
			return false
		}
		*now = v
	}
	return true
}

// readExpect reads `none` or a list of outputs.
func readExpect(d *doc.Document, n ast.Node, targets op.Targets) []*expectation {
	if _, isList := n.(*ast.SequenceNode); !isList {
		if s, ok := d.Scalar(n, `"expect"`); ok && s.Value != "none" {
			d.Fail(s.Line, s.Col, doc.CodeTestFile, "write none, or a list of outputs", "%q is not something to expect", s.Value)
		}
		return nil
	}
	nodes, _ := d.List(n, `"expect"`)
	var out []*expectation
	for _, n := range nodes {
		if e := readExpectation(d, n, targets); e != nil {
			out = append(out, e)
		}
	}
	return out
}

func readExpectation(d *doc.Document, n ast.Node, targets op.Targets) *expectation {
	o, ok := d.Object(n, "an expected output", slices.Concat([]string{"rule", "target"}, targets.Names(), []string{"error"})...)
	if !ok {
		return nil
	}
	e := &expectation{target: -1}
	e.line, e.col = doc.Place(n)
	if !o.Has("rule") {
		o.Missing("rule", "rule: low-battery")
		return nil
	}
	o.Optional("rule", &e.rule)
	if o.Has("target") {
		e.target, _ = o.Integer("target", 0, lang.MaxTargets-1)
	}
	if s, ok := o.Text("error"); ok {
		e.err = &s.Value
	}
	for _, t := range targets {
		name := string(t.Kind)
		n, ok := o.Values[name]
		if !ok {
			continue
		}
		if _, ok := d.Object(n, name, t.Expect...); !ok {
			return nil
		}
		v, _ := d.Any(n, name, 0)
		e.sink = t.Kind
		e.want, _ = v.(map[string]any)
	}
	return e
}
