package sink_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/journal"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

const oncePerVIN = `
rules:
  - {id: once, from: ["v1/+/up/telemetry"], dedupe: {by: vin, within: 365d}, to: [{kafka: {topic: once}}]}
`

// TestRemovedRulesDoNotFireAgain removes a rule and restores it, with crashes between, before and after checkpoints:
// what has fired does not fire again.
func TestRemovedRulesDoNotFireAgain(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 1)) //nolint:gosec // a test's choices
	kafka := sinktest.NewMemory(op.SinkKafka)
	r := sinktest.New(t, sinktest.Setup{
		Rules: oncePerVIN, Sinks: func() []sink.Binding { return []sink.Binding{{Sink: kafka}} },
		Change: func(o *sink.Options) { o.CheckpointInterval = 0 },
	})
	sent := 0
	publish := func() {
		r.Publish(sent, 20)
		sent += 20
	}
	publish()
	r.Settled()
	for range 15 {
		r.Apply("rules: []\n")
		for _, step := range rnd.Perm(4) {
			switch step {
			case 0:
				publish()
			case 1:
				check.OK(t, r.Dispatcher.Checkpoint())
			case 2:
				r.Settled()
			}
		}
		if rnd.IntN(2) == 0 {
			r.Kill()
			r.Open() // restores the rule
		}
		r.Apply(oncePerVIN)
		publish()
		r.Settled()
	}
	fired := map[string]bool{}
	for _, m := range kafka.Taken() {
		fired[m.ID] = true
	}
	if len(fired) != 7 {
		t.Errorf("%d messages of 7 vehicles, each once", len(fired))
	}
}

// TestRemovedRulesAreForgottenAfterADay checks that the day is measured in journal time, over restarts and steps of the
// clock.
func TestRemovedRulesAreForgottenAfterADay(t *testing.T) {
	t.Parallel()
	machine := clocktest.Still(time.UnixMilli(1_760_000_000_000))
	year := 365 * 24 * time.Hour
	kafka := sinktest.NewMemory(op.SinkKafka)
	r := sinktest.New(t, sinktest.Setup{
		Rules: "rules: []\n", Sinks: func() []sink.Binding { return []sink.Binding{{Sink: kafka}} },
		Change:  func(o *sink.Options) { o.CheckpointInterval = 0 },
		Journal: func(o *journal.Options) { o.Clock = machine.Source() },
	})
	fired := func() int {
		ids := map[string]bool{}
		for _, m := range kafka.Taken() {
			ids[m.ID] = true
		}
		return len(ids)
	}
	r.Apply(oncePerVIN)
	r.Publish(0, 7)
	r.Settled()
	r.Apply("rules: []\n")
	for hour := 0; hour < 23; hour++ {
		machine.Pass(time.Hour)
		r.Publish(hour+7, 1)
		if hour == 7 {
			machine.Step(10 * year)
			r.Publish(hour+7, 1)
		}
		r.Settled()
		check.OK(t, r.Dispatcher.Checkpoint())
		r.Kill()
		r.Open()
	}
	r.Publish(90, 1)
	machine.Step(-10 * year)
	r.Apply(oncePerVIN)
	r.Publish(100, 7)
	r.Settled()
	if n := fired(); n != 7 {
		t.Errorf("after 23 h %d messages of 7 vehicles, each once", n)
	}
	r.Apply("rules: []\n")
	r.Publish(200, 7)
	r.Settled()
	check.OK(t, r.Dispatcher.Checkpoint())
	r.Kill()
	machine.Pass(23 * time.Hour)
	r.Open()
	machine.Pass(time.Hour)
	r.Apply(oncePerVIN)
	r.Publish(300, 7)
	r.Settled()
	if n := fired(); n != 14 {
		t.Errorf("a day later %d messages of 7 vehicles, each twice", n)
	}
}
