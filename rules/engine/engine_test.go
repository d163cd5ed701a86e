package engine

import (
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// rig evaluates messages one after another and returns the decisions.
type rig struct {
	t   testing.TB
	set *lang.Set
	w   *Worker
	seq uint64
}

func newRig(t testing.TB, set *lang.Set) *rig {
	return &rig{t: t, set: set, w: NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()}
}

// send evaluates a payload on the telemetry topic at a time in ms after rulestest.Epoch. It returns "rule/target" for
// every decision, "rule/error" for an evaluation error.
func (r *rig) send(at int64, payload string) string {
	return r.sendTo("v1/"+rulestest.VIN+"/up/telemetry", at, payload)
}

func (r *rig) sendTo(topic string, at int64, payload string) string {
	r.t.Helper()
	r.seq++
	rec := rulestest.Telemetry(r.seq, rulestest.Epoch+at, payload)
	rec.Topic = topic
	var out []string
	for _, d := range r.w.Eval(&rec, nil) {
		out = append(out, decisionName(r.set, d))
	}
	return strings.Join(out, " ")
}

func decisionName(set *lang.Set, d Decision) string {
	name := set.RuleID(d.Rule)
	switch {
	case d.Shadow:
		return name + "/shadow"
	case d.Target == TargetError:
		return name + "/error"
	case d.Target == TargetUndecoded:
		return ruleNames(set, d.Undecoded) + "/undecoded"
	}
	return name + "/" + set.Compiled[d.Rule].Targets[d.Target].Text
}

func renderAll(t testing.TB, w *Worker, rec *message.Record) map[string]op.Rendered {
	t.Helper()
	out := map[string]op.Rendered{}
	for _, d := range w.Eval(rec, nil) {
		var r op.Rendered
		if err := w.Render(d, rec, &r); err != nil {
			t.Fatalf("render %s: %v", decisionName(w.engine.set, d), err)
		}
		out[decisionName(w.engine.set, d)] = r
	}
	return out
}

func TestSamplesRouteTelemetry(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Samples(t))
	if got, want := r.send(0, `{"soc":80}`), "telemetry/0 latest-state/0 sampled-to-centre/0"; got != want {
		t.Errorf("first message: got %q, want %q", got, want)
	}
	if got, want := r.send(9_999, `{"soc":9}`), "low-battery/0 low-battery/1 telemetry/0 latest-state/0"; got != want {
		t.Errorf("low battery within the sample's time: got %q, want %q", got, want)
	}
	if got, want := r.send(10_000, `{"soc":20.5}`), "telemetry/0 latest-state/0 sampled-to-centre/0"; got != want {
		t.Errorf("rearmed: got %q, want %q", got, want)
	}
	if got, want := r.sendTo("v1/"+rulestest.VIN+"/up/alarm", 10_001, `not json`), "alarms/0 alarms/1"; got != want {
		t.Errorf("alarm: got %q, want %q", got, want)
	}
	if got := r.sendTo("v1/"+rulestest.VIN+"/up/event", 10_002, `{}`); got != "" {
		t.Errorf("a topic of no rule: got %q", got)
	}
}

func TestSamplesRender(t *testing.T) {
	t.Parallel()
	w := newRig(t, rulestest.Samples(t)).w
	rec := rulestest.Telemetry(7, rulestest.Epoch, `{"ts":1763599999000,"soc":9,"gear":"D","on":true,"x":null,"pos":{"a":1},"_at":5}`)
	out := renderAll(t, w, &rec)
	for name, want := range map[string]struct {
		sink        op.SinkKind
		topic, lane string
	}{
		"telemetry/0":         {op.SinkKafka, "vehicle.telemetry", ""},
		"low-battery/0":       {op.SinkKafka, "vehicle.alerts", ""},
		"low-battery/1":       {op.SinkCentral, "fleet.alerts", "p0"},
		"sampled-to-centre/0": {op.SinkCentral, "fleet.telemetry", "p1"},
	} {
		got := out[name]
		if got.Sink != want.sink || got.Topic != want.topic || got.Lane != want.lane {
			t.Errorf("%s: %v %q %q", name, got.Sink, got.Topic, got.Lane)
		}
		if string(got.Key) != rulestest.VIN || string(got.Value) != string(rec.Payload) {
			t.Errorf("%s: key %q value %q", name, got.Key, got.Value)
		}
	}
	o := out["latest-state/0"].Redis
	if o.Kind != op.RedisHash || o.Key != "veh:"+rulestest.VIN || o.NewerThan != "_at" || o.Seq != 7 {
		t.Errorf("latest-state: %+v", o)
	}
	if o.At != 1763599999000 || o.AtText() != "2025-11-20T00:53:19.000Z" {
		t.Errorf("latest-state: at %d %s", o.At, o.AtText())
	}
	var fields []string
	for _, f := range o.Fields {
		fields = append(fields, f.Name+"="+string(f.Value))
	}
	if got, want := strings.Join(fields, " "), "ts=1763599999000 soc=9 gear=D on=true"; got != want {
		t.Errorf("latest-state: fields %q, want %q", got, want)
	}
}

func TestTokensMatchNoRule(t *testing.T) {
	t.Parallel()
	r := newRig(t, rulestest.Compile(t, "rules:\n  - {id: r, from: [\"#\"], to: [{kafka: {topic: t}}]}\n"))
	if got := r.sendTo("v1/VIN1/token", 0, "secret"); got != "" {
		t.Errorf("a token: %q", got)
	}
	if got := r.sendTo("v1/VIN1/up/token", 0, "x"); got != "r/0" {
		t.Errorf("a class named token: %q", got)
	}
}

// TestEvalIsPure evaluates the same records twice from the same state and requires the same bytes.
func TestEvalIsPure(t *testing.T) {
	t.Parallel()
	recs := traffic(500)
	run := func() string {
		set := rulestest.Compile(t, allOperators)
		w := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
		var b strings.Builder
		for i := range recs {
			for _, d := range w.Eval(&recs[i], nil) {
				var r op.Rendered
				if err := w.Render(d, &recs[i], &r); err != nil {
					b.WriteString(err.Error())
				}
				b.Write(d.Append(nil))
				b.Write(expr.AppendJSON(nil, set.View(&r)))
			}
		}
		return b.String()
	}
	first := run()
	if second := run(); second != first {
		t.Error("two runs differ")
	}
}
