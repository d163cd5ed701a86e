package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// ruleWith returns a rule with an operator and a transform that shows its values.
func ruleWith(operator, transform string) string {
	text := "rules:\n  - id: r\n    from: [\"v1/+/up/telemetry\"]\n    " + operator + "\n"
	if transform != "" {
		text += "    transform: " + transform + "\n"
	}
	return text + "    to: [{kafka: {topic: t}}]\n"
}

// operatorCase is an operator with a sequence of messages and the expected outputs.
type operatorCase struct {
	operator string
	msgs     []operatorMessage
}

type operatorMessage struct {
	at      int64 // seconds
	payload string
	want    bool
}

func (m *operatorMessage) decision() string {
	if m.want {
		return "r/0"
	}
	return ""
}

func operatorCases() []operatorCase {
	type msg = operatorMessage
	return []operatorCase{
		{"sample: 10s", []msg{{0, `{}`, true}, {9, `{}`, false}, {10, `{}`, true}, {19, `{}`, false}, {35, `{}`, true}, {44, `{}`, false}}},
		{"threshold: {enter: payload.a > 5}", []msg{
			{0, `{"a":1}`, false}, {1, `{"a":6}`, true}, {2, `{"a":7}`, false}, {3, `{"a":5}`, false}, {4, `{"a":6}`, true},
		}},
		{"threshold: {enter: payload.a > 5, exit: payload.a < 3}", []msg{
			{0, `{"a":6}`, true}, {1, `{"a":4}`, false}, {2, `{"a":6}`, false}, {3, `{}`, false}, {4, `{"a":2}`, false}, {5, `{"a":6}`, true},
		}},
		{"threshold: {enter: payload.a > 5, exit: payload.a < 3, for: 30s}", []msg{
			{0, `{"a":6}`, false},
			{29, `{"a":6}`, false},
			{30, `{"a":6}`, true},
			{31, `{"a":6}`, false},
			{32, `{"a":2}`, false},
			{40, `{"a":6}`, false},
			{60, `{"a":4}`, false},
			{65, `{"a":6}`, false},
			{94, `{"a":6}`, false},
			{95, `{"a":6}`, true},
		}},
		{"dedupe: {by: payload.id, within: 60s}", []msg{
			{0, `{"id":1}`, true}, {1, `{"id":2}`, true}, {59, `{"id":1}`, false}, {60, `{"id":1}`, true}, {61, `{"id":1}`, false}, {62, `{}`, true}, {62, `{}`, true},
		}},
		{"dedupe: {within: 60s}", []msg{{0, `{"a":1}`, true}, {1, `{"a":1}`, false}, {2, `{"a":2}`, true}, {3, `x`, true}, {4, `x`, false}}},
		{"dedupe: {by: payload.id, within: 60s, max: 2}", []msg{
			{0, `{"id":1}`, true}, {1, `{"id":2}`, true}, {2, `{"id":3}`, true}, {3, `{"id":3}`, false}, {4, `{"id":1}`, true},
		}},
		{"on_change: payload.gear", []msg{
			{0, `{"gear":"P"}`, true}, {1, `{"gear":"P"}`, false}, {2, `{}`, false}, {3, `{"gear":"D"}`, true}, {4, `{"gear":"P"}`, true},
		}},
		{"count: {at_least: 3, window: 60s}", []msg{
			{0, `{}`, false}, {30, `{}`, false}, {59, `{}`, true}, {60, `{}`, false}, {61, `{}`, false}, {121, `{}`, false}, {122, `{}`, false}, {123, `{}`, true},
		}},
		{"rate_limit: {count: 2, per: 60s}", []msg{
			{0, `{}`, true}, {10, `{}`, true}, {20, `{}`, false}, {59, `{}`, false}, {60, `{}`, true}, {61, `{}`, false}, {70, `{}`, true},
		}},
		{"geofence: {lat: payload.lat, lon: payload.lon, zones: {a: {lat: 31.2, lon: 121.4, radius: 1000}}}", []msg{
			{0, `{"lat":32,"lon":121.4}`, false},
			{1, `{"lat":31.2,"lon":121.4}`, true},
			{2, `{"lat":31.205,"lon":121.4}`, false},
			{3, `{}`, false},
			{4, `{"lat":31.21,"lon":121.4}`, true},
			{5, `{"lat":131,"lon":121.4}`, false},
			{6, `{"lat":31.2,"lon":121.4}`, true},
		}},
		{"geofence: {lat: payload.lat, lon: payload.lon, on: exit, zones: {a: {polygon: [[0, 0], [0, 10], [10, 10], [10, 0]]}}}", []msg{
			{0, `{"lat":5,"lon":5}`, false}, {1, `{"lat":5,"lon":11}`, true}, {2, `{"lat":5,"lon":12}`, false}, {3, `{"lat":9.9,"lon":0.1}`, false}, {4, `{"lat":-1,"lon":5}`, true},
		}},
	}
}

