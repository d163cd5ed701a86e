package command

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// world is a vehicle, a delivery engine that fails at random, and a gateway that is killed at random.
type world struct {
	t   *testing.T
	rnd *rand.Rand
	db  *statefile.DB
	s   *Service
	k   *kafka

	mu     sync.Mutex // guards what the service's goroutine reads
	ready  bool
	flying []*message.Delivery
	full   *rand.Rand

	received  []string        // ids in the order of their first arrival at the vehicle
	has       map[string]bool // what the vehicle has received
	acked     map[string]bool // what it has acknowledged
	cancelled map[string]bool // what the API reported as cancelled
	created   []string
}

func (w *world) Ready(string) (byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return 5, w.ready
}

// connect changes the connection's state and returns the deliveries in flight.
func (w *world) connect(ready bool) []*message.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = ready
	flying := w.flying
	if !ready {
		w.flying = nil
	}
	return flying
}

func (w *world) Deliver(_ string, d *message.Delivery) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full.IntN(4) == 0 {
		return fmt.Errorf("no room")
	}
	w.flying = append(w.flying, d)
	return nil
}

func id(d *message.Delivery) string {
	_, _, rest := message.SplitTopic(d.Topic)
	return rest[:len(rest)-len("/lock")]
}

// arrive gives the vehicle some of the deliveries, in the connection's order.
func (w *world) arrive() {
	w.mu.Lock()
	n := 0
	if len(w.flying) > 0 {
		n = 1 + w.rnd.IntN(len(w.flying))
	}
	arrived := w.flying[:n]
	w.flying = w.flying[n:]
	w.mu.Unlock()
	for _, d := range arrived {
		d.Sent()
		if !w.has[id(d)] {
			w.received = append(w.received, id(d))
		}
		w.has[id(d)] = true
		if w.rnd.IntN(3) > 0 {
			w.acked[id(d)] = true
			d.Acked(0)
		} else {
			d.Failed(fmt.Errorf("session ended"))
		}
	}
}

func (w *world) open() {
	s, err := Open(completed(Options{DB: w.db, Deliverer: w, Publish: w.k.Publish, Inflight: 4}))
	check.OK(w.t, err)
	w.s = s
}

// kill restarts from the state file as it is on disk; the old process makes no more calls.
func (w *world) kill() {
	w.k.fail(fmt.Errorf("killed"))
	cp := snapshot(w.t, w.db)
	stop(w.t, w.s)
	_ = w.db.Close()
	w.db = cp
	w.connect(false)
	w.k.fail(nil)
	w.open()
}

func (w *world) step(n int) {
	switch w.rnd.IntN(8) {
	case 0, 1, 2:
		name := fmt.Sprintf("c%d", n)
		if _, _, err := w.s.Create(context.Background(), Request{ID: name, VIN: vin, Name: "lock", TTL: time.Duration(1+w.rnd.IntN(20)) * time.Second}); err == nil {
			w.created = append(w.created, name)
		}
	case 3:
		if w.rnd.IntN(3) > 0 {
			w.connect(true)
			w.s.OnReady(vin)
			return
		}
		for _, d := range w.connect(false) {
			d.Failed(fmt.Errorf("session ended"))
		}
	case 4:
		w.arrive()
	case 5:
		if len(w.received) > 0 {
			status := []State{Accepted, Succeeded, Failed, Rejected}[w.rnd.IntN(4)]
			result(w.t, w.s, w.received[w.rnd.IntN(len(w.received))], status, `1`)
		}
	case 6:
		if len(w.created) > 0 {
			name := w.created[w.rnd.IntN(len(w.created))]
			if _, err := w.s.Cancel(context.Background(), Caller{}, vin, name); err == nil {
				w.cancelled[name] = true
			}
		}
	case 7:
		time.Sleep(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
	}
}

// TestRandomLives checks the package's guarantees over random histories with crashes: every state has its cause,
// nothing cancelled arrived, first arrivals are in order, and events contain every state's path.
func TestRandomLives(t *testing.T) {
	t.Parallel()
	runs := uint64(25)
	if testing.Short() {
		runs = 6
	}
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) {
			w := &world{
				t: t, rnd: rand.New(rand.NewPCG(seed, 1)), full: rand.New(rand.NewPCG(seed, 2)), db: openDB(t), k: &kafka{},
				has: map[string]bool{}, acked: map[string]bool{}, cancelled: map[string]bool{},
			}
			w.open()
			for n := range 150 {
				w.step(n)
				if w.rnd.IntN(3) > 0 {
					synctest.Wait()
				}
				if w.rnd.IntN(20) == 0 {
					w.kill()
				}
			}
			w.connect(false)
			time.Sleep(time.Minute)
			synctest.Wait()
			w.verify(seed)
			stop(t, w.s)
			_ = w.db.Close()
		})
	}
}

func (w *world) verify(seed uint64) {
	t := w.t
	order := make([]string, 0, len(w.created))
	for _, name := range w.created {
		cmd, err := w.s.Get(context.Background(), vin, name)
		if err != nil || !cmd.State.Final() {
			t.Fatalf("seed %d: %s is %s, %v", seed, name, cmd.State, err)
		}
		if w.cancelled[name] && (w.has[name] || cmd.State != Cancelled) {
			t.Errorf("seed %d: %s was said to be cancelled: it is %s, received %v", seed, name, cmd.State, w.has[name])
		}
		if cmd.DeliveredAt != 0 && !w.acked[name] {
			t.Errorf("seed %d: %s is told as delivered without a PUBACK", seed, name)
		}
		if (cmd.State == Succeeded || cmd.State == Late) && !w.has[name] {
			t.Errorf("seed %d: %s is %s but never arrived", seed, name, cmd.State)
		}
		if w.has[name] {
			order = append(order, name)
		}
		w.path(seed, name, cmd.State)
	}
	if !slices.Equal(order, w.received) {
		t.Errorf("seed %d: accepted as %v, arrived as %v", seed, order, w.received)
	}
}

// path checks the events of a command, without repetitions after a crash, against the state machine.
func (w *world) path(seed uint64, name string, final State) {
	var last uint64
	at := State("")
	for _, e := range w.k.events {
		var v eventValue
		check.OK(w.t, json.Unmarshal(e.Value, &v))
		if v.ID != name || e.N <= last {
			continue
		}
		if at != "" && !next(at, v.State) || at == "" && v.State != Queued {
			w.t.Errorf("seed %d: %s: event %s after %q", seed, name, v.State, at)
		}
		last, at = e.N, v.State
	}
	if at != final {
		w.t.Errorf("seed %d: %s is %s, the last event says %q", seed, name, final, at)
	}
}
