package workbench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/duration"
	"cellgate/rules/engine"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// testResult is the outcome of one test of a *_test.yaml file.
type testResult struct {
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Name     string        `json:"name"`
	Passed   bool          `json:"passed"`
	Failures []TestFailure `json:"failures,omitempty"`
}

// TestFailure is one difference between expected and actual outputs of a step.
type TestFailure struct {
	Line    int    `json:"line"`
	Step    int    `json:"step"` // from 1
	Message string `json:"message"`
}

// output is one output of a step, in the terms of an expectation.
type output struct {
	rule   string
	target int // -1 for an evaluation error
	sink   op.SinkKind
	got    map[string]any
	err    string
	used   bool
}

// run runs one test on a set. It returns the error of ctx if that ends first.
func (t *testCase) run(ctx context.Context, set *lang.Set, covered covering) (testResult, error) {
	res := testResult{File: t.doc.File, Line: t.name.Line, Name: t.name.Value}
	w := engine.NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	seen := covered.observer(set, t.rules)
	for i, s := range t.steps {
		if err := ctx.Err(); err != nil {
			return res, fmt.Errorf("test %q: %w", t.name.Value, err)
		}
		outs := s.outputs(w, seen, t, uint64(i+1)) //nolint:gosec // an index
		if !s.expects {
			continue
		}
		for _, f := range s.compare(outs, t.rules) {
			f.Step = i + 1
			res.Failures = append(res.Failures, f)
		}
	}
	res.Passed = len(res.Failures) == 0
	return res, nil
}

func (s *testStep) record(t *testCase, seq uint64) message.Record {
	rec := message.Record{
		Seq: seq, ReceivedAt: t.start.Add(s.at).UnixMilli(), Kind: message.KindPublish, QoS: s.qos, Retain: s.retain,
		Client: s.vin, Topic: strings.ReplaceAll(s.topic, "${vin}", s.vin), Payload: s.payload,
	}
	for _, name := range slices.Sorted(maps.Keys(s.props)) {
		rec.Props.User = append(rec.Props.User, message.UserProperty{Name: name, Value: string(expr.AppendText(nil, s.props[name]))})
	}
	return rec
}

func (s *testStep) outputs(w *engine.Worker, seen *observer, t *testCase, seq uint64) []*output {
	rec, set := s.record(t, seq), seen.set
	seen.begin(w, &rec)
	ds := w.Until(rec.ReceivedAt, nil)
	if !s.waits {
		ds = w.Eval(&rec, ds)
	}
	if s.expects {
		seen.end(&rec, !s.waits, ds)
	}
	var outs []*output
	for _, d := range ds {
		if d.Shadow && (d.Err == "" || set.Compiled[d.Rule].Def.Mode.Shadow) {
			continue
		}
		for _, r := range d.Undecoded {
			outs = append(outs, &output{rule: set.RuleID(r), target: -1, err: d.Err})
		}
		if d.Target == engine.TargetUndecoded {
			continue
		}
		o := &output{rule: set.RuleID(d.Rule), target: int(d.Target)}
		var r op.Rendered
		if d.Target == engine.TargetError {
			o.target, o.err = -1, d.Err
		} else if err := w.Render(d, &rec, &r); err != nil {
			o.err = err.Error()
		} else if r.Redis.Nothing {
			continue
		} else {
			o.sink, o.got = r.Sink, set.View(&r)
		}
		outs = append(outs, o)
	}
	return outs
}

func (s *testStep) compare(outs []*output, rules []string) []TestFailure {
	var fails []TestFailure
	var almost []*output
	for _, e := range s.expect {
		if reason, near := e.take(outs); reason != "" {
			fails = append(fails, TestFailure{Line: e.line, Message: reason})
			almost = append(almost, near...)
		}
	}
	for _, o := range almost { // reported with the expectation that it does not meet
		o.used = true
	}
	for _, o := range outs {
		if o.used || (len(rules) > 0 && !slices.Contains(rules, o.rule)) {
			continue
		}
		fails = append(fails, TestFailure{Line: s.line, Message: "not expected: " + o.String()})
	}
	return fails
}

