package command

import (
	"context"
	"errors"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// holds occupies a vehicle's turn until release is called, as a result that Redis does not decide on does.
func (m *member) holds(vin string) (release func()) {
	m.t.Helper()
	held, end := make(chan struct{}), make(chan struct{})
	m.turns.run(vin, func(context.Context) {
		close(held)
		<-end
	})
	<-held
	return func() {
		close(end)
		done := make(chan struct{})
		m.turns.run(vin, func(context.Context) { close(done) })
		<-done
	}
}

// TestNobodyWaits checks, for every origin, that a request not decided in time is answered "unknown, repeat with this
// id" and is not accepted when its turn comes; nor is one whose caller has disconnected.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	create(t, m.Service, Request{ID: "c0"})
	m.o.Cell.Patience = 20 * time.Millisecond
	release := m.holds(vin)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, _, err := m.Create(ctx, Request{ID: "c1", VIN: vin, Name: "lock"})
	var unknown *unknownError
	if !errors.As(err, &unknown) || unknown.ID != "c1" {
		t.Errorf("a request behind one that Redis does not decide on: %v", err)
	}
	if _, err := m.Cancel(ctx, Caller{}, vin, "c0"); !errors.Is(err, errUnknown) {
		t.Errorf("a cancel: %v", err)
	}
	answered := make(chan byte, 1)
	check.OK(t, m.Submit(ctx, &message.Record{Topic: "v1/" + vin + "/cmd/c2/lock"}, Caller{}, true, func(reason byte, _ string) { answered <- reason }))
	if code := <-answered; code != reasonUnspecified {
		t.Errorf("PUBACK %#x", code)
	}
	m.o.Cell.Patience = time.Hour
	gone, leave := context.WithCancel(ctx)
	time.AfterFunc(time.Millisecond, leave)
	if _, _, err := m.Create(gone, Request{ID: "c3", VIN: vin, Name: "lock"}); err == nil {
		t.Error("a caller that is gone has an answer")
	}
	check.Eventually(t, "those who gave up to leave their places", func() bool { return len(m.inbox.slots) == 0 })
	release()
	for _, id := range []string{"c1", "c2", "c3"} {
		if cmd, err := m.Get(ctx, vin, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("accepted when nobody waited for it: %+v %v", cmd, err)
		}
	}
	c.at(m, "c0", Queued)
}

// TestAtOnceWhileAway checks that no request waits in a vehicle's turn while Redis is known to decide nothing.
func TestAtOnceWhileAway(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	release := m.holds(vin)
	defer release()
	m.set(errors.New("no answer for 2 s"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // less than Patience
	defer cancel()
	if _, _, err := m.Create(ctx, Request{VIN: vin, Name: "lock"}); !errors.Is(err, errUnknown) {
		t.Error(err)
	}
	answered := make(chan byte, 1)
	check.OK(t, m.Submit(ctx, &message.Record{Topic: "v1/" + vin + "/cmd/c2/lock"}, Caller{}, true, func(reason byte, _ string) { answered <- reason }))
	select {
	case code := <-answered:
		if code != reasonUnspecified {
			t.Errorf("PUBACK %#x", code)
		}
	case <-ctx.Done():
		t.Error("a PUBLISH waits for Redis")
	}
}

// TestLivesFromItsArrival checks that the time to live counts from arrival, however long the request waits for its
// turn.
func TestLivesFromItsArrival(t *testing.T) {
	t.Parallel()
	c := newTogether(t, 1)
	m := c.all[0]
	release := m.holds(vin)
	var got, late error
	var cmd Command
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, late = m.Create(t.Context(), Request{ID: "c1", VIN: vin, Name: "lock", TTL: time.Second, came: time.Now().Add(-2 * time.Second)})
		cmd, _, got = m.Create(t.Context(), Request{ID: "c2", VIN: vin, Name: "lock", TTL: time.Hour, came: time.Now().Add(-time.Minute)})
	}()
	release()
	<-done
	if !errors.Is(late, errExpired) {
		t.Errorf("accepted after its time: %v", late)
	}
	if check.OK(t, got); time.Until(time.UnixMilli(int64(cmd.ExpiresAt))) > 59*time.Minute+5*time.Second {
		t.Errorf("given a minute ago for an hour, it expires at %v", cmd.ExpiresAt)
	}
}
