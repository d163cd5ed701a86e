package engine

import (
	"maps"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

// clockSteps are how far clocks go wrong.
var clockSteps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}

// stepped is a row of records of a clock that steps.
type stepped struct {
	state *state.State
	off   int64 // ms: how far the clock is off
}

// step moves the clock, seen from a record received at a time of the clock without steps.
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

// TestClockStepsChangeNothing: intervals of every operator go on over a step of the clock, at whichever message it
// comes, and when it comes back.
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

// TestLostStepsFreezeNothing: times ahead of the message, of a journal that is lost with its steps, begin anew.
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

// TestStepsSurviveRestart: with steps between, the state that was stored at whatever time decides as one that never left
// memory, and both as if the clock had been right. The values that operators give are times of the clock as it is.
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
