package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

var clockSteps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}

// stepped is a sequence of records with a clock that steps.
type stepped struct {
	state *state.State
	off   int64 // current clock error, ms
}

// step steps the clock by by; at is the time of a clock without steps.
func (s *stepped) step(at int64, by time.Duration) {
	from := at + s.off
	s.off += by.Milliseconds()
	rec := message.ClockStep{From: from, To: at + s.off}.Record()
	step, err := rec.ClockStep()
	if err != nil {
		panic(err)
	}
	s.state.StepClock(step)
}

// TestClockStepsChangeNothing checks that the intervals of every operator continue across a clock step, at any message,
// and when the clock steps back.
func TestClockStepsChangeNothing(t *testing.T) {
	t.Parallel()
	for _, c := range operatorCases() {
		set := rulestest.Compile(t, ruleWith(c.operator, ""))
		for _, by := range clockSteps {
			for there := range c.msgs {
				for back := there + 1; back <= len(c.msgs); back++ {
					s := stepped{state: state.NewState(state.StateOptions{})}
					r := &rig{t: t, set: set, w: NewEngine(set, s.state).NewWorker()}
					for i, m := range c.msgs {
						switch i {
						case there:
							s.step(rulestest.Epoch+m.at*1000, by)
						case back:
							s.step(rulestest.Epoch+m.at*1000, -by)
						}
						if got, want := r.send(m.at*1000+s.off, m.payload), m.decision(); got != want {
							t.Errorf("%s: %v before message %d, back before %d: message %d: got %q, want %q", c.operator, by, there, back, i, got, want)
						}
					}
				}
			}
		}
	}
}

// TestLostStepsFreezeNothing checks that stored times ahead of the message, from a journal lost together with its clock
// steps, start again.
func TestLostStepsFreezeNothing(t *testing.T) {
	t.Parallel()
	for operator, within := range map[string]int64{
		"sample: 10s": 10, "threshold: {enter: payload.a > 5, for: 10s}": 10, "rate_limit: {count: 1, per: 10s}": 10,
		"dedupe: {within: 10s}": 10, "count: {at_least: 3, window: 10s}": 10,
	} {
		r := newRig(t, rulestest.Compile(t, ruleWith(operator, "")))
		r.send(time.Hour.Milliseconds(), `{"a":6}`)
		passed := false
		for at := range within + 1 {
			passed = passed || r.send(at*1000, `{"a":6}`) != ""
		}
		if !passed {
			t.Errorf("%s: nothing passed for %d s after the clock was put back", operator, within)
		}
	}
}

// TestStepsSurviveRestart checks that with clock steps in between, state stored at any time decides like state that
// never left memory, and both like a clock without steps. Values given by operators are times of the stepped clock.
func TestStepsSurviveRestart(t *testing.T) {
	t.Parallel()
	set, recs := rulestest.Compile(t, allOperators), traffic(3000)
	right := NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	whole := stepped{state: state.NewState(state.StateOptions{})}
	wholeWorker := NewEngine(set, whole.state).NewWorker()
	parts := stepped{state: state.NewState(state.StateOptions{})}
	partsWorker := NewEngine(set, parts.state).NewWorker()
	stored, shift := map[string][]byte{}, int64(0)
	names := func(ds []Decision) (all string) {
		for _, d := range ds {
			all += decisionName(set, d) + " "
		}
		return all
	}
	for i := range recs {
		rec := recs[i]
		want := names(right.Eval(&rec, nil))
		if i%41 == 40 {
			by := clockSteps[i/41%len(clockSteps)]
			whole.step(rec.ReceivedAt, by)
			parts.step(rec.ReceivedAt, by)
		}
		rec.ReceivedAt += whole.off
		inOne := wholeWorker.Eval(&rec, nil)
		if got := names(inOne); got != want {
			t.Fatalf("record %d: with steps %s, without %s", i, got, want)
		}
		if got, want := trace(set, &rec, partsWorker.Eval(&rec, nil)), trace(set, &rec, inOne); got != want {
			t.Fatalf("record %d: with restarts %s, without %s", i, got, want)
		}
		if i%7 != 0 {
			continue
		}
		maps.Copy(stored, taken(parts.state))
		shift = parts.state.Shift()
		parts.state = state.NewState(state.StateOptions{})
		parts.state.SetShift(shift)
		for vin, data := range stored {
			check.OK(t, parts.state.Load(vin, data))
		}
		partsWorker = NewEngine(set, parts.state).NewWorker()
	}
	if shift == 0 {
		t.Fatal("no step is in the stored state")
	}
}

