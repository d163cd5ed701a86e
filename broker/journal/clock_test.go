package journal

import (
	"context"
	"slices"
	"testing"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/clock/clocktest"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

// stepping is a journal on a clock that the test sets.
type stepping struct {
	*Journal
	t       *testing.T
	machine *clocktest.Clock
	o       Options
	told    []time.Duration // to OnStep
}

func newStepping(t *testing.T) *stepping {
	s := &stepping{t: t, machine: clocktest.Still(time.UnixMilli(1_760_000_000_000)), o: testOptions(t.TempDir())}
	s.o.Clock = s.machine.Source()
	s.o.OnStep = func(step clock.Step) { s.told = append(s.told, step.By()) }
	s.Journal, _ = open(t, s.o)
	return s
}

// put appends a record and returns it.
func (s *stepping) put() message.Record {
	s.t.Helper()
	recs := []message.Record{record(1)}
	last, err := s.Append(recs, nil)
	if err != nil || last != recs[0].Seq {
		s.t.Fatal(err, last, recs)
	}
	return recs[0]
}

func (s *stepping) restart(jump time.Duration) {
	s.t.Helper()
	closeJournal(s.t, s.Journal)
	s.o.Jump = jump
	s.Journal, _ = open(s.t, s.o)
}

// steps reads the journal and returns the steps in it. It fails if a time goes back, or the clock's step shows,
// anywhere else.
func (s *stepping) steps() (found []time.Duration) {
	s.t.Helper()
	waitDurable(s.t, s.Journal, s.Last())
	r, err := s.NewReader(0)
	check.OK(s.t, err)
	defer func() { _ = r.Close() }()
	var at int64
	for seq := uint64(0); seq < s.Last(); {
		b, err := r.Next(context.Background(), 0)
		check.OK(s.t, err)
		for i := range b.Records {
			rec := &b.Records[i]
			seq = rec.Seq
			if rec.Kind == message.KindClockStep {
				step, err := rec.ClockStep()
				if err != nil || step.To != rec.ReceivedAt || step.From < at {
					s.t.Fatalf("record %d at %d after %d: %+v %v", seq, rec.ReceivedAt, at, step, err)
				}
				found = append(found, time.Duration(step.By())*time.Millisecond)
			} else if rec.ReceivedAt < at {
				s.t.Fatalf("record %d: time went from %d to %d", seq, at, rec.ReceivedAt)
			}
			at = rec.ReceivedAt
		}
	}
	return found
}

// TestReceivedAtIsTheWallClock checks that received_at follows the wall clock at once, even after it was ahead, and
// that the step is recorded.
func TestReceivedAtIsTheWallClock(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year} {
		s := newStepping(t)
		first := s.put()
		s.machine.Pass(time.Second)
		s.machine.Step(by)
		for range 3 {
			s.machine.Pass(time.Second)
			if rec := s.put(); rec.ReceivedAt != s.machine.Wall().UnixMilli() {
				t.Errorf("step by %v: received_at %v, the clock shows %v", by, rec.Time(), s.machine.Wall())
			}
		}
		s.machine.Step(-by)
		if rec := s.put(); rec.ReceivedAt != first.ReceivedAt+4000 {
			t.Errorf("step by %v and back: received_at %v, the clock shows %v", by, rec.Time(), s.machine.Wall())
		}
		want := []time.Duration{by, -by}
		if got := s.steps(); !slices.Equal(got, want) || !slices.Equal(s.told, want) {
			t.Errorf("step by %v and back: steps on record %v, told %v", by, got, s.told)
		}
		s.restart(0)
		if s.put(); len(s.steps()) != 2 {
			t.Errorf("step by %v: a restart is a step: %v", by, s.steps())
		}
	}
}

