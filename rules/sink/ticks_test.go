package sink_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/rules/state"
	"cellgate/rules/workbench"
	"cellgate/test/check"
)

// timeRules have every construct that depends on time or sends without a message.
const timeRules = `
schema: {event_at: t}
rules:
  - {id: mean, from: ["v1/+/up/telemetry"], average: {of: payload.n, window: 10s}, to: [{kafka: {topic: mean}}, {redis: {stream: "mean:${vin}"}}]}
  - id: several
    from: ["v1/+/up/telemetry"]
    aggregate: {window: 20s, min: payload.k, max: payload.n, sum: payload.h, count: payload.n, last: payload.h}
    threshold: {enter: operator.sum > 3}
    to: [{kafka: {topic: several}}]
  - id: by-vehicle
    from: ["v1/+/up/telemetry"]
    time: event
    average: {of: payload.k, window: 10s}
    having: operator.count > 1
    to: [{kafka: {topic: by-vehicle}}]
  - id: change
    from: ["v1/+/up/telemetry"]
    on_change: {of: payload.k, deadband: 2, at_most_every: 5s, at_least_every: 30s, first: false, by: payload.h}
    having: operator.elapsed > 1
    transform: {from: operator.previous, to: payload.k, after: operator.elapsed}
    to: [{kafka: {topic: change}}]
  - {id: thrice, from: ["v1/+/up/telemetry"], count: {at_least: 3, window: 60s, by: payload.h}, to: [{kafka: {topic: thrice}}]}
  - {id: late, from: ["v1/+/up/telemetry"], time: event, sample: 7s, to: [{kafka: {topic: late}}]}
  - {id: one-by-one, from: ["v1/+/up/telemetry"], each: payload.list, when: item.x > 1, dedupe: {by: item.x, within: 5s}, to: [{kafka: {topic: items, key: item.x}}, {redis: {publish: "items-${vin}"}}]}
  - {id: quiet, from: ["v1/+/up/telemetry"], silent: 9s, to: [{kafka: {topic: quiet}}, {redis: {string: "quiet:${vin}", value: operator.last}}]}
  - {id: quiet-even, from: ["v1/+/up/telemetry"], when: payload.k > 4, silent: {for: 15s}, to: [{kafka: {topic: quiet-even}}]}
`

// timeRig is a dispatcher with timeRules and a clock that the test moves.
type timeRig struct {
	*sinktest.Rig
	machine      *clocktest.Clock
	kafka, redis *sinktest.Memory
}

// wholeJournal ignores Retain, so that the journal keeps everything.
type wholeJournal struct{ sink.Journal }

func (wholeJournal) Retain(string, uint64) {}
func (wholeJournal) Missing(uint64)        {}

func newTimeRig(t *testing.T, rules string, change func(*sink.Options)) *timeRig {
	t.Helper()
	r := &timeRig{
		machine: clocktest.Still(time.UnixMilli(1_760_000_000_000)), kafka: sinktest.NewMemory(op.SinkKafka), redis: sinktest.NewMemory(op.SinkRedis),
	}
	r.Rig = sinktest.New(t, sinktest.Setup{
		Rules: rules,
		Change: func(o *sink.Options) {
			o.Journal = wholeJournal{o.Journal}
			if change != nil {
				change(o)
			}
		},
		Sinks:   func() []sink.Binding { return []sink.Binding{{Sink: r.kafka}, {Sink: r.redis}} },
		Journal: func(o *journal.Options) { o.Clock = r.machine.Source() },
	})
	return r
}

