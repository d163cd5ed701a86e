package sink_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// slowRules returns rules with state after many slow ones that match nothing.
func slowRules(extra string) string {
	var text strings.Builder
	text.WriteString("rules:\n")
	for i := range 40 {
		fmt.Fprintf(&text, "  - {id: slow%d, from: [\"v1/+/up/telemetry\"], when: len(raw) + payload.n < -%d, to: [{kafka: {topic: slow}}]}\n", i, i)
	}
	return text.String() + `
  - {id: all, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: all}}, {redis: {hash: "h:${vin}", fields: payload}}]}
  - {id: rise, from: ["v1/+/up/telemetry"], threshold: {enter: payload.k > 6, exit: payload.k < 2}, transform: {n: payload.n}, to: [{kafka: {topic: rise}}]}
  - {id: every, from: ["v1/+/up/telemetry"], count: {at_least: 3, window: 1h}, to: [{kafka: {topic: every}}, {central: {lane: p0, topic: every}}]}
  - {id: wrong, from: ["v1/+/up/telemetry"], when: payload.h > 1 and payload.vin > 1, to: [{kafka: {topic: wrong}}]}
` + extra
}

// evaluatedBy returns the sinks' messages, in order, from a dispatcher with so many workers.
func evaluatedBy(t *testing.T, workers int) (out []string, counts map[string]engine.RuleCounts, parallel float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	sinks := []*sinktest.Memory{sinktest.NewMemory(op.SinkKafka), sinktest.NewMemory(op.SinkRedis), sinktest.NewMemory(op.SinkCentral)}
	r := sinktest.New(t, sinktest.Setup{
		Rules: slowRules(""),
		Sinks: func() (b []sink.Binding) {
			for _, s := range sinks {
				b = append(b, sink.Binding{Sink: s})
			}
			return b
		},
		Change: func(o *sink.Options) { o.Workers, o.Metrics = workers, sink.NewMetrics(reg) },
	})
	next := 0
	publish := func(n int) {
		recs := make([]message.Record, n)
		for i := range recs {
			recs[i] = sinktest.Telemetry(next)
			next++
		}
		r.Append(recs...)
	}
	for round := range 6 {
		publish(200)
		if round == 3 {
			r.Apply(slowRules(`  - {id: more, from: ["v1/+/up/telemetry"], sample: 1h, to: [{kafka: {topic: more}}]}`))
		}
		publish(3)
	}
	r.Settled()
	r.Balanced()
	sent := map[string]float64{}
	for _, s := range sinks {
		for _, m := range s.Taken() {
			if !m.Dead {
				sent[m.Rule]++
			}
			m.ID = "" // contains the journal
			out = append(out, fmt.Sprintf("%s %+v", s.Name(), m))
		}
	}
	counts = r.Dispatcher.RuleCounts()
	series := check.Series(t, reg)
	for id, c := range counts {
		for name, want := range map[string]float64{
			"rule_messages_total{outcome=missing,rule=" + id + "}": float64(c.Missing),
			"rule_delivered_total{rule=" + id + "}":                sent[id],
			"rule_considered_total{rule=" + id + "}":               float64(c.Considered),
		} {
			if got, there := series[name]; got != want || !there {
				t.Errorf("%v of %s, want %v", got, name, want)
			}
		}
		c.Evaluated, c.Time = 0, 0
		counts[id] = c
	}
	r.Stop()
	return out, counts, series["dispatch_parallel_messages_total"]
}

// TestWorkersChangeNothing checks that each sink gets the same in the same order with any number of goroutines, over a
// reload.
func TestWorkersChangeNothing(t *testing.T) {
	t.Parallel()
	want, wantCounts, none := evaluatedBy(t, 1)
	got, counts, some := evaluatedBy(t, 4)
	if wrong := counts["wrong"]; !maps.Equal(counts, wantCounts) || wrong.Considered != 6*203 || wrong.Missing == 0 || wrong.Filtered()+wrong.Missing != 6*203 {
		t.Errorf("counted by four %+v,\nby one %+v", counts, wantCounts)
	}
	if none != 0 || some == 0 {
		t.Errorf("%v messages were evaluated in parallel by one worker, %v by four", none, some)
	}
	if !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("message %d of %d, %d:\nby four %s\nby one  %s", i, len(got), len(want), got[i], want[i])
			}
		}
		t.Fatalf("%d messages by four workers, %d by one", len(got), len(want))
	}
}
