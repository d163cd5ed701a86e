package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

// renderOne evaluates a message on the first rule and renders each of its targets with Renderer.Render.
func renderOne(t *testing.T, set *lang.Set, rec message.Record) []op.Rendered {
	t.Helper()
	var out []op.Rendered
	for _, d := range NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil) {
		var r op.Rendered
		if err := NewRenderer(set).Render(d, &rec, &r); err != nil {
			t.Fatalf("%s: %v", decisionName(set, d), err)
		}
		out = append(out, r)
	}
	return out
}

func TestTransformKeepsValuesExact(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
schema: {event_at: ts}
rules:
  - id: r
    from: ["#"]
    transform:
      big: payload.big
      text: payload.text
      nested: {list: [payload.f, 'payload.f * 2', "'const'", 7, true, null], object: payload.o}
      missing: payload.no
      at: event_at
      received: received_at
      late: late_ms
      span: duration("90s")
      calc: payload.f / 3
      cond: 'payload.f > 1 ? "yes" : "no"'
      parts: split(topic, "/")
      empty: {}
      none: []
    to: [{kafka: {topic: t, key: payload.text}}, {kafka: {topic: t, key: payload.no}}]
`)
	rec := rulestest.Telemetry(3, rulestest.Epoch, `{"big":12345678901234567890.10,"text":"a\"\\\n\u0001é\ud83d\ude97","f":1.5,"o":{"z":1,"a":[1e2,{}]},"ts":1763599999}`)
	rec.Props.ContentType = "application/cbor"
	out := renderOne(t, set, rec)
	const want = `{"big":12345678901234567890.10,"text":"a\"\\\n\u0001é🚗","nested":{"list":[1.5,3,"const",7,true,null],"object":{"z":1,"a":[1e2,{}]}},` +
		`"missing":null,"at":"2025-11-20T00:53:19.000Z","received":"2025-11-20T00:53:20.000Z","late":1000,"span":90,"calc":0.5,"cond":"yes",` +
		`"parts":["v1","LTEST000000000001","up","telemetry"],"empty":{},"none":[]}`
	if string(out[0].Value) != want {
		t.Errorf("got  %s\nwant %s", out[0].Value, want)
	}
	if !json.Valid(out[0].Value) {
		t.Error("not JSON")
	}
	if string(out[0].Key) != "a\"\\\n\x01é🚗" || string(out[1].Key) != rulestest.VIN {
		t.Errorf("keys %q %q", out[0].Key, out[1].Key)
	}
	if h := out[0].Headers; len(h) != 3 || h[0] != (op.Header{Name: "rule", Value: "r"}) || h[1] != (op.Header{Name: "target", Value: "0"}) || h[2] != (op.Header{Name: "content-type", Value: "application/json"}) {
		t.Errorf("headers %v", h)
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
lists: {kinds: [door, 7], classes: [telemetry, event/door]}
rules:
  - id: r
    from: ["#"]
    to:
      - kafka: {topic: "a.${class}.${cell}"}
      - kafka: {topic: "b.${ payload.kind in kinds }"}
      - redis: {hash: "${cell}:${class}:${vin}", set: {a: payload.kind, at: received_at, o: [payload.kind], n: payload.no}}
`)
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"kind":"door"}`)
	rec.Topic = "v1/VIN1/up/event/door"
	out := renderOne(t, set, rec)
	if out[0].Topic != "a.event.door.cell-1" || out[1].Topic != "b.door" || out[2].Redis.Key != "cell-1:event/door:VIN1" {
		t.Errorf("%q %q %q", out[0].Topic, out[1].Topic, out[2].Redis.Key)
	}
	var fields []string
	for _, f := range out[2].Redis.Fields {
		fields = append(fields, f.Name+"="+string(f.Value))
	}
	if got := strings.Join(fields, " "); got != `a=door at=2025-11-20T00:53:20.000Z o=["door"]` {
		t.Errorf("fields %s", got)
	}
	rec.Payload = []byte(`{"kind":7}`)
	if out := renderOne(t, set, rec); out[1].Topic != "b.7" {
		t.Errorf("%q", out[1].Topic)
	}
	for _, p := range []string{`{"kind":"window"}`, `{}`, `{"kind":null}`, `{"kind":["door"]}`} {
		rec.Payload = []byte(p)
		var r op.Rendered
		if err := NewRenderer(set).Render(Decision{Target: 1}, &rec, &r); err == nil {
			t.Errorf("%s made the topic %q", p, r.Topic)
		}
	}
	rec.Topic = "v1/VIN1/up/evil topic"
	var r op.Rendered
	if err := NewRenderer(set).Render(Decision{Target: 0}, &rec, &r); !errors.Is(err, expr.ErrRender) {
		t.Errorf("a class that is no topic name: %v, %q", err, r.Topic)
	}
}

func TestRedisOperations(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - id: r
    from: ["#"]
    transform: {s: payload.soc}
    to:
      - redis: {string: "s:${vin}", value: payload.soc, ttl: 1h}
      - redis: {string: "t:${vin}"}
      - redis: {stream: st, max_len: 5}
      - redis: {stream: st, fields: payload.pos, set: {soc: payload.soc, lat: "'x'"}, ttl: 1d}
      - redis: {set_add: sa}
      - redis: {set_remove: sr, member: payload.soc}
      - redis: {geo: g, lon: payload.pos.lon, lat: payload.pos.lat, member: cell}
      - redis: {publish: p, value: payload}
      - redis: {expire: e, ttl: 5s}
      - redis: {delete: d}
`)
	var got []string
	for _, r := range renderOne(t, set, rulestest.Telemetry(1, rulestest.Epoch, `{"soc":12.50,"pos":{"lat":31.2,"lon":121.4,"deep":{}}}`)) {
		got = append(got, string(expr.AppendJSON(nil, set.View(&r))))
	}
	want := []string{
		`{"string":"s:LTEST000000000001","ttl":"1h","value":12.50}`,
		`{"string":"t:LTEST000000000001","value":{"s":12.50}}`,
		`{"fields":{"payload":"{\"s\":12.50}"},"stream":"st"}`,
		`{"fields":{"lat":"x","lon":"121.4","soc":"12.50"},"stream":"st","ttl":"24h"}`,
		`{"member":"LTEST000000000001","set_add":"sa"}`,
		`{"member":"12.50","set_remove":"sr"}`,
		`{"geo":"g","lat":31.2,"lon":121.4,"member":"cell-1"}`,
		`{"publish":"p","value":{"pos":{"deep":{},"lat":31.2,"lon":121.4},"soc":12.50}}`,
		`{"expire":"e","ttl":"5s"}`,
		`{"delete":"d"}`,
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("target %d: got %v, want %s", i, got[i:min(i+1, len(got))], want[i])
		}
	}
	for _, p := range []string{`{"soc":1}`, `{"pos":{"lat":91,"lon":0}}`, `{"pos":{"lat":"x","lon":0}}`, `x`} {
		rec := rulestest.Telemetry(1, rulestest.Epoch, p)
		var r op.Rendered
		if err := NewRenderer(set).Render(Decision{Target: 6}, &rec, &r); err == nil {
			t.Errorf("%s is a position: %+v", p, r.Redis)
		}
	}
}

