package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// snapshot opens a copy of the state file as it is on disk: the state after a kill -9.
func snapshot(t *testing.T, db *statefile.DB) *statefile.DB {
	t.Helper()
	file := filepath.Join(t.TempDir(), "copy.db")
	err := db.Update(func(*statefile.Tx) error { // nothing else writes meanwhile
		data, err := os.ReadFile(db.Path())
		return errors.Join(err, os.WriteFile(file, data, 0o600))
	})
	check.OK(t, err)
	cp, err := statefile.Open(file, statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	t.Cleanup(func() { _ = cp.Close() })
	return cp
}

// TestKilledAfterHandOver copies the disk's state at the moment the delivery engine gets the command: after a restart
// the command cannot be cancelled, and is sent again.
func TestKilledAfterHandOver(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"created while ready", "ready later"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			db := openDB(t)
			var cp *statefile.DB
			e := &hooked{engine: newEngine(0), hook: func() { cp = snapshot(t, db) }}
			if how == "created while ready" {
				e.set(5, nil)
			}
			s := start(t, Options{DB: db, Deliverer: e})
			create(t, s, Request{ID: "c1"})
			e.set(5, nil)
			s.OnReady(vin)
			e.next(t)

			again := newEngine(0)
			r := start(t, Options{DB: cp, Deliverer: again})
			if got := state(t, r, "c1"); got != Queued {
				t.Errorf("restarted as %s although no PUBACK and no Sent came", got)
			}
			if _, err := r.Cancel(context.Background(), Caller{}, vin, "c1"); !errors.Is(err, ErrNotCancellable) {
				t.Errorf("Cancel: %v", err)
			}
			again.set(5, nil)
			r.OnReady(vin)
			again.next(t)
			result(t, r, "c1", Succeeded, "")
			if got := state(t, r, "c1"); got != Succeeded {
				t.Errorf("state %s", got)
			}
		})
	}
}

type hooked struct {
	*engine
	hook func()
}

func (h *hooked) Deliver(vin string, d *message.Delivery) error {
	h.hook()
	return h.engine.Deliver(vin, d)
}

func TestRestartKeepsStatesAndOrder(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	e := newEngine(0)
	s := start(t, Options{DB: db, Deliverer: e})
	for _, id := range []string{"queued", "sent", "delivered", "accepted", "done"} {
		create(t, s, Request{ID: id})
	}
	e.set(5, nil)
	s.OnReady(vin)
	got := map[string]*message.Delivery{}
	for range 5 {
		d := e.next(t)
		got[d.Topic] = d
	}
	of := func(id string) *message.Delivery { return got[fmt.Sprintf("v1/%s/cmd/%s/lock", vin, id)] }
	for _, id := range []string{"sent", "delivered", "accepted", "done"} {
		of(id).Sent()
	}
	for _, id := range []string{"delivered", "accepted", "done"} {
		of(id).Acked(0)
	}
	result(t, s, "accepted", Accepted, "")
	result(t, s, "done", Failed, `"no"`)
	cp := snapshot(t, db)

	again := newEngine(0)
	k := &kafka{}
	r := start(t, Options{DB: cp, Deliverer: again, Publish: k.Publish})
	for id, want := range map[string]State{"queued": Queued, "sent": Sent, "delivered": Delivered, "accepted": Accepted, "done": Failed} {
		if got := state(t, r, id); got != want {
			t.Errorf("%s restarted as %s", id, got)
		}
	}
	again.set(4, nil)
	r.OnReady(vin)
	for _, id := range []string{"queued", "sent"} {
		if d := again.next(t); d.Topic != fmt.Sprintf("v1/%s/cmd/%s/lock", vin, id) {
			t.Errorf("sent again: %s, want %s", d.Topic, id)
		}
	}
	flush(t, r)
	if len(again.arrived) != 0 {
		t.Error("more was sent again than was not acknowledged")
	}
	result(t, r, "done", Succeeded, "") // the journal repeats a result, then a contradiction
	if got := state(t, r, "done"); got != Failed {
		t.Errorf("a replay made it %s", got)
	}
}

func TestExpiryWhileDownWaitsForResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t)
		e := newEngine(5)
		s := start(t, Options{DB: db, Deliverer: e})
		for _, id := range []string{"c1", "c2"} {
			create(t, s, Request{ID: id, TTL: 5 * time.Second})
			e.next(t).Sent()
		}
		flush(t, s)
		stop(t, s)
		time.Sleep(time.Minute)
		r := start(t, Options{DB: db, Deliverer: newEngine(0), StartGrace: 2 * time.Second})
		result(t, r, "c1", Succeeded, "") // in the journal since before the restart
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if a, b := state(t, r, "c1"), state(t, r, "c2"); a != Succeeded || b != Expired {
			t.Errorf("after the restart: %s and %s", a, b)
		}
		stop(t, r)
		_ = db.Close()
	})
}

func TestEventsWaitForKafka(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t)
		k := &kafka{err: errors.New("away")}
		s := start(t, Options{DB: db, Deliverer: newEngine(0), Publish: k.Publish, MaxEvents: 3})
		for i := range 3 {
			create(t, s, Request{ID: fmt.Sprintf("c%d", i), TTL: time.Second})
		}
		if _, _, err := s.Create(t.Context(), Request{VIN: vin, Name: "x"}); !errors.Is(err, errBusy) {
			t.Errorf("beyond the bound of events: %v", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		stop(t, s)

		k2 := &kafka{err: errors.New("still away")}
		r := start(t, Options{DB: db, Deliverer: newEngine(0), Publish: k2.Publish})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.Stat().Waiting; got != 6 {
			t.Errorf("%d events wait, want 6", got)
		}
		k2.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		for i := range 3 {
			if got := fmt.Sprint(k2.states(t, fmt.Sprintf("c%d", i))); got != "[queued expired]" {
				t.Errorf("c%d: %s", i, got)
			}
		}
		for i, e := range k2.events {
			if i > 0 && e.N <= k2.events[i-1].N {
				t.Errorf("event numbers fall: %d after %d", e.N, k2.events[i-1].N)
			}
		}
		stop(t, r)
		_ = db.Close()
	})
}

func TestDropOldEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{err: errors.New("away")}
		s := start(t, Options{Deliverer: newEngine(0), Publish: k.Publish, MaxEvents: 3, DropOldEvents: true})
		for i := range 5 {
			create(t, s, Request{ID: fmt.Sprintf("c%d", i), TTL: time.Hour})
		}
		if got := s.Stat().Waiting; got != 3 {
			t.Errorf("%d events wait, want 3", got)
		}
		k.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(k.states(t, "c1")) != 0 || len(k.states(t, "c2")) != 1 || len(k.states(t, "c4")) != 1 {
			t.Errorf("published %v", k.events)
		}
		if got := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("full")); got != 2 {
			t.Errorf("dropped %v, want 2", got)
		}
		stop(t, s)
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{Deliverer: newEngine(0), KeepMax: 3, KeepFor: 10 * time.Minute})
		for i := range 6 {
			create(t, s, Request{ID: fmt.Sprintf("c%d", i)})
			_, err := s.Cancel(t.Context(), Caller{}, vin, fmt.Sprintf("c%d", i))
			check.OK(t, err)
			time.Sleep(time.Second)
		}
		create(t, s, Request{ID: "open", TTL: time.Hour})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for i := range 6 {
			if _, err := s.Get(context.Background(), vin, fmt.Sprintf("c%d", i)); (err == nil) != (i >= 3) {
				t.Errorf("c%d: %v", i, err)
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := s.Stat(); st.Kept != 0 || st.Open != 1 {
			t.Errorf("kept %d, open %d", st.Kept, st.Open)
		}
		if page, _, _ := s.List(context.Background(), Filter{}); len(page) != 1 || page[0].ID != "open" {
			t.Errorf("left: %+v", page)
		}
		stop(t, s)
	})
}

func TestStoreFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := openDB(t)
		s := start(t, Options{DB: db, Deliverer: newEngine(0)})
		create(t, s, Request{ID: "c1"})
		check.OK(t, db.Close())
		if _, _, err := s.Create(t.Context(), Request{VIN: vin, Name: "x"}); !errors.Is(err, errStore) {
			t.Errorf("Create without a store: %v", err)
		}
		if _, _, err := s.List(context.Background(), Filter{}); !errors.Is(err, errStore) {
			t.Errorf("List without a store: %v", err)
		}
		synced := make(chan error, 1)
		go func() {
			s.post(func(b *batch) error { return b.step(1, Sent, "") })
			synced <- s.Sync(context.Background())
		}()
		time.Sleep(5 * time.Second)
		stop(t, s)
		if err := <-synced; err == nil {
			t.Error("Sync says that what cannot be written is on disk")
		}
	})
}

func TestLaterFormatIsRefused(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	if err := db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketCommands)
		if err != nil {
			return err
		}
		return b.Put(keyFormat, key(format+1))
	}); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(completed(Options{DB: db, Deliverer: newEngine(0)})); err == nil {
		stop(t, s)
		t.Error("opened")
	}
}

// Event numbers begin at 1 in every new state file. Their epoch distinguishes them from those of another file, and
// survives a restart.
func TestEventsOfAnotherStateFileHaveAnotherEpoch(t *testing.T) {
	t.Parallel()
	first := func(db *statefile.DB, id string) Event {
		k := &kafka{}
		s := start(t, Options{DB: db, Deliverer: newEngine(0), Publish: k.Publish})
		create(t, s, Request{ID: id})
		check.Eventually(t, "published", func() bool { return len(k.states(t, id)) == 1 })
		stop(t, s)
		return k.events[0]
	}
	db := openDB(t)
	lost, same, other := first(db, "c1"), first(db, "c2"), first(openDB(t), "c1")
	if lost.N != other.N || lost.Epoch == other.Epoch {
		t.Errorf("the first of two files are %d of epoch %d and %d of epoch %d", lost.N, lost.Epoch, other.N, other.Epoch)
	}
	if same.Epoch == lost.Epoch || same.N == lost.N {
		t.Errorf("after a restart: %d of epoch %d after %d of epoch %d", same.N, same.Epoch, lost.N, lost.Epoch)
	}
}

// A state file that is put back from a copy gives its next events ids that none had before. Events that wait in it have
// the ids that they had.
func TestEventsAfterACopyIsPutBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(name, id string, away bool) []Event {
		db, err := statefile.Open(filepath.Join(dir, name), statefile.Options{Sync: statefile.SyncNever})
		check.OK(t, err)
		k := &kafka{}
		o := Options{DB: db, Deliverer: newEngine(0), Publish: k.Publish}
		waiting := make(chan []Event, 1)
		if away {
			o.Publish = func(_ context.Context, events []Event) error {
				select {
				case waiting <- events:
				default:
				}
				return errors.New("away")
			}
		}
		s := start(t, o)
		create(t, s, Request{ID: id})
		if away {
			k.events = <-waiting
		} else {
			check.Eventually(t, "published", func() bool { return len(k.states(t, id)) == 1 })
		}
		stop(t, s)
		check.OK(t, db.Close())
		return k.events
	}
	waiting := run("state.db", "c1", true)
	file := check.Read(t, filepath.Join(dir, "state.db"))
	check.OK(t, os.WriteFile(filepath.Join(dir, "copy.db"), file, 0o600))
	ids := map[[2]uint64]string{}
	for _, events := range [][]Event{run("state.db", "c2", false), run("copy.db", "c3", false)} {
		if len(events) != 2 || events[0].N != waiting[0].N || events[0].Epoch != waiting[0].Epoch {
			t.Fatalf("%+v, first %+v", events, waiting)
		}
		id := [2]uint64{events[1].Epoch, events[1].N}
		if other := ids[id]; other != "" {
			t.Errorf("%s has the id of %s", events[1].Value, other)
		}
		ids[id] = string(events[1].Value)
	}
}