// String describes an output on one line.
func (o *output) String() string {
	if o.err != "" {
		return fmt.Sprintf("rule %s: error: %s", o.rule, o.err)
	}
	return fmt.Sprintf("rule %s target %d: %s %s", o.rule, o.target, o.sink, expr.AppendJSON(nil, o.got))
}

// take marks the outputs that the expectation covers, or returns what is missing. Without target and sink it covers all
// outputs of the rule. near is the output of that sink and target that the reason refers to, if there is one.
func (e *expectation) take(outs []*output) (reason string, near []*output) {
	whole := e.target < 0 && e.sink == "" && e.err == nil
	var reasons, close []string
	found := false
	for _, o := range outs {
		if o.used || o.rule != e.rule {
			continue
		}
		if reason := e.mismatch(o); reason != "" {
			reasons = append(reasons, reason)
			if e.elsewhere(o) == "" {
				close, near = append(close, reason), append(near, o)
			}
			continue
		}
		o.used, found = true, true
		if !whole {
			return "", nil
		}
	}
	switch {
	case found:
		return "", nil
	case len(close) == 1:
		return fmt.Sprintf("rule %s: %s", e.rule, close[0]), near
	case len(reasons) > 0:
		return fmt.Sprintf("rule %s: %s", e.rule, strings.Join(reasons, "; ")), nil
	}
	return fmt.Sprintf("rule %s has no matching output", e.rule), nil
}

// elsewhere says that an output went to another sink or target than expected; "" if it did not.
func (e *expectation) elsewhere(o *output) string {
	switch {
	case o.err != "":
	case e.target >= 0 && e.target != o.target:
		return fmt.Sprintf("target %d is not %d", o.target, e.target)
	case e.sink != "" && e.sink != o.sink:
		return fmt.Sprintf("target %d goes to %s, not to %s", o.target, o.sink, e.sink)
	}
	return ""
}

// mismatch says why an output is not the expected one; "" if it is.
func (e *expectation) mismatch(o *output) string {
	switch {
	case e.err != nil && o.err == "":
		return "expected an error, got " + o.String()
	case e.err != nil && !strings.Contains(o.err, *e.err):
		return fmt.Sprintf("expected an error with %q, got: %s", *e.err, o.err)
	case e.err != nil:
		return ""
	case o.err != "":
		return o.err
	}
	if away := e.elsewhere(o); away != "" {
		return away
	}
	return differs("", anyMap(e.want), anyMap(o.got))
}

func anyMap(m map[string]any) any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// differs says where got differs from want; "" if nowhere. Fields that want does not name are ignored, null requires a
// missing field, and a number equals its text, since Redis has only text.
func differs(path string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		return fieldsDiffer(path, w, got)
	case []any:
		return itemsDiffer(path, w, got)
	}
	if want == got || (want != nil && got != nil && expr.SameText(want, got)) || path == "ttl" && sameDuration(want, got) {
		return ""
	}
	return fmt.Sprintf("%s is %s, expected %s", orRoot(path), expr.AppendJSON(nil, got), expr.AppendJSON(nil, want))
}

func fieldsDiffer(path string, want map[string]any, got any) string {
	g, ok := got.(map[string]any)
	if !ok {
		return fmt.Sprintf("%s is %s", orRoot(path), expr.AppendJSON(nil, got))
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if d := differs(strings.TrimPrefix(path+"."+k, "."), want[k], g[k]); d != "" {
			return d
		}
	}
	return ""
}

func itemsDiffer(path string, want []any, got any) string {
	g, ok := got.([]any)
	if !ok || len(g) != len(want) {
		return fmt.Sprintf("%s is %s, expected %s", orRoot(path), expr.AppendJSON(nil, got), expr.AppendJSON(nil, want))
	}
	for i := range want {
		if d := differs(path+"["+strconv.Itoa(i)+"]", want[i], g[i]); d != "" {
			return d
		}
	}
	return ""
}

// sameDuration reports whether two texts are the same duration, like 24h and 1d.
func sameDuration(want, got any) bool {
	a, isText := want.(string)
	b, isTextToo := got.(string)
	if !isText || !isTextToo {
		return false
	}
	wants, err := duration.Parse(a)
	gets, errToo := duration.Parse(b)
	return err == nil && errToo == nil && wants == gets
}

func orRoot(path string) string {
	if path == "" {
		return "the output"
	}
	return path
}
