package engine

import (
	"testing"

	"cellgate/rules/rulestest"
)

// TestSchemaBounds checks that a number outside its bounds is an error, or missing, in conditions and in output.
func TestSchemaBounds(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Compile(t, `
schema:
  fields:
    soc: {number: [0, 100]}
    rpm: {integer: [-10, 20_000], outside: missing}
    pos: {lat: {number: [-90, 90], outside: error}}
rules:
  - {id: when, from: ["#"], when: payload.soc < 15, to: [{kafka: {topic: t}}]}
  - {id: rest, from: ["#"], when: payload.soc * 2 < 30, to: [{kafka: {topic: t}}]}
  - {id: turns, from: ["#"], when: payload.rpm > 100, to: [{kafka: {topic: t}}]}
  - {id: none, from: ["#"], when: payload.rpm == nil, to: [{kafka: {topic: t}}]}
  - {id: pos, from: ["#"], when: payload.pos.lat > 80, to: [{kafka: {topic: t}}]}
`[1:]))
	for _, c := range []struct{ payload, want string }{
		{`{"soc":14,"rpm":200}`, "when/0 rest/0 turns/0"},
		{`{"soc":0,"rpm":-10}`, "when/0 rest/0"},
		{`{"soc":-1,"rpm":1}`, "when/error rest/error"},
		{`{"soc":100.5,"rpm":1}`, "when/error rest/error"},
		{`{"soc":20,"rpm":20001}`, "none/0"},
		{`{"soc":20,"rpm":-11}`, "none/0"},
		{`{"soc":20,"rpm":20000}`, "turns/0"},
		{`{"soc":20,"rpm":1.5}`, "turns/error none/error"},
		{`{"soc":20,"rpm":1,"pos":{"lat":90}}`, "pos/0"},
		{`{"soc":20,"rpm":1,"pos":{"lat":91}}`, "pos/error"},
		{`{"soc":null,"rpm":1}`, ""},
		{`{"soc":"x","rpm":1}`, "when/error rest/error"},
	} {
		if got := r.send(0, c.payload); got != c.want {
			t.Errorf("%s: got %q, want %q", c.payload, got, c.want)
		}
	}
	set := rulestest.Compile(t, "schema: {fields: {rpm: {number: [0, 10], outside: missing}, soc: {number: [0, 100]}}}\n"+
		ruleWith("sample: 1ms", "{rpm: payload.rpm, either: payload.rpm ?? payload.soc}"))
	if got := string(renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, `{"rpm":11,"soc":7.0}`))[0].Value); got != `{"rpm":null,"either":7.0}` {
		t.Errorf("got %s", got)
	}
}