// TestStepsAreNoSilenceAndEndNoWindow checks that what is due without a message is due after that much elapsed time,
// whatever the clock shows. A window that is open at a step keeps its length; later windows start by the stepped clock.
func TestStepsAreNoSilenceAndEndNoWindow(t *testing.T) {
	t.Parallel()
	set := rulestest.Compile(t, `rules:
  - {id: quiet, from: ["v1/+/up/#"], when: payload.n == 0, silent: 20s, to: [{kafka: {topic: t}}]}
  - {id: total, from: ["v1/+/up/#"], sum: {of: payload.a, window: 10s}, to: [{kafka: {topic: t}}]}
  - {id: paced, from: ["v1/+/up/#"], on_change: {of: payload.n, at_most_every: 4s}, to: [{kafka: {topic: t}}]}
  - {id: beat, from: ["v1/+/up/#"], on_change: {of: payload.a, at_least_every: 7s}, to: [{kafka: {topic: t}}]}
`)
	for _, by := range clockSteps {
		for at := int64(1); at < 60; at += 3 {
			sent := twoMinutes(t, set, by, at)
			if want := []int64{20}; !slices.Equal(sent["quiet"], want) {
				t.Errorf("%v at %d: silent sent at %v, want %v", by, at, sent["quiet"], want)
			}
			for id, every := range map[string]int64{"paced": 4, "beat": 7} {
				for i, got := range sent[id] {
					if got != int64(i)*every {
						t.Fatalf("%v at %d: %s sent at %v, want every %d s", by, at, id, sent[id], every)
					}
				}
			}
			for i, end := range sent["total"] {
				if before := append([]int64{0}, sent["total"]...)[i]; end-before > 20 || end == before {
					t.Errorf("%v at %d: windows were sent at %v", by, at, sent["total"])
				}
			}
			if n := len(sent["total"]); n < 6 || n > 8 {
				t.Errorf("%v at %d: %d windows in a minute", by, at, n)
			}
		}
	}
}

// twoMinutes sends a message and a tick a second for a minute, and then ticks alone. The clock steps at a second, and 40 s
// later. It returns when each rule sent something.
func twoMinutes(t *testing.T, set *lang.Set, by time.Duration, at int64) map[string][]int64 {
	t.Helper()
	s := stepped{state: state.NewState(state.StateOptions{})}
	w := NewEngine(set, s.state).NewWorker()
	sent := map[string][]int64{}
	eval := func(now int64, rec message.Record) {
		s.state.Advance(rec.ReceivedAt)
		for _, d := range w.Eval(&rec, nil) {
			if d.Err != "" {
				t.Fatal(d.Err)
			}
			id, _, _ := strings.Cut(decisionName(set, d), "/")
			sent[id] = append(sent[id], now)
		}
	}
	for now := range int64(120) {
		if now == at || now == at+40 {
			s.step(rulestest.Epoch+now*1000, by)
		}
		received := rulestest.Epoch + now*1000 + s.off
		if now < 60 {
			eval(now, rulestest.Telemetry(uint64(now+1), received, fmt.Sprintf(`{"a":1,"n":%d}`, now)))
		}
		tick := message.Tick(now == 0)
		tick.ReceivedAt = received
		if tick.TickBegins() {
			s.state.Begin(received)
		}
		eval(now, tick)
	}
	return sent
}
