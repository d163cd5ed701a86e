package command

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/test/check"
)

// A command marked to be sent at once can be cancelled if the vehicle left before it was sent.
func TestCancelOfWhatDidNotLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &leaving{engine: newEngine(5)}
		s := start(t, Options{Deliverer: e})
		create(t, s, Request{ID: "c1"})
		synctest.Wait()
		if cmd, err := s.Cancel(t.Context(), Caller{}, vin, "c1"); err != nil || cmd.State != Cancelled {
			t.Errorf("Cancel: %s, %v", cmd.State, err)
		}
		stop(t, s)
	})
}

// leaving is an engine whose vehicle is ready when a command comes and gone when it is to be sent.
type leaving struct {
	*engine
	asked atomic.Bool
}

func (e *leaving) Ready(vin string) (byte, bool) {
	if e.asked.Swap(true) {
		return 0, false
	}
	return e.engine.Ready(vin)
}

// arrivals returns the ids of the commands given to the delivery engine, and acknowledges each in turn.
func arrivals(t *testing.T, e *engine, n int) (ids string) {
	t.Helper()
	for range n {
		d := e.next(t)
		ids += strings.Split(d.Topic, "/")[3] + " "
		d.Sent()
		d.Acked(0)
	}
	return ids
}

// Urgent commands are sent before other unsent ones, each kind in the order of acceptance: live, to a returning
// vehicle, and after a restart.
func TestUrgentCommandsGoFirst(t *testing.T) {
	t.Parallel()
	accept := func(s *Service) {
		for _, id := range []string{"c1", "c2", "u1", "c3", "u2"} {
			create(t, s, Request{ID: id, Urgent: id[0] == 'u'})
		}
	}
	t.Run("behind a full window", func(t *testing.T) {
		t.Parallel()
		e := newEngine(5)
		s := start(t, Options{Deliverer: e, Inflight: 1})
		accept(s)
		if got := arrivals(t, e, 5); got != "c1 u1 u2 c2 c3 " {
			t.Errorf("sent %s", got)
		}
	})
	t.Run("to a vehicle that was away, after a restart", func(t *testing.T) {
		t.Parallel()
		db, e := openDB(t), newEngine(0)
		s := start(t, Options{DB: db, Deliverer: e})
		accept(s)
		stop(t, s)
		s = start(t, Options{DB: db, Deliverer: e})
		e.set(5, nil)
		s.OnReady(vin)
		if got := arrivals(t, e, 5); got != "u1 u2 c1 c2 c3 " {
			t.Errorf("sent %s", got)
		}
	})
	t.Run("not beyond the window", func(t *testing.T) {
		t.Parallel()
		e := newEngine(5)
		s := start(t, Options{Deliverer: e, Inflight: 2})
		create(t, s, Request{ID: "c1"})
		create(t, s, Request{ID: "c2"})
		first, second := e.next(t), e.next(t)
		create(t, s, Request{ID: "u1", Urgent: true})
		flush(t, s)
		if len(e.arrived) > 0 {
			t.Error("a third command was sent while two were not acknowledged")
		}
		first.Acked(0)
		if d := e.next(t); !d.Urgent || !strings.Contains(d.Topic, "/u1/") {
			t.Errorf("sent %s next, urgent %v", d.Topic, d.Urgent)
		}
		second.Acked(0)
	})
}

// Urgency is part of the content: the same id without it is another command.
func TestUrgentOnEveryEntrance(t *testing.T) {
	t.Parallel()
	k := &kafka{}
	s := start(t, Options{Deliverer: newEngine(0), Publish: k.Publish})
	server := api(t, s)
	path := "/v1/vehicles/" + vin + "/commands"
	a := call(t, server, "POST", path, `{"name":"lock","id":"h1","urgent":true}`, "Caller", "svc")
	if a.status != 202 || !strings.Contains(a.body, `"urgent":true`) {
		t.Errorf("HTTP: %d %s", a.status, a.body)
	}
	if a := call(t, server, "POST", path, `{"name":"lock","id":"h1"}`, "Caller", "svc"); a.status != 409 {
		t.Errorf("the same id, not urgent: %d %s", a.status, a.body)
	}
	for by, want := range map[string]string{"planner": "planner", "": "kafka", "two\nlines": "kafka", strings.Repeat("x", 200): "kafka", "\xff": "kafka"} {
		id := fmt.Sprintf("k%d", len(by))
		m := Message{Ref: "r", At: time.Now(), By: by, Value: []byte(`{"id":"` + id + `","vin":"` + vin + `","name":"lock","urgent":true}`)}
		check.OK(t, s.accept(t.Context(), []Message{m}, "vehicle.commands/0", []byte("1")))
		flush(t, s)
		if cmd, err := s.Get(context.Background(), vin, id); err != nil || !cmd.Urgent || cmd.By != want {
			t.Errorf("by Kafka with header %q: %+v, %v", by, cmd, err)
		}
	}
	for id, want := range map[string]string{"h1": "svc http", "k7": "planner kafka", "k0": "kafka kafka"} {
		check.Eventually(t, "event of "+id, func() bool { return len(k.states(t, id)) > 0 })
		if got := k.last(t, id); got.By+" "+got.Origin != want {
			t.Errorf("event of %s: by %s, origin %s, want %s", id, got.By, got.Origin, want)
		}
	}
}