func TestLatestStateOrder(t *testing.T) {
	t.Parallel()
	set := rulestest.Samples(t)
	for _, c := range []struct {
		payload string
		at      int64
	}{
		{`{"ts":1763599990000}`, 1763599990000},
		{`{"ts":1763599990}`, 1763599990000},
		{`{"ts":"2025-11-20T00:53:10.5+00:00"}`, 1763599990500},
		{`{"ts":1000}`, 1_000_000},
		{`{}`, rulestest.Epoch},
		{`{"ts":null}`, rulestest.Epoch},
		{`{"ts":"soon"}`, rulestest.Epoch},
		{`{"ts":-5}`, rulestest.Epoch},
		{`{"ts":1763690000000}`, rulestest.Epoch}, // more than a day ahead: ignored
		{`{"ts":1763600060000}`, 1763600060000},   // a clock a minute ahead
		{`{"ts":1e300}`, rulestest.Epoch},
	} {
		rec := rulestest.Telemetry(5, rulestest.Epoch, c.payload)
		for _, r := range renderOne(t, set, rec) {
			if r.Sink == op.SinkRedis && (r.Redis.At != c.at || r.Redis.Seq != 5) {
				t.Errorf("%s: at %d, want %d", c.payload, r.Redis.At, c.at)
			}
		}
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
rules:
  - {id: a, from: ["#"], when: payload.x < 1, to: [{kafka: {topic: t}}], on_error: {kafka: {topic: my.errors}}}
  - {id: b, from: ["#"], when: payload.x < 1, to: [{redis: {hash: h, fields: payload}}]}
`)
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"x":"text"}`)
	rec.Props.ContentType = "text/plain"
	ds := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil)
	if len(ds) != 2 {
		t.Fatalf("%+v", ds)
	}
	for i, topic := range []string{"my.errors", rulestest.ErrorTopic} {
		var r op.Rendered
		check.OK(t, NewRenderer(set).Render(ds[i], &rec, &r))
		if NewRenderer(set).Sink(ds[i]) != op.SinkKafka || r.Topic != topic || !r.DeadLetter || r.Reason == "" || string(r.Value) != `{"x":"text"}` || string(r.Key) != rulestest.VIN {
			t.Errorf("%+v", r)
		}
		want := []op.Header{{Name: "rule", Value: set.RuleID(uint16(i))}, {Name: "target", Value: "none"}, {Name: "error", Value: ds[i].Err}, {Name: "content-type", Value: "text/plain"}}
		for j := range want {
			if r.Headers[j] != want[j] {
				t.Errorf("header %v, want %v", r.Headers[j], want[j])
			}
		}
	}
	var r op.Rendered
	if err := NewRenderer(set).RenderDeadLetter(Decision{Rule: 1, Target: 0}, "WRONGTYPE", &rec, &r); err != nil || r.Headers[1].Value != "0" || r.Reason != "WRONGTYPE" {
		t.Errorf("%v %+v", err, r)
	}
	for _, d := range []Decision{{Rule: 9}, {Rule: 0, Target: 3}, {Rule: 0, Shadow: true}} {
		if err := NewRenderer(set).Render(d, &rec, &r); !errors.Is(err, errDecision) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// TestOneDeadLetterForAPayloadThatCannotBeDecoded checks that every rule that needs the payload, in a condition, an
// operator or a target, and whatever its own on_error, is named in the one dead letter in the set's topic. Rules that
// do not need the payload continue.
func TestOneDeadLetterForAPayloadThatCannotBeDecoded(t *testing.T) {
	t.Parallel()
	src := lang.NewSource(map[string][]byte{"t.rules.yaml": []byte(`
lists: {kinds: [a]}
schema: {event_at: {field: ts, unit: ms}}
rules:
  - {id: raw, from: ["#"], to: [{kafka: {topic: t}}, {redis: {publish: p}}]}
  - {id: cond, from: ["#"], when: payload.x < 1, to: [{kafka: {topic: t}}], on_error: {kafka: {topic: my.errors}}}
  - {id: oper, from: ["#"], on_change: payload.x, to: [{kafka: {topic: t}}]}
  - {id: fields, from: ["#"], to: [{redis: {hash: h, fields: payload}}, {kafka: {topic: still}}]}
  - {id: trans, from: ["#"], transform: {x: payload.x}, to: [{kafka: {topic: t}}]}
  - {id: key, from: ["#"], to: [{kafka: {topic: t, key: payload.x}}]}
  - {id: hole, from: ["#"], to: [{kafka: {topic: "t.${payload.x in kinds}"}}]}
  - {id: order, from: ["#"], to: [{redis: {hash: h, set: {a: '"1"'}, newer_than: _at}}]}
  - {id: late, from: ["#"], when: late_ms > 5, to: [{kafka: {topic: t}}]}
  - {id: stream, from: ["#"], transform: payload, to: [{redis: {stream: s}}]}
  - {id: own, from: ["#"], transform: payload, to: [{redis: {stream: s, set: {v: vin}}}]}
  - {id: shadow, from: ["#"], when: payload.x < 1, to: [{kafka: {topic: t}}], mode: shadow}
  - {id: text, from: ["#"], when: raw contains "json", to: [{kafka: {topic: t}}]}
`)})
	o := rulestest.Options("")
	o.ErrorTopic = "set.errors"
	set, diags := lang.Compile(src, o)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	rec := rulestest.Telemetry(1, rulestest.Epoch, `not json`)
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	var names []string
	for _, d := range w.Eval(&rec, nil) {
		names = append(names, decisionName(set, d))
		if d.Shadow {
			continue
		}
		var r, again op.Rendered
		if err := w.Render(d, &rec, &r); err != nil {
			t.Errorf("%s: %v", decisionName(set, d), err)
		}
		if !r.DeadLetter {
			continue
		}
		stored, _, err := DecodeDecision(d.Append(nil))
		if err = errors.Join(err, NewRenderer(set).Render(stored, &rec, &again)); err != nil || fmt.Sprint(again.Headers) != fmt.Sprint(r.Headers) {
			t.Errorf("from the log: %v %v", err, again.Headers)
		}
		want := []op.Header{
			{Name: "rule", Value: "cond"},
			{Name: "target", Value: "none"},
			{Name: "error", Value: "the payload cannot be decoded as JSON (8 bytes)"},
			{Name: "rules", Value: "cond,oper,fields,trans,key,hole,order,late,stream"},
			{Name: "rules-failed", Value: "9"},
		}
		if r.Topic != "set.errors" || string(r.Value) != "not json" || fmt.Sprint(r.Headers) != fmt.Sprint(want) {
			t.Errorf("topic %s, headers %v", r.Topic, r.Headers)
		}
	}
	const want = "raw/0 raw/1 fields/1 own/0 shadow/shadow text/0 cond,oper,fields,trans,key,hole,order,late,stream/undecoded"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("decisions\n%s, want\n%s", got, want)
	}
	good := rulestest.Telemetry(2, rulestest.Epoch, `{"x":"a","ts":1}`)
	for _, d := range w.Eval(&good, nil) {
		if d.Target == TargetUndecoded {
			t.Errorf("%+v", d)
		}
	}
}

