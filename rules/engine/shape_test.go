package engine

import (
	"errors"
	"testing"

	"cellgate/rules/expr"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// TestTransformKeepsThePayload checks that kept parts of a payload are identical byte for byte, next to the fields that
// are set.
func TestTransformKeepsThePayload(t *testing.T) {
	t.Parallel()
	const payload = `{"driver":"Li","position":{"lat":31.20,"lon":121.4,"hdop":1},"soc":80.50,"big":12345678901234567890,"fault":null,"cells":[{"v":3.1}]}`
	for _, c := range []struct{ name, transform, want string }{
		{"all of it", `{keep: payload}`, payload},
		{
			"without two fields", `{keep: payload, drop: [driver, position]}`,
			`{"soc":80.50,"big":12345678901234567890,"fault":null,"cells":[{"v":3.1}]}`,
		},
		{"without a field below", `{keep: payload, drop: [position.hdop, driver, big, fault, cells]}`, `{"position":{"lat":31.20,"lon":121.4},"soc":80.50}`},
		{"two fields", `{keep: [soc, payload.position.lat]}`, `{"position":{"lat":31.20},"soc":80.50}`},
		{"what is not there", `{keep: [no, soc.deep, cells.v], drop: [nor.this]}`, `{}`},
		{"set beside it", `{keep: [soc], set: {vin: vin, half: payload.soc / 2}}`, `{"soc":80.50,"vin":"LTEST000000000001","half":40.25}`},
		{"set in its place", `{keep: [soc, big], set: {soc: '"hidden"'}}`, `{"big":12345678901234567890,"soc":"hidden"}`},
		{"set alone, missing as null", `{set: {a: payload.no, b: payload.soc}, missing: "null"}`, `{"a":null,"b":80.50}`},
		{
			"missing left out", `{set: {a: payload.no, b: payload.soc, c: payload.fault, d: {e: payload.no, f: vin}, g: [payload.no], h: payload.no + 1}, missing: omit}`,
			`{"b":80.50,"d":{"f":"LTEST000000000001"},"g":[null]}`,
		},
		{"all that is set missing", `{set: {a: payload.no}, missing: omit}`, `{}`},
		{"all that is set missing, beside what stays", `{keep: [soc], set: {a: payload.no}, missing: omit}`, `{"soc":80.50}`},
		{"a mapping with fields of these names", `{keep: payload.soc, set: payload.big}`, `{"keep":80.50,"set":12345678901234567890}`},
		{"one more", `{set: {drop: payload.soc}}`, `{"set":{"drop":80.50}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			set := rulestest.Compile(t, "rules:\n  - id: r\n    from: [\"#\"]\n    transform: "+c.transform+"\n    to: [{kafka: {topic: t}}]\n")
			if out := renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, payload)); string(out[0].Value) != c.want {
				t.Errorf("got  %s\nwant %s", out[0].Value, c.want)
			}
		})
	}
}

// TestTransformKeepsOnlyObjects checks that a payload that is not an object has no fields, and that one that cannot be
// decoded is reported as a payload error.
func TestTransformKeepsOnlyObjects(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, "rules:\n  - id: r\n    from: [\"#\"]\n    transform: {keep: payload, drop: [a]}\n    to: [{kafka: {topic: t}}]\n")
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	rec := rulestest.Telemetry(1, rulestest.Epoch, `[1]`)
	var r op.Rendered
	if err := w.Render(w.Eval(&rec, nil)[0], &rec, &r); !errors.Is(err, expr.ErrRender) {
		t.Errorf("a list: %v", err)
	}
	rec = rulestest.Telemetry(2, rulestest.Epoch, `soc=9`)
	if ds := w.Eval(&rec, nil); len(ds) != 1 || ds[0].Target != TargetUndecoded {
		t.Errorf("not JSON: %+v", ds)
	}
}

// TestHeadersAndPayloadNone checks that parts a target leaves out are absent, and that the VIN does not replace a
// missing key.
func TestHeadersAndPayloadNone(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - id: r
    from: ["#"]
    transform: {soc: payload.soc}
    to:
      - kafka: {topic: anon, key: payload.id, headers: none}
      - kafka: {topic: signal, payload: none}
      - central: {lane: p1, topic: anon, headers: none, payload: none}
`)
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"soc":5,"id":"x7"}`)
	rec.Props.ContentType = "application/json"
	out := renderOne(t, set, rec)
	if r := out[0]; !r.Bare || len(r.Headers) != 0 || string(r.Key) != "x7" || string(r.Value) != `{"soc":5}` {
		t.Errorf("without headers: %+v", r)
	}
	if r := out[1]; r.Bare || len(r.Headers) != 2 || r.Value != nil || string(r.Key) != rulestest.VIN {
		t.Errorf("without payload: %+v", r)
	}
	if r := out[2]; !r.Bare || r.Value != nil || r.Lane != "p1" {
		t.Errorf("to the centre: %+v", r)
	}
	rec = rulestest.Telemetry(2, rulestest.Epoch, `{"soc":5}`)
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	var r op.Rendered
	if err := w.Render(w.Eval(&rec, nil)[0], &rec, &r); !errors.Is(err, expr.ErrRender) {
		t.Errorf("without its key: %v, key %q", err, r.Key)
	}
}

// TestOnErrorNone checks that errors of such a rule are decided, so that they are counted, and sent nowhere. Dead
// letters for payloads that cannot be decoded do not name the rule.
func TestOnErrorNone(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - {id: quiet, from: ["#"], when: payload.soc < 15, to: [{kafka: {topic: t}}], on_error: none}
  - {id: brief, from: ["#"], when: payload.soc < 15, to: [{kafka: {topic: t}}], on_error: {kafka: {topic: errors, payload: none}}}
`)
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"soc":"low"}`)
	rec.Props.ContentType = "application/json"
	ds := w.Eval(&rec, nil)
	if len(ds) != 2 || !ds[0].Shadow || ds[0].Err == "" || ds[1].Shadow {
		t.Fatalf("decisions %+v", ds)
	}
	var r op.Rendered
	if err := NewRenderer(set).RenderDeadLetter(Decision{}, "refused", &rec, &r); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("a dead letter of a rule without: %v", err)
	}
	if err := w.Render(ds[1], &rec, &r); err != nil || r.Topic != "errors" || r.Value != nil || len(r.Headers) != 3 {
		t.Errorf("without the payload: %v %+v", err, r)
	}
	rec = rulestest.Telemetry(2, rulestest.Epoch, `soc=9`)
	ds = w.Eval(&rec, nil)
	if len(ds) != 2 || !ds[0].Shadow || ds[0].Rule != 0 || len(ds[1].Undecoded) != 1 || ds[1].Undecoded[0] != 1 {
		t.Errorf("not JSON: %+v", ds)
	}
	if err := w.Render(ds[1], &rec, &r); err != nil || r.Topic != "vehicle.rule-errors" || string(r.Value) != "soc=9" {
		t.Errorf("not JSON: %v %+v", err, r)
	}
}
