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

// TestExplainKnowsTheSteps: what the operators remember is as old as it is.
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

// People read where an output goes; what is wrong with the payload as a whole is told once.
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
`)}), lang.Options{Cell: "c"})
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
