package workbench

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// TestExplainKnowsTheSteps checks that clock steps do not change the age of what operators remember.
func TestExplainKnowsTheSteps(t *testing.T) {
	t.Parallel()
	state := state.NewState(state.StateOptions{})
	set := rulestest.Compile(t, `rules: [{id: r, from: ["v1/+/up/telemetry"], sample: 10s, to: [{kafka: {topic: t}}]}]`)
	rec := rulestest.Telemetry(1, rulestest.Epoch, "{}")
	engine.NewEngine(set, state).NewWorker().Eval(&rec, nil)
	state.StepClock(message.ClockStep{From: rulestest.Epoch, To: rulestest.Epoch + time.Hour.Milliseconds()})
	for at, want := range map[int64]bool{9: false, 10: true} {
		rec = rulestest.Telemetry(2, rulestest.Epoch+at*1000+state.Shift(), "{}")
		if x := Explain(set, &rec, state); len(x.Rules) != 1 || x.Rules[0].Matched != want {
			t.Errorf("%d s later: %+v", at, x.Rules)
		}
	}
}

func TestExplainSaysWhy(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
macros: {low: payload.soc < 15}
rules:
  - id: low
    from: ["v1/+/up/telemetry"]
    when: low and payload.speed > 0
    to: [{kafka: {topic: t}}]
  - id: sampled
    from: ["v1/+/up/telemetry"]
    sample: 10s
    to: [{kafka: {topic: t}}]
  - id: "off"
    from: ["v1/+/up/telemetry"]
    mode: disabled
    to: [{kafka: {topic: t}}]
  - id: other
    from: ["v1/+/up/alarm"]
    to: [{kafka: {topic: t}}]
`)
	state := state.NewState(state.StateOptions{})
	w := engine.NewEngine(set, state).NewWorker()
	first := rulestest.Telemetry(1, rulestest.Epoch, `{"soc":20}`)
	w.Eval(&first, nil)
	before := string(state.Export(rulestest.VIN))
	rec := rulestest.Telemetry(2, rulestest.Epoch+3000, `{"soc":9}`)
	x := Explain(set, &rec, state)
	if string(state.Export(rulestest.VIN)) != before {
		t.Error("explaining has changed the state")
	}
	if x.Others != 1 || len(x.Rules) != 3 {
		t.Fatalf("%+v", x)
	}
	low := x.Rules[0]
	if low.Matched || low.Stage != "when" {
		t.Errorf("low: %+v", low)
	}
	values := map[string]string{}
	for _, v := range low.Values {
		b, err := json.Marshal(v.Value)
		check.OK(t, err)
		values[v.Part] = string(b)
	}
	for part, want := range map[string]string{"low": "true", "payload.speed > 0": "false", "payload.speed": "null"} {
		if values[part] != want {
			t.Errorf("%s is %s, want %s (%v)", part, values[part], want, values)
		}
	}
	if s := x.Rules[1]; s.Stage != "sample" || s.Reason != "a message passed 3s ago, and one passes every 10s" {
		t.Errorf("sampled: %+v", s)
	}
	if o := x.Rules[2]; o.Stage != "mode" {
		t.Errorf("off: %+v", o)
	}
	fresh := Explain(set, &rec, nil)
	if !fresh.Rules[1].Matched || fresh.Rules[1].Outputs[0]["topic"] != "t" {
		t.Errorf("without history: %+v", fresh.Rules[1])
	}
	var b strings.Builder
	if err := x.Write(&b); err != nil || !strings.Contains(b.String(), "no     low: stopped at when") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// The destination of outputs is readable, and an error of the payload as a whole is shown once.
func TestExplanationIsForPeople(t *testing.T) {
	t.Parallel()
	set, diags := lang.Compile(lang.NewSource(map[string][]byte{"a.rules.yaml": []byte(`rules:
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.temp > 80 and payload.speed > 0
    to:
      - kafka: {topic: hot}
      - central: {lane: p0, topic: fleet.hot}
      - redis: {hash: "hot:${vin}", set: {temp: payload.temp}}
`)}), rulestest.Options("c"))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	explain := func(payload string) string {
		var b strings.Builder
		x := Explain(set, &message.Record{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/telemetry", Payload: []byte(payload)}, nil)
		check.OK(t, x.Write(&b))
		return b.String()
	}
	text := explain(`{"temp": 90, "speed": 1}`)
	for _, want := range []string{
		"→ kafka hot, key V: {\"speed\":1,\"temp\":90}\n",
		"→ central fleet.hot, lane p0, key V: {\"speed\":1,\"temp\":90}\n",
		"→ redis {\"fields\":{\"temp\":\"90\"},\"hash\":\"hot:V\"}\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if text = explain("{"); strings.Count(text, "cannot be decoded") != 1 {
		t.Errorf("told more than once:\n%s", text)
	}
}

// TestExplainShowsMemory checks that the operators' memory is described in an analyst's words.
func TestExplainShowsMemory(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{
		"threshold: {enter: payload.a > 1, for: 30s}":                "threshold: enter true since 00:53:20, 18s of 30s",
		"threshold: {enter: payload.a > 1, for: 30s, by: payload.b}": "threshold: for this value of payload.b: enter true since 00:53:20, 18s of 30s",
		"threshold: {enter: payload.a > 5, for: 30s}":                "threshold: enter is false",
		"threshold: {enter: payload.c > 5}":                          "threshold: a field is missing, so enter is not known",
		"count: {at_least: 3, window: 1m}":                           "count: this is message 2 of 3 within 1m",
		"on_change: {of: payload.a, deadband: 5}":                    "on_change: the value differs by less than 5 from the one that passed, 2",
		"on_change: payload.d":                                       "on_change: the value is missing",
		"silent: 1m":                                                 "silent: a message has arrived: 1m of silence start now",
		"average: {of: payload.a, window: 5m}":                       "average: the window that began at 00:50:00 ends at 00:55:00; what is in it is sent then",
		"sample: 1s\n    having: payload.a > 9":                      "having: the condition is false",
		"each: payload.list":                                         "each: the list is missing or empty",
		"time: event\n    count: {at_least: 3, window: 1m}":          "count: the message is late: one of 00:53:20 has been seen, this is of 00:53:19",
	} {
		set := rulestest.Compile(t, "schema: {event_at: ts}\nrules:\n  - id: r\n    from: [\"v1/+/up/telemetry\"]\n    "+rule+"\n    to: [{kafka: {topic: t}}]\n")
		state := state.NewState(state.StateOptions{})
		first := rulestest.Telemetry(1, rulestest.Epoch, `{"a":2,"b":1,"ts":1763600000}`)
		engine.NewEngine(set, state).NewWorker().Eval(&first, nil)
		rec := rulestest.Telemetry(2, rulestest.Epoch+18_000, `{"a":3,"b":1,"ts":1763599999}`)
		if x := Explain(set, &rec, state).Rules[0]; x.Stage+": "+x.Reason != want {
			t.Errorf("%s\n%s: %s, want\n%s", rule, x.Stage, x.Reason, want)
		}
	}
}

// TestExplainShowsElements checks that for a rule with each, every element is explained with its values.
func TestExplainShowsElements(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - id: alarms
    from: ["v1/+/up/telemetry"]
    each: payload.alarms
    when: item.level >= 3 and payload.on == true
    dedupe: {by: item.code, within: 1h}
    to: [{kafka: {topic: t, key: item.code}}]
`)
	known := state.NewState(state.StateOptions{})
	first := rulestest.Telemetry(1, rulestest.Epoch, `{"on":true,"alarms":[{"code":"E1","level":3}]}`)
	engine.NewEngine(set, known).NewWorker().Eval(&first, nil)
	explain := func(payload string) (RuleExplanation, string) {
		rec := rulestest.Telemetry(2, rulestest.Epoch+1000, payload)
		x := Explain(set, &rec, known)
		var b strings.Builder
		check.OK(t, x.Write(&b))
		return x.Rules[0], b.String()
	}
	x, text := explain(`{"on":true,"alarms":[{"code":"E1","level":4},{"code":"E2","level":1},{"code":"E3","level":5},{"code":"E4","level":"x"}]}`)
	if len(x.Outputs) != 1 || x.Outputs[0]["key"] != "E3" || !x.Matched {
		t.Errorf("outputs %v", x.Outputs)
	}
	for _, want := range []string{
		"element 0 stopped at dedupe: an equal message has passed within the last 1h; element 1 stopped at when: the condition is false; element 2 matches; element 3 is an error:",
		"element 0: item.level = 4\n", "element 1: item.level = 1\n", "element 2: item.code = \"E3\"\n", " payload.on = true\n",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q does not stand there once:\n%s", want, text)
		}
	}
	if x, text = explain(`{"on":false,"alarms":[{"code":"E9","level":4}]}`); x.Matched || x.Stage != "each" || !strings.Contains(text, "element 0 stopped at when") {
		t.Errorf("%s", text)
	}
	if x, _ = explain(`{"on":true,"alarms":5}`); x.Stage != "error" {
		t.Errorf("no list: %+v", x)
	}
}
