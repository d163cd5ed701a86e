package rules

import (
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// testCase is one test of a *_test.yaml file: steps on a fresh state.
type testCase struct {
	doc   *document
	name  scalar
	vin   string
	topic string
	rules []string // the rules that count; all when empty
	start time.Time
	cell  string // "": that of the tool
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
	props   map[string]any
	expects bool // there is an expect key
	expect  []*expectation
}

// expectation is one output that a step must have.
type expectation struct {
	line, col int
	rule      string
	target    int // -1: any
	sink      SinkKind
	want      map[string]any // sink's keys: topic, key, value, …
	err       *string        // an evaluation error whose text contains this
}

// Defaults of a test.
const (
	defaultTestVIN  = "LTEST000000000001"
	defaultTestCell = "cell-test"
)

// defaultTestStart is 2025-01-01 00:00 UTC.
const defaultTestStart = 1_735_689_600_000

// readTests reads a test file; what is wrong has been reported.
func readTests(display string, text []byte, report func(Diagnostic)) []*testCase {
	d := newDocument(display, text, report, "a test file", "tests")
	o, ok := d.root()
	if !ok || !o.has("tests") {
		if ok {
			o.missing("tests", "tests: [{name: …, steps: […]}]")
		}
		return nil
	}
	nodes, _ := d.list(o.values["tests"], `"tests"`)
	var tests []*testCase
	for _, n := range nodes {
		d.rule = "test"
		if t := readTest(d, n); t != nil {
			tests = append(tests, t)
		}
	}
	return tests
}

func readTest(d *document, n ast.Node) *testCase {
	o, ok := d.object(n, "a test", "name", "vin", "topic", "rules", "start", "cell", "steps")
	if !ok {
		return nil
	}
	t := &testCase{doc: d, vin: defaultTestVIN, start: time.UnixMilli(defaultTestStart).UTC()}
	if t.name, ok = o.text("name"); !ok {
		if !o.has("name") {
			o.missing("name", "say in a few words what must be true")
		}
		return nil
	}
	d.rule = "test " + t.name.value
	o.Optional("vin", &t.vin)
	o.Optional("topic", &t.topic)
	o.Optional("cell", &t.cell)
	if s, ok := o.text("start"); ok {
		var err error
		if t.start, err = time.Parse(time.RFC3339, s.value); err != nil {
			d.fail(s.line, s.col, CodeTestFile, "for example 2025-01-01T08:00:00Z", "%q is not a time", s.value)
		}
	}
	if n, ok := o.values["rules"]; ok {
		v, _ := d.any(n, `"rules"`, 0)
		list, _ := v.([]any)
		for _, id := range list {
			if s, ok := id.(string); ok {
				t.rules = append(t.rules, s)
			}
		}
	}
	if !o.has("steps") {
		o.missing("steps", "steps: [{payload: {soc: 12}, expect: [{rule: low-battery}]}]")
		return nil
	}
	nodes, _ := d.list(o.values["steps"], `"steps"`)
	var now time.Duration
	for _, n := range nodes {
		if s := t.readStep(n, &now); s != nil {
			t.steps = append(t.steps, s)
		}
	}
	return t
}

func (t *testCase) readStep(n ast.Node, now *time.Duration) *testStep {
	d := t.doc
	o, ok := d.object(n, "a step", "at", "after", "vin", "topic", "payload", "qos", "retain", "properties", "expect")
	if !ok {
		return nil
	}
	s := &testStep{node: n, vin: t.vin, topic: t.topic, qos: 1}
	s.line, _ = place(n)
	o.Optional("vin", &s.vin)
	o.Optional("topic", &s.topic)
	if s.topic == "" {
		s.topic = "v1/${vin}/up/telemetry"
	}
	if !t.readTime(o, now) {
		return nil
	}
	s.at = *now
	if o.has("qos") {
		q, _ := o.integer("qos", 0, 2)
		s.qos = byte(q) //nolint:gosec // at most 2
	}
	if v, ok := o.text("retain"); ok {
		s.retain = v.value == "true"
	}
	if n, ok := o.values["properties"]; ok {
		v, _ := d.any(n, `"properties"`, 0)
		s.props, _ = v.(map[string]any)
	}
	if n, ok := o.values["payload"]; ok {
		v, _ := d.any(n, `"payload"`, 0)
		if text, ok := v.(string); ok {
			s.payload = []byte(text) // as it is: also what is not JSON
		} else {
			s.payload = appendJSON(nil, v)
		}
	}
	if n, ok := o.values["expect"]; ok {
		s.expects = true
		s.expect = readExpect(d, n)
	}
	return s
}

// readTime moves the test's clock: at counts from the test's start, after from the step before.
func (t *testCase) readTime(o *object, now *time.Duration) bool {
	for _, key := range []string{"at", "after"} {
		s, ok := o.text(key)
		if !ok {
			continue
		}
		v, ok := parseDuration(s.value)
		if key == "after" {
			v += *now
		}
		if !ok || v < *now || v-*now > maxDuration {
			t.doc.fail(s.line, s.col, CodeTestFile, "write a duration, not before the step above: 0s, 10s, 5m", "%q is not a time for this step", s.value)
			return false
		}
		*now = v
	}
	return true
}

// readExpect reads `none` or a list of outputs.
func readExpect(d *document, n ast.Node) []*expectation {
	if _, isList := n.(*ast.SequenceNode); !isList {
		if s, ok := d.scalar(n, `"expect"`); ok && s.value != "none" {
			d.fail(s.line, s.col, CodeTestFile, "write none, or a list of outputs", "%q is not something to expect", s.value)
		}
		return nil
	}
	nodes, _ := d.list(n, `"expect"`)
	var out []*expectation
	for _, n := range nodes {
		if e := readExpectation(d, n); e != nil {
			out = append(out, e)
		}
	}
	return out
}

func readExpectation(d *document, n ast.Node) *expectation {
	o, ok := d.object(n, "an expected output", slices.Concat([]string{"rule", "target"}, targetNames(), []string{"error"})...)
	if !ok {
		return nil
	}
	e := &expectation{target: -1}
	e.line, e.col = place(n)
	if !o.has("rule") {
		o.missing("rule", "rule: low-battery")
		return nil
	}
	o.Optional("rule", &e.rule)
	if o.has("target") {
		e.target, _ = o.integer("target", 0, maxTargets-1)
	}
	if s, ok := o.text("error"); ok {
		e.err = &s.value
	}
	for _, t := range Targets() {
		name := string(t.Kind)
		n, ok := o.values[name]
		if !ok {
			continue
		}
		if _, ok := d.object(n, name, t.Expect...); !ok {
			return nil
		}
		v, _ := d.any(n, name, 0)
		e.sink = t.Kind
		e.want, _ = v.(map[string]any)
	}
	return e
}