// TestClockAtStart changes the clock across a restart.
func TestClockAtStart(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{0, time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year} {
		s := newStepping(t)
		s.put()
		var jump time.Duration
		var want []time.Duration
		if by > 12*time.Hour {
			jump = by
		}
		if by < 0 || jump != 0 {
			want = []time.Duration{by}
		}
		s.machine.Step(by)
		s.restart(jump)
		s.machine.Pass(time.Second) // until the first record
		if rec := s.put(); rec.ReceivedAt != s.machine.Wall().UnixMilli() {
			t.Errorf("start %v off: received_at %v, the clock shows %v", by, rec.Time(), s.machine.Wall())
		}
		if by == -time.Second {
			want = nil // it was already past the last record
		}
		if got := s.steps(); len(got) != len(want) {
			t.Errorf("start %v off: steps on record %v", by, got)
		}
		s.machine.Step(-by) // corrected
		s.machine.Pass(time.Second)
		if rec := s.put(); rec.ReceivedAt != s.machine.Wall().UnixMilli() {
			t.Errorf("start %v off, put right: received_at %v, the clock shows %v", by, rec.Time(), s.machine.Wall())
		}
	}
}

// TestAStepBeforeTheFirstRecord corrects the clock between the start and the first record, as after a boot.
func TestAStepBeforeTheFirstRecord(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Hour, 10 * year} {
		s := newStepping(t)
		s.put()
		s.restart(0)
		s.machine.Step(by)
		s.machine.Pass(time.Second)
		if rec := s.put(); rec.ReceivedAt != s.machine.Wall().UnixMilli() {
			t.Errorf("%v: received_at %v, the clock shows %v", by, rec.Time(), s.machine.Wall())
		}
		if got := s.steps(); len(got) != 1 || got[0] != by {
			t.Errorf("%v: steps on record %v", by, got)
		}
	}
}

// TestSlewIsNoStep checks that a difference below the tolerance is waited out: received_at neither goes back nor steps.
func TestSlewIsNoStep(t *testing.T) {
	t.Parallel()
	s := newStepping(t)
	for range 100 {
		s.put()
		s.machine.Step(-400 * time.Millisecond)
		before := s.put().ReceivedAt
		if s.machine.Pass(time.Second); s.put().ReceivedAt < before {
			t.Fatal("time went back")
		}
	}
	if got := s.steps(); got != nil {
		t.Fatalf("steps %v", got)
	}
	s.machine.Step(-400 * time.Millisecond)
	s.put()
	s.machine.Step(-400 * time.Millisecond) // together they are a step
	s.put()
	if got := s.steps(); len(got) != 1 {
		t.Fatalf("800 ms back: %v", got)
	}
}

// TestIdleJournalSeesTheStep checks that LookAtClock suffices, and that an empty journal records no step.
func TestIdleJournalSeesTheStep(t *testing.T) {
	t.Parallel()
	s := newStepping(t)
	s.LookAtClock()
	s.machine.Step(time.Hour)
	s.LookAtClock()
	if s.Last() != 0 {
		t.Fatal("an empty journal has a step")
	}
	s.put()
	s.LookAtClock()
	s.machine.Pass(3 * time.Hour)
	s.machine.Step(-time.Hour)
	s.LookAtClock()
	s.LookAtClock()
	if got := s.steps(); len(got) != 1 || got[0] != -time.Hour {
		t.Fatalf("steps %v", got)
	}
}

// TestStepsAreShown checks that inspecting the files shows the steps.
func TestStepsAreShown(t *testing.T) {
	t.Parallel()
	s := newStepping(t)
	for range 3 {
		s.put()
		s.machine.Step(time.Hour)
	}
	s.put()
	s.steps()
	for name, look := range map[string]func(string) (Report, error){"Inspect": Inspect, "Verify": Verify} {
		r, err := look(s.o.Dir)
		if err != nil || len(r.Steps) != 3 || r.StepsInAll != 3 || r.Steps[0].Seq != 2 || r.Steps[0].By() != time.Hour.Milliseconds() {
			t.Errorf("%s: %v %+v", name, err, r.Steps)
		}
	}
}
