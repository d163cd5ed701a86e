package sink_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// TestMetricsOfRulesThatAreGone checks that only rules in force have metrics, and that deliveries of other rules are
// counted too.
func TestMetricsOfRulesThatAreGone(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	kafka := sinktest.NewMemory(op.SinkKafka)
	const rules = "rules:\n  - {id: old, from: [\"v1/+/up/telemetry\"], to: [{kafka: {topic: t}}]}\n"
	r := sinktest.New(t, sinktest.Setup{
		Rules: rules, Sinks: func() []sink.Binding { return []sink.Binding{{Sink: kafka}} },
		Change: func(o *sink.Options) { o.Metrics = sink.NewMetrics(reg) },
	})
	r.Publish(0, 5)
	r.Settled()
	kafka.Hold(true)
	r.Publish(5, 3)
	r.Await(func() bool { return r.Dispatcher.RuleCounts()["old"].Matched == 8 })
	r.Apply(strings.Replace(rules, "old", "new", 1))
	r.Publish(8, 2)
	r.Await(func() bool { return r.Dispatcher.RuleCounts()["new"].Matched == 2 })
	kafka.Hold(false)
	r.Settled()
	got := check.Series(t, reg)
	for name := range got {
		if strings.Contains(name, "rule=old") {
			t.Errorf("%s still has the rule that is gone", name)
		}
	}
	if got["rule_delivered_total{rule=new}"] != 2 || got["rule_delivered_total{rule=_gone}"] != 8 {
		t.Errorf("delivered %v", got)
	}
	r.Stop()
}