// drive publishes the same messages in every run, with longer pauses between some of them.
func (r *timeRig) drive(during func(i int)) {
	rnd := rand.New(rand.NewPCG(3, 5)) //nolint:gosec // a test's choices
	for i := range 160 {
		r.machine.Pass(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		measured := r.machine.Wall().UnixMilli() - int64(rnd.IntN(4)/3)*8000
		if rnd.IntN(40) == 0 {
			r.machine.Pass(time.Duration(rnd.IntN(20)) * time.Second)
		}
		during(i)
		rec := sinktest.Telemetry(i)
		rec.Payload = fmt.Appendf(nil, `{"t":%d,"list":[{"x":1},{"x":%d},{"x":%d.50}],%s`, measured, i%4, i%3, rec.Payload[1:])
		r.Append(rec)
	}
	r.machine.Pass(time.Minute)
	r.Settled()
	r.caughtUp()
}

// caughtUp waits until everything due is sent.
func (r *timeRig) caughtUp() {
	r.Await(func() bool { return r.Dispatcher.Overdue() == 0 })
	r.Settled()
}

// outputs returns the sinks' messages, each once.
func (r *timeRig) outputs(t *testing.T) []string {
	t.Helper()
	var out []string
	ids := map[string]string{}
	for _, m := range append(r.kafka.Taken(), r.redis.Taken()...) {
		text := fmt.Sprintf("%s %s %s %s", m.VIN, m.Rule, m.Topic, m.Value)
		key := strings.Join([]string{m.ID, m.Rule, m.Item, m.Topic}, " ")
		if other, known := ids[key]; known && other != text {
			t.Fatalf("one id %s for %s and %s", key, other, text)
		} else if known {
			continue
		}
		ids[key] = text
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// TestTimeIsReplayed checks that the messages of rules with time depend only on the journal: live, with kills, over the
// decision logs of lagging sinks and a reload, and in a backtest.
func TestTimeIsReplayed(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*testing.T) *timeRig{
		"live": func(t *testing.T) *timeRig {
			t.Helper()
			r := newTimeRig(t, timeRules, nil)
			r.drive(func(int) {})
			return r
		},
		"kill": killed, "lag over a reload": lagging,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t)
			got, want := r.outputs(t), r.replay(t)
			if len(got) < 100 || !slices.Equal(got, want) {
				t.Fatalf("%d messages, want %d\nmore:\n%s\nfewer:\n%s", len(got), len(want),
					strings.Join(difference(got, want), "\n"), strings.Join(difference(want, got), "\n"))
			}
			r.Balanced()
			r.Stop()
		})
	}
}

func killed(t *testing.T) *timeRig {
	t.Helper()
	rnd := rand.New(rand.NewPCG(9, 9)) //nolint:gosec // a test's choices
	r := newTimeRig(t, timeRules, nil)
	r.drive(func(i int) {
		if i < 150 && rnd.IntN(20) == 0 {
			if rnd.IntN(2) == 0 {
				r.Settled()
			}
			r.Kill()
			r.Open()
		}
	})
	return r
}

func lagging(t *testing.T) *timeRig {
	t.Helper()
	r := newTimeRig(t, timeRules, func(o *sink.Options) {
		for i := range o.Sinks {
			o.Sinks[i].Limits.Messages = 2
		}
	})
	r.kafka.Hold(true)
	r.redis.Hold(true)
	r.drive(func(i int) {
		switch i {
		case 50:
			r.Apply(timeRules + "\n# the same rules, in another set\n")
		case 100:
			r.Apply(timeRules)
		case 130:
			r.kafka.Hold(false)
		case 159:
			r.redis.Hold(false)
		}
	})
	return r
}

// replay returns a backtest's counts for the rig's journal, and each message of the rules.
func (r *timeRig) replay(t *testing.T) (out []string) {
	t.Helper()
	dir := rulestest.WriteFiles(t, map[string]string{"t.rules.yaml": timeRules})
	trial, err := workbench.NewTrial(dir, rulestest.Options("cell-1"), state.StateOptions{})
	check.OK(t, err)
	set := rulestest.Compile(t, timeRules)
	st := state.NewState(state.StateOptions{})
	w := engine.NewEngine(set, st).NewWorker()
	var made op.Rendered
	r.records(t, func(rec *message.Record) {
		trial.Add(rec)
		if rec.TickBegins() {
			st.Begin(rec.ReceivedAt)
		}
		st.Advance(rec.ReceivedAt)
		if rec.Kind == message.KindOperatorState {
			_, err := st.Apply(rec)
			check.OK(t, err)
		}
		for _, d := range w.Eval(rec, nil) {
			check.OK(t, w.Render(d, rec, &made))
			where, what := made.Topic, made.Value
			if made.Sink == op.SinkRedis {
				where, what = made.Redis.Key, made.Redis.Value
			}
			out = append(out, fmt.Sprintf("%s %s %s %s", d.Record(rec).VIN(), set.RuleID(d.Rule), where, what))
		}
	})
	sent := 0
	for _, c := range trial.Rules {
		for _, n := range c.Targets {
			sent += int(n) //nolint:gosec // few
		}
	}
	if sent != len(out) {
		t.Fatalf("a backtest sends %d messages, a replay %d: %+v", sent, len(out), trial.Rules)
	}
	slices.Sort(out)
	return out
}