func TestOperators(t *testing.T) {
	t.Parallel()
	for _, c := range operatorCases() {
		t.Run(c.operator, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rulestest.Compile(t, ruleWith(c.operator, "")))
			for i, m := range c.msgs {
				want := m.decision()
				if got := r.send(m.at*1000, m.payload); got != want {
					t.Errorf("message %d at %ds %s: got %q, want %q", i, m.at, m.payload, got, want)
				}
			}
		})
	}
}

// TestOperatorsKeepVINsApart interleaves the messages of two vehicles.
func TestOperatorsKeepVINsApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Compile(t, ruleWith("sample: 10s", "")))
	for i, want := range []string{"r/0", "", "r/0"} {
		for _, vin := range []string{"A", "B"} {
			if got := r.sendTo("v1/"+vin+"/up/telemetry", int64(i)*5000, `{}`); got != want {
				t.Errorf("vehicle %s message %d: got %q", vin, i, got)
			}
		}
	}
}

func TestOperatorsChain(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Compile(t, ruleWith("on_change: payload.gear\n    rate_limit: {count: 1, per: 10s}\n    when: payload.speed > 0", "")))
	for i, c := range []struct{ payload, want string }{
		{`{"gear":"P","speed":0}`, ""},
		{`{"gear":"P","speed":1}`, "r/0"},
		{`{"gear":"D","speed":1}`, ""}, // a change, held back by the limit
		{`{"gear":"D","speed":1}`, ""},
	} {
		if got := r.send(int64(i), c.payload); got != c.want {
			t.Errorf("message %d: got %q, want %q", i, got, c.want)
		}
	}
}

// TestOperatorValues renders operator values from the decision alone, with a new engine.
func TestOperatorValues(t *testing.T) {
	t.Parallel()
	at := func(s int64) string { return time.UnixMilli(rulestest.Epoch + s*1000).UTC().Format(message.TimeLayout) }
	for _, c := range []struct {
		operator, transform string
		payloads            []string // one second apart; the last one passes
		want                string
	}{
		{"on_change: payload.gear", "{p: operator.previous, n: payload.gear}", []string{`{"gear":"P"}`, `{"gear":"D"}`}, `{"p":"P","n":"D"}`},
		{"on_change: payload.gear", "{p: operator.previous}", []string{`{"gear":"P"}`}, `{"p":null}`},
		{"on_change: '[payload.a, payload.b]'", "operator.previous", []string{`{"a":1}`, `{"a":1,"b":"x"}`}, `[1,null]`},
		{"count: {at_least: 2, window: 5s}", "{n: operator.count + 1, f: operator.first}", []string{`{}`, `{}`}, `{"n":3,"f":"` + at(0) + `"}`},
		{"threshold: {enter: payload.a > 1, for: 2s}", "operator.since", []string{`{"a":2}`, `{"a":2}`, `{"a":2}`}, `"` + at(0) + `"`},
		{
			"geofence: {lat: payload.y, lon: payload.x, zones: {a: {lat: 0, lon: 0, radius: 10}, b: {lat: 1, lon: 0, radius: 10}}}",
			"{in: operator.entered, out: operator.left}",
			[]string{`{"y":0,"x":0}`, `{"y":1,"x":0}`},
			`{"in":["b"],"out":["a"]}`,
		},
	} {
		set := rulestest.Compile(t, ruleWith(c.operator, c.transform))
		w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
		var kept []byte
		rec := rulestest.Telemetry(1, rulestest.Epoch, "")
		for i, p := range c.payloads {
			rec = rulestest.Telemetry(uint64(i+1), rulestest.Epoch+int64(i)*1000, p)
			for _, d := range w.Eval(&rec, nil) {
				kept = d.Append(kept[:0])
			}
		}
		d, n, err := DecodeDecision(kept)
		if err != nil || n != len(kept) {
			t.Fatalf("%s: %v", c.operator, err)
		}
		var r op.Rendered
		if err := NewRenderer(set).Render(d, &rec, &r); err != nil || string(r.Value) != c.want {
			t.Errorf("%s: %s %v, want %s", c.operator, r.Value, err, c.want)
		}
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	text := func(mode string) string {
		return strings.Replace(ruleWith("sample: 1ms", ""), "sample", "mode: "+mode+"\n    sample", 1)
	}
	if got := newRig(t, rulestest.Compile(t, text("disabled"))).send(0, `{}`); got != "" {
		t.Errorf("disabled: %q", got)
	}
	if got := newRig(t, rulestest.Compile(t, text("shadow"))).send(0, `{}`); got != "r/shadow" {
		t.Errorf("shadow: %q", got)
	}
	r, hit := newRig(t, rulestest.Compile(t, text("{canary: 10%}"))), map[string]bool{}
	for round := range 2 {
		for i := range 2000 {
			vin := fmt.Sprintf("LTEST%012d", i)
			got := r.sendTo("v1/"+vin+"/up/telemetry", int64(round)*1000, `{}`) != ""
			if round == 1 && hit[vin] != got {
				t.Errorf("%s: chosen %t, then %t", vin, hit[vin], got)
			}
			hit[vin] = got
		}
	}
	n := 0
	for _, h := range hit {
		if h {
			n++
		}
	}
	if n < 140 || n > 260 {
		t.Errorf("canary 10%%: %d of 2000 vehicles", n)
	}
}
