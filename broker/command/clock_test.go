package command

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/clock/clocktest"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

const year = 365 * 24 * time.Hour

// clockSteps are the steps of the wall clock tested.
var clockSteps = []time.Duration{time.Second, -time.Second, time.Hour, -time.Hour, 10 * year, -10 * year}

// clockRig is a service with a wall clock that a test sets. It holds a kept command from the beginning.
type clockRig struct {
	*Service
	t       *testing.T
	file    string
	db      *statefile.DB
	machine *clocktest.Clock
	c       *clock.Clock
	e       *engine
}

func newClockRig(t *testing.T) *clockRig {
	r := &clockRig{t: t, file: filepath.Join(t.TempDir(), "state.db"), machine: clocktest.Still(time.UnixMilli(1_760_000_000_000))}
	r.open(clock.Saved{})
	t.Cleanup(r.close)
	r.e.set(5, nil)
	create(t, r.Service, Request{ID: "kept"})
	r.e.next(t).Acked(0x80)
	check.Eventually(t, "rejected", func() bool { return state(t, r.Service, "kept") == Rejected })
	r.e.set(0, nil)
	return r
}

func (r *clockRig) open(saved clock.Saved) {
	r.t.Helper()
	db, err := statefile.Open(r.file, statefile.Options{Sync: statefile.SyncNever})
	check.OK(r.t, err)
	r.db, r.e = db, newEngine(0)
	r.c, _ = clock.New(r.machine.Source(), saved)
	if r.Service, err = Open(completed(Options{DB: db, Deliverer: r.e, Clock: r.c})); err != nil {
		r.t.Fatal(err)
	}
}

func (r *clockRig) close() {
	stop(r.t, r.Service)
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
}

// step sets the wall clock while the gateway runs; restart sets it between two runs.
func (r *clockRig) step(by time.Duration) {
	r.machine.Step(by)
	r.c.Stepped(by)
}

func (r *clockRig) restart(by time.Duration) {
	r.t.Helper()
	r.close()
	saved := r.c.Save()
	r.machine.Step(by)
	r.open(saved)
}

// look has the service do everything that is due, retention included.
func (r *clockRig) look() {
	r.t.Helper()
	for range 2 {
		r.post((*batch).retain)
		flush(r.t, r.Service)
	}
}

// TestClockStepsEndNoCommand checks that commands expire and the history is forgotten by elapsed time, whatever the
// wall clock does.
func TestClockStepsEndNoCommand(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*clockRig, time.Duration){"running": (*clockRig).step, "at a start": (*clockRig).restart} {
		for _, by := range clockSteps {
			t.Run(name+" "+by.String(), func(t *testing.T) {
				t.Parallel()
				stepEndsNoCommand(t, name == "at a start", set, by)
			})
		}
	}
}

func stepEndsNoCommand(t *testing.T, restarted bool, set func(*clockRig, time.Duration), by time.Duration) {
	t.Helper()
	r := newClockRig(t)
	create(t, r.Service, Request{ID: "open", TTL: time.Minute})
	create(t, r.Service, Request{ID: "ends", TTL: time.Minute})
	set(r, by)
	r.machine.Pass(30 * time.Second)
	r.look()
	if got := state(t, r.Service, "open"); got != Queued {
		t.Errorf("after the step: %s", got)
	}
	set(r, -by)
	r.look()
	r.e.set(5, nil)
	r.OnReady(vin)
	switch late := restarted && by < 0; { // then it comes back as after a stop
	case !late:
		if d := r.e.next(t); d.Life != 30*time.Second {
			t.Errorf("sent with %v left", d.Life)
		}
	case by == -time.Second:
		if d := r.e.next(t); d.Life != 29*time.Second {
			t.Errorf("sent with %v left", d.Life)
		}
	case len(r.e.arrived) > 0:
		t.Error("sent although it may be too late")
	}
	create(t, r.Service, Request{ID: "later", TTL: time.Hour})
	r.machine.Pass(31 * time.Second)
	r.look()
	check.Eventually(t, "expired", func() bool { return state(t, r.Service, "ends") == Expired })
	if got := state(t, r.Service, "kept"); got != Rejected {
		t.Errorf("the history: %s", got)
	}
	set(r, by)
	r.machine.Pass(7*24*time.Hour + time.Minute)
	r.look()
	if _, err := r.Get(context.Background(), vin, "kept"); err == nil {
		t.Error("the history is kept for good")
	}
}

// TestAStopMakesCommandsLate checks a stop whose length only the wall clock shows: no command is sent too late by it,
// only elapsed time ends a command, and if the clock was wrong the command is sent.
func TestAStopMakesCommandsLate(t *testing.T) {
	t.Parallel()
	for _, wrong := range []bool{false, true} {
		r := newClockRig(t)
		create(t, r.Service, Request{ID: "unlock", TTL: time.Minute})
		r.restart(time.Hour)
		r.e.set(5, nil)
		r.OnReady(vin)
		r.look()
		if got := state(t, r.Service, "unlock"); got != Queued || len(r.e.arrived) > 0 {
			t.Fatalf("after an hour's stop: %s, %d sent", got, len(r.e.arrived))
		}
		create(t, r.Service, Request{ID: "new", TTL: time.Minute})
		r.e.next(t).Acked(0) // continues past the one that may be too late
		if wrong {
			r.step(-time.Hour)
			r.e.next(t).Acked(0)
			check.Eventually(t, "delivered", func() bool { return state(t, r.Service, "unlock") == Delivered })
			continue
		}
		r.machine.Pass(61 * time.Second)
		r.look()
		check.Eventually(t, "expired", func() bool { return state(t, r.Service, "unlock") == Expired })
	}
}