// TestTheNamesInADeadLetterAreBounded checks that a small message on which many rules fail does not become a large dead
// letter.
func TestTheNamesInADeadLetterAreBounded(t *testing.T) {
	t.Parallel()
	text := "rules:\n"
	for i := range 1000 {
		text += fmt.Sprintf("  - {id: rule-%04d, from: [\"#\"], when: payload.x < %d, to: [{kafka: {topic: t}}]}\n", i, i)
	}
	set := rulestest.Compile(t, text)
	rec := rulestest.Telemetry(1, rulestest.Epoch, `x`)
	var r op.Rendered
	ds := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil)
	if len(ds) != 1 {
		t.Fatalf("%d decisions", len(ds))
	}
	check.OK(t, NewRenderer(set).Render(ds[0], &rec, &r))
	names := r.Headers[3].Value
	if len(names) > maxRuleNames || len(names) < maxRuleNames-10 || !strings.HasSuffix(names, "rule-0101") || r.Headers[4].Value != "1000" {
		t.Errorf("%d bytes of names, %v", len(names), r.Headers[4])
	}
}

func TestDecisionCodec(t *testing.T) {
	t.Parallel()
	for _, d := range []Decision{
		{},
		{Rule: 65535, Target: TargetError, Err: "x"},
		{Rule: 300, Target: 2, Values: []byte(`{"a":1}`)},
		{Rule: 1, Shadow: true},
		{Rule: 1, Target: TargetUndecoded, Err: "x", Undecoded: []uint16{1, 300, 65535}},
	} {
		b := d.Append([]byte("front"))[5:]
		got, n, err := DecodeDecision(append(b, "behind"...))
		if err != nil || n != len(b) || got.Rule != d.Rule || got.Target != d.Target || got.Err != d.Err || got.Shadow != d.Shadow || string(got.Values) != string(d.Values) ||
			!slices.Equal(got.Undecoded, d.Undecoded) {
			t.Errorf("%+v: %+v %d %v", d, got, n, err)
		}
		for i := range len(b) {
			if _, _, err := DecodeDecision(b[:i]); !errors.Is(err, errBadDecision) {
				t.Errorf("%+v cut to %d bytes: %v", d, i, err)
			}
		}
	}
}

