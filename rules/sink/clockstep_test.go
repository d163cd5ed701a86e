package sink_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/journal"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
)

const intervalRules = `
rules:
  - {id: sampled, from: ["v1/+/up/telemetry"], sample: 20s, to: [{kafka: {topic: sampled}}]}
  - {id: limited, from: ["v1/+/up/telemetry"], rate_limit: {count: 2, per: 60s}, to: [{kafka: {topic: limited}}]}
  - {id: held, from: ["v1/+/up/telemetry"], threshold: {enter: payload.k > 2, for: 15s}, to: [{kafka: {topic: held}}]}
  - {id: counted, from: ["v1/+/up/telemetry"], count: {at_least: 3, window: 40s}, to: [{kafka: {topic: counted}}]}
  - {id: paced, from: ["v1/+/up/telemetry"], on_change: {of: payload.k, at_most_every: 25s, at_least_every: 60s}, to: [{kafka: {topic: paced}}]}
  - {id: of-each, from: ["v1/+/up/telemetry"], count: {at_least: 2, window: 40s, by: payload.h}, to: [{kafka: {topic: of-each}}]}
  - {id: once, from: ["v1/+/up/telemetry"], dedupe: {by: payload.h, within: 90s}, to: [{kafka: {topic: once}}]}
`

// clockRig is a dispatcher with a clock that a test sets, and its sink's messages.
type clockRig struct {
	*sinktest.Rig
	machine *clocktest.Clock
	taken   *sinktest.Memory
	jump    time.Duration
}

func newClockRig(t *testing.T) *clockRig {
	t.Helper()
	r := &clockRig{machine: clocktest.Still(time.UnixMilli(1_760_000_000_000)), taken: sinktest.NewMemory(op.SinkKafka)}
	r.Rig = sinktest.New(t, sinktest.Setup{
		Rules:   intervalRules,
		Sinks:   func() []sink.Binding { return []sink.Binding{{Sink: r.taken}} },
		Journal: func(o *journal.Options) { o.Clock, o.Jump = r.machine.Source(), r.jump },
	})
	return r
}

// passed returns what each rule let pass.
func (r *clockRig) passed() []string {
	found := map[string]bool{}
	for _, m := range r.taken.Taken() {
		found[m.Rule+" "+m.Value] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// TestClockStepsAndRestarts checks that what rules with intervals let pass depends neither on steps of the clock, while
// the gateway runs or between two runs, nor on kills before or after a checkpoint.
func TestClockStepsAndRestarts(t *testing.T) {
	t.Parallel()
	const messages, year = 500, 365 * 24 * time.Hour
	right := newClockRig(t)
	for i := range messages {
		right.machine.Pass(time.Second)
		right.Publish(i, 1)
	}
	right.Settled()
	want := right.passed()
	rnd := rand.New(rand.NewPCG(11, 7)) //nolint:gosec // a test's choices
	r, off := newClockRig(t), time.Duration(0)
	for i := range messages {
		if off == 0 {
			off = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}[rnd.IntN(6)]
		} else {
			off = -off
		}
		switch rnd.IntN(25) {
		case 0:
			r.machine.Step(off)
		case 1:
			r.Kill()
			r.Open()
			off = 0
		case 2:
			if rnd.IntN(2) == 0 {
				r.Settled()
			}
			r.Kill()
			r.machine.Step(off)
			r.jump = off
			r.Open()
			r.Journal.LookAtClock() // no time has passed yet
			r.jump = 0
		default:
			off = 0
		}
		r.machine.Pass(time.Second)
		r.Publish(i, 1)
	}
	r.Settled()
	got := r.passed()
	if len(want) < 100 || !slices.Equal(got, want) {
		t.Fatalf("%d passed with a clock that steps, %d with one that does not", len(got), len(want))
	}
	r.Balanced()
}

// TestLagOfRecordsFromTheFuture checks that waiting records do not look new because the clock was ahead when they came.
func TestLagOfRecordsFromTheFuture(t *testing.T) {
	t.Parallel()
	r := newClockRig(t)
	r.Stop()
	r.machine = clocktest.Still(time.Now().Add(time.Hour))
	r.Open()
	r.taken.Hold(true)
	for i := range 200 {
		r.Publish(i, 1)
	}
	r.Await(func() bool { return r.Dispatcher.Lag()[0].Messages > 0 && r.Dispatcher.Lag()[0].Age > time.Millisecond })
	r.taken.Hold(false)
	r.Settled()
	r.Await(func() bool { return r.Dispatcher.Lag()[0].Age == 0 })
}
