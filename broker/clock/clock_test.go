package clock_test

import (
	"testing"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/clock/clocktest"
)

var epoch = time.UnixMilli(1_760_000_000_000)

const year = 365 * 24 * time.Hour

// TestStepsMoveNoTime: whatever the wall clock does, Now counts the elapsed time, and a step forward makes nothing
// late.
func TestStepsMoveNoTime(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year} {
		machine := clocktest.Still(epoch)
		c, jump := clock.New(machine.Source(), clock.Saved{})
		if jump != 0 || !c.Now().Equal(epoch) {
			t.Fatalf("first start: jump %v, now %v", jump, c.Now())
		}
		machine.Pass(time.Minute)
		machine.Step(by)
		c.Stepped(by)
		machine.Pass(time.Minute)
		if want := epoch.Add(2 * time.Minute); !c.Now().Equal(want) || !c.Latest().Equal(want) {
			t.Errorf("step by %v: now %v, latest %v, want %v", by, c.Now(), c.Latest(), want)
		}
		if !c.Wall().Equal(epoch.Add(2*time.Minute + by)) {
			t.Errorf("step by %v: the wall clock shows %v", by, c.Wall())
		}
		want := time.Minute
		if by.Abs() < time.Minute {
			want = 2 * time.Minute
		}
		if c.Trusted() != want {
			t.Errorf("step by %v: trusted for %v, want %v", by, c.Trusted(), want)
		}
	}
}

// TestRestart: a stop counts only for what must not be late. A wrong clock at the start looks like a stop until it is
// corrected.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ away, jump, latest time.Duration }{
		{0, 0, 0},
		{time.Second, 0, time.Second},
		{-100 * time.Millisecond, 0, 0},
		{-time.Second, -time.Second, 0},
		{time.Hour, 0, time.Hour},
		{-time.Hour, -time.Hour, 0},
		{10 * year, 10 * year, 10 * year},
		{-10 * year, -10 * year, 0},
	} {
		machine := clocktest.Still(epoch)
		before, _ := clock.New(machine.Source(), clock.Saved{})
		machine.Pass(time.Hour)
		saved := before.Save()
		machine.Step(c.away)
		after, jump := clock.New(machine.Source(), saved)
		if jump != c.jump {
			t.Errorf("away for %v: jump %v, want %v", c.away, jump, c.jump)
		}
		if !after.Now().Equal(before.Now()) {
			t.Errorf("away for %v: now %v, was %v", c.away, after.Now(), before.Now())
		}
		if got := after.Latest().Sub(after.Now()); got != c.latest {
			t.Errorf("away for %v: latest is %v ahead, want %v", c.away, got, c.latest)
		}
		if doubt := after.Trusted() == 0; doubt != (c.jump != 0) {
			t.Errorf("away for %v: trusted for %v", c.away, after.Trusted())
		}
		machine.Step(-c.away) // put right
		after.Stepped(-c.away)
		if !after.Latest().Equal(after.Now()) {
			t.Errorf("away for %v: put right, latest is still %v ahead", c.away, after.Latest().Sub(after.Now()))
		}
	}
}

// TestAStopIsNotTakenBack: correcting a step takes back the step, not the stop before it.
func TestAStopIsNotTakenBack(t *testing.T) {
	t.Parallel()
	machine := clocktest.Still(epoch)
	c, _ := clock.New(machine.Source(), clock.Saved{})
	for n := range time.Duration(3) {
		saved := c.Save()
		machine.Step(time.Hour) // nothing runs
		c, _ = clock.New(machine.Source(), saved)
		for _, by := range []time.Duration{time.Hour, -time.Hour} {
			machine.Step(by)
			c.Stepped(by)
			saved = c.Save()
			c, _ = clock.New(machine.Source(), saved)
		}
		if got := c.Latest().Sub(c.Now()); got != (n+1)*time.Hour {
			t.Fatalf("after %d stops of an hour latest is %v ahead", n+1, got)
		}
	}
	saved := c.Save()
	machine.Step(-2 * time.Hour)
	c, _ = clock.New(machine.Source(), saved)
	if got := c.Latest().Sub(c.Now()); got != time.Hour {
		t.Fatalf("put back by two hours between runs, latest is %v ahead", got)
	}
}

// TestWatch: slewing is no step, however long it lasts; a step is one step.
func TestWatch(t *testing.T) {
	t.Parallel()
	machine := clocktest.Still(epoch)
	w := clock.NewWatch(machine.Source())
	for range 10_000 { // nearly three hours at chrony's utmost
		if _, step, stepped := w.Look(); stepped {
			t.Fatalf("slewing was taken for a step: %v", step.By())
		}
		machine.Pass(time.Second)
		machine.Step(-83 * time.Millisecond)
	}
	w.Look()
	for _, by := range []time.Duration{time.Second, -time.Second, -time.Hour, 10 * year, -20 * year} {
		machine.Pass(time.Second)
		machine.Step(by)
		now, step, stepped := w.Look()
		if !stepped || step.By() != by || step.To != now || now != machine.Wall().UnixMilli() {
			t.Errorf("step by %v: %v, %+v", by, stepped, step)
		}
		if _, _, again := w.Look(); again {
			t.Errorf("step by %v was seen twice", by)
		}
	}
}