// The vehicle chooses its class: only a listed class makes a topic; messages of other classes go to on_error.
func TestOnlyListedClassesCreateTopics(t *testing.T) {
	t.Parallel()
	const text = `
rules:
  - id: r
    from: ["v1/+/up/#"]
    to: [{kafka: {topic: "byclass.${class}"}}, {redis: {stream: "s:${class}"}}]
`
	set := rulestest.Compile(t, "lists: {classes: [telemetry, event/door]}\n"+text)
	for topic, want := range map[string]string{
		"v1/V/up/telemetry": "byclass.telemetry", "v1/V/up/event/door": "byclass.event.door",
		"v1/V/up/event.door": "", "v1/V/up/event": "", "v1/V/up/q0": "", "v1/V/res/1/succeeded": "",
	} {
		rec := rulestest.Telemetry(1, rulestest.Epoch, `{}`)
		rec.Topic = topic
		var out op.Rendered
		err := NewRenderer(set).Render(Decision{}, &rec, &out)
		if want == "" && !errors.Is(err, expr.ErrRender) || want != "" && (err != nil || out.Topic != want) {
			t.Errorf("%s gives %q, %v, want %q", topic, out.Topic, err, want)
		}
	}
	src := lang.NewSource(map[string][]byte{"a.rules.yaml": []byte(text)})
	if _, found := lang.Compile(src, rulestest.Options("")); len(found) != 1 || found[0].Code != doc.CodeOpenClass {
		t.Errorf("without a list: %v", found)
	}
	set, found := lang.Compile(src, stored("")) // stored by a version that did not require it
	if set == nil {
		t.Errorf("what ran before does not run any more: %v", found)
	}
}

// TestNewerThanAtTheEndOfATime checks that without a message there is no event time, and the end of the period counts.
func TestNewerThanAtTheEndOfATime(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `
schema: {event_at: ts}
rules:
  - id: r
    from: ["#"]
    average: {of: payload.a, window: 5m}
    to: [{redis: {hash: h, set: {a: operator.average}, newer_than: _at}}]
`)
	w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	rec := rulestest.Telemetry(1, rulestest.Epoch, `{"a":1,"ts":1763600000}`)
	w.Eval(&rec, nil)
	out := w.Until(rulestest.Epoch+600_000, nil)
	if len(out) != 1 {
		t.Fatalf("%d decisions", len(out))
	}
	var r op.Rendered
	if err := w.Render(out[0], &rec, &r); err != nil || r.Redis.At != out[0].Window.End || r.Redis.OwnTime {
		t.Errorf("%v, at %d, own time %t", err, r.Redis.At, r.Redis.OwnTime)
	}
}