// records calls f for all records of the journal.
func (r *timeRig) records(t *testing.T, f func(rec *message.Record)) {
	t.Helper()
	check.OK(t, r.Journal.WaitDurable(context.Background(), r.Journal.Last()))
	reader, err := r.Journal.NewReader(1)
	check.OK(t, err)
	defer func() { _ = reader.Close() }()
	for {
		b, ok, err := reader.TryNext(0)
		check.OK(t, err)
		if !ok {
			return
		}
		for i := range b.Records {
			f(&b.Records[i])
		}
	}
}

// TestTicksComeOnlyWhenSomethingWaits checks that rules that send only on messages have no ticks, and others few.
func TestTicksComeOnlyWhenSomethingWaits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rules       string
		least, most int
	}{
		{intervalRules, 0, 0},
		{`rules: [{id: quiet, from: ["v1/+/up/telemetry"], silent: 9s, to: [{kafka: {topic: quiet}}]}]`, 1, 8},
	} {
		r := newTimeRig(t, c.rules, nil)
		for i := range 7 { // each vehicle once
			r.machine.Pass(time.Second)
			r.Publish(i, 1)
		}
		r.machine.Pass(time.Minute)
		r.Settled()
		r.caughtUp()
		ticks := r.ticks(t)
		if ticks < c.least || ticks > c.most {
			t.Errorf("%d ticks, from %d to %d are right", ticks, c.least, c.most)
		}
		r.Stop()
		r.Open()
		r.Settled()
		if again := r.ticks(t) - ticks; again != 0 {
			t.Errorf("%d ticks after a restart although nothing waits", again)
		}
		r.Stop()
	}
}

func (r *timeRig) ticks(t *testing.T) (n int) {
	t.Helper()
	r.records(t, func(rec *message.Record) {
		if rec.Kind == message.KindTick {
			n++
		}
	})
	return n
}

// TestPauseOfTheGatewayIsNotSilence checks that silence counts from the start of the process, and not before
// its rule is in force.
func TestPauseOfTheGatewayIsNotSilence(t *testing.T) {
	t.Parallel()
	const rules = `rules: [{id: quiet, from: ["v1/+/up/telemetry"], silent: 10s, to: [{kafka: {topic: quiet}}]}]`
	for name, away := range map[string]func(r *timeRig){
		"stop":    func(r *timeRig) { r.Stop(); r.machine.Pass(time.Hour); r.Open() },
		"kill":    func(r *timeRig) { r.Kill(); r.machine.Pass(time.Hour); r.Open() },
		"no rule": func(r *timeRig) { r.Apply(intervalRules); r.machine.Pass(time.Hour); r.Apply(rules) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTimeRig(t, rules, nil)
			r.Publish(0, 1)
			r.Settled()
			r.machine.Pass(5 * time.Second)
			away(r)
			r.machine.Pass(9 * time.Second)
			r.Publish(1, 1) // another vehicle
			r.Settled()
			if got := r.kafka.Taken(); len(got) != 0 {
				t.Fatalf("silent: %+v", got)
			}
			r.machine.Pass(time.Second)
			r.Await(func() bool { return len(r.kafka.Taken()) == 1 })
			r.Stop()
		})
	}
}

// TestSilenceGoesOnOverClockSteps checks that a step of the clock neither counts as elapsed time nor extends the wait.
func TestSilenceGoesOnOverClockSteps(t *testing.T) {
	t.Parallel()
	const rules = `rules: [{id: quiet, from: ["v1/+/up/telemetry"], silent: 9s, to: [{kafka: {topic: quiet}}]}]`
	silences := func(steps bool) map[string]int {
		r := newTimeRig(t, rules, nil)
		r.drive(func(i int) {
			if steps && i%10 == 5 {
				r.caughtUp()
				r.machine.Step(time.Duration(i-80) * time.Hour)
				r.Journal.LookAtClock()
			}
		})
		found := map[string]int{}
		for _, m := range r.kafka.Taken() {
			found[m.VIN]++
		}
		r.Stop()
		return found
	}
	if got, want := silences(true), silences(false); len(want) < 7 || !maps.Equal(got, want) {
		t.Fatalf("with a clock that steps %v, with one that does not %v", got, want)
	}
}
