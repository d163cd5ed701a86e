package app

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/clock/clocktest"
	"cellgate/broker/shared/remote"
	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

var clockSteps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}

// clockIsDegraded waits until /readyz names the clock, or no longer does. The gateway serves in either case.
func clockIsDegraded(t *testing.T, a *App, want bool) {
	t.Helper()
	check.Within(t, check.Patience, fmt.Sprintf("the clock's step is named: %v", want), func() error {
		var r readiness
		if code := get(t, a, "/readyz", "", &r); code != 200 {
			t.Fatalf("readyz %d %+v", code, r)
		}
		if slices.ContainsFunc(r.Degraded, func(d remote.Health) bool { return d.Name == "clock" }) != want {
			return fmt.Errorf("readyz %+v", r)
		}
		return nil
	})
}

// TestClockStepsWhileRunning: a step is noticed without any messages, reported in log, metric and /readyz, and no
// longer after a while.
func TestClockStepsWhileRunning(t *testing.T) {
	t.Parallel()
	for _, by := range clockSteps {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			machine := clocktest.Running()
			a, log := bootAt(t, write(t, t.TempDir(), ""), machine.Source())
			journalOne(t, a, "1")
			clockIsDegraded(t, a, false)
			epoch := a.clock.Now()
			machine.Step(by)
			clockIsDegraded(t, a, true)
			if since := a.clock.Now().Sub(epoch); since < 0 || since > time.Minute {
				t.Errorf("%v have passed", since)
			}
			direction := "forward"
			if by < 0 {
				direction = "back"
			}
			if n := check.Series(t, a.reg.all)["cellgate_clock_steps_total{direction="+direction+"}"]; n != 1 {
				t.Errorf("%v steps %s", n, direction)
			}
			if !strings.Contains(log.String(), "the wall clock has stepped") {
				t.Error("the log does not tell of the step")
			}
			machine.Pass(doubtClock)
			clockIsDegraded(t, a, false)
		})
	}
}

// presenceEpochOf begins another epoch.
func presenceEpochOf(t *testing.T, a *App) int64 {
	t.Helper()
	epoch, err := a.clock.presenceEpoch()
	check.OK(t, err)
	return epoch
}

// TestClockMovesBetweenRuns: intervals continue, the clock's move is reported, and the epochs of presence rise. The clock stands still:
// the time that a restart takes would make the move smaller.
func TestClockMovesBetweenRuns(t *testing.T) {
	t.Parallel()
	for _, by := range clockSteps {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			machine := clocktest.Still(time.Now())
			file := write(t, t.TempDir(), "")
			a, _ := bootAt(t, file, machine.Source())
			journalOne(t, a, "1")
			first := presenceEpochOf(t, a)
			halt(t, a)
			machine.Step(by)
			b, _ := bootAt(t, file, machine.Source())
			if since := b.clock.Now().Sub(a.clock.Now()); since != 0 {
				t.Errorf("now moved by %v", since)
			}
			clockIsDegraded(t, b, by < 0 || by > 12*time.Hour)
			second := presenceEpochOf(t, b)
			halt(t, b)
			machine.Step(-by)
			c, _ := bootAt(t, file, machine.Source())
			if third := presenceEpochOf(t, c); first >= second || second >= third {
				t.Errorf("epochs of presence: %d, %d, %d", first, second, third)
			}
			if c.clock.Trusted() > time.Hour {
				t.Errorf("the clock is trusted for %v", c.clock.Trusted())
			}
		})
	}
}
