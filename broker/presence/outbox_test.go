package presence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"go.uber.org/goleak"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// refusedVIN is a VIN whose events Kafka refuses permanently.
const refusedVIN = "REFUSED"

// topic replaces vehicle.presence.
type topic struct {
	mu     sync.Mutex
	away   bool
	events []Event
	seen   map[string][]Mark
}

func (r *run) publish(_ context.Context, events []Event) (refused int, err error) {
	k := r.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away || r.dead {
		return 0, errors.New("away")
	}
	for i := range events {
		e := &events[i]
		if e.VIN == refusedVIN {
			refused++
			continue
		}
		if seen := k.seen[e.VIN]; len(seen) > 0 && !e.after(seen[len(seen)-1]) && !slices.Contains(seen, e.Mark) {
			r.t.Errorf("%s: %+v after %+v", e.VIN, *e, seen[len(seen)-1])
		}
		k.seen[e.VIN] = append(k.seen[e.VIN], e.Mark)
	}
	k.events = append(k.events, events...)
	return refused, nil
}

func (k *topic) set(away bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = away
}

// of returns a vehicle's events as seen by a consumer that drops those not later than the previous one.
func (k *topic) of(vin string) (seen []Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.events {
		if e.VIN == vin && (len(seen) == 0 || e.after(seen[len(seen)-1].Mark)) {
			seen = append(seen, e)
		}
	}
	return seen
}

func (k *topic) published(vin string) string {
	text := ""
	for _, e := range k.of(vin) {
		text += fmt.Sprintf("%d %s %s, ", e.Epoch, e.Kind, e.Reason)
	}
	return text
}

// run is one run of a gateway.
type run struct {
	*Outbox
	t    *testing.T
	file string
	db   *statefile.DB
	k    *topic
	dead bool               // guarded by k.mu
	stop context.CancelFunc // of Expire
	done chan struct{}
}

// begin starts a gateway on a state file.
func (k *topic) begin(t *testing.T, file string, epoch int64, change func(*Options)) *run {
	t.Helper()
	db, err := statefile.Open(file, statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	o := Options{
		DB: db, Epoch: epoch, MaxWaiting: 20_000, MaxVehicles: 1000, Wall: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	}
	change(&o)
	r := &run{t: t, file: file, db: db, k: k, done: make(chan struct{})}
	o.Publish = r.publish
	b, err := Open(o)
	check.OK(t, err)
	b.Start()
	ctx, cancel := context.WithCancel(t.Context())
	r.Outbox, r.stop = b, cancel
	go func() {
		defer close(r.done)
		b.Expire(ctx)
	}()
	return r
}

func (r *run) end() {
	r.t.Helper()
	r.stop()
	<-r.done
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = r.Close(ctx) // fails with events left while Kafka is away
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
}

// kill ends the gateway and returns a copy of the state file made before.
func (r *run) kill() string {
	r.t.Helper()
	r.k.mu.Lock()
	r.dead = true
	r.k.mu.Unlock()
	file := filepath.Join(r.t.TempDir(), "killed.db")
	err := r.db.Update(func(*statefile.Tx) error { // excludes other writers
		data, err := os.ReadFile(r.db.Path())
		return errors.Join(err, os.WriteFile(file, data, 0o600))
	})
	check.OK(r.t, err)
	r.end()
	return file
}

func (r *run) flushed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)+len(r.queue) == 0 && !r.spilled
}

func newTopic() *topic { return &topic{seen: map[string][]Mark{}} }

func nothing(*Options) {}

// If a vehicle that was connected at the kill returns, its session ends before the next one begins; otherwise the
// session ends after the grace. The next run publishes what Kafka is missing, under the old epoch.
func TestKilledGateway(t *testing.T) {
	t.Parallel()
	k := newTopic()
	r := k.begin(t, filepath.Join(t.TempDir(), "state.db"), 1, nothing)
	now := time.Now()
	r.Report("returns", Connected, now, "")
	r.Report("stays", Connected, now, "")
	r.Report("stays", Ready, now, "")
	r.Report("left", Connected, now, "")
	check.Eventually(t, "published", r.flushed)
	k.set(true)
	r.Report("left", Disconnected, now, "client")
	r.Report("unheard", Connected, now, "")
	r.Report("unheard", Ready, now, "")
	check.Eventually(t, "on the disk", func() bool {
		e, ok := r.Last("unheard")
		r.mu.Lock()
		defer r.mu.Unlock()
		return ok && e.Kind == Ready && len(r.pending) == 0
	})
	file := r.kill()
	for epoch := int64(2); epoch < 4; epoch++ { // killed within the grace, too
		r = k.begin(t, file, epoch, func(o *Options) { o.Grace = time.Hour })
		if e, ok := r.Last("stays"); !ok || e.Kind != Ready || e.Epoch != 1 {
			t.Errorf("within the grace: %+v, %v", e, ok)
		}
		file = r.kill()
	}
	k.set(false)
	r = k.begin(t, file, 4, func(o *Options) { o.Grace = 500 * time.Millisecond })
	r.Report("returns", Connected, now, "")
	check.Eventually(t, "told of all", func() bool {
		r.mu.Lock()
		left := len(r.lost)
		r.mu.Unlock()
		return left == 0 && r.flushed()
	})
	r.end()
	for vin, want := range map[string]string{
		"returns": "1 connected , 4 disconnected gateway_lost, 4 connected , ",
		"stays":   "1 connected , 1 ready , 4 disconnected gateway_lost, ",
		"left":    "1 connected , 1 disconnected client, ",
		"unheard": "1 connected , 1 ready , 4 disconnected gateway_lost, ",
	} {
		if got := k.published(vin); got != want {
			t.Errorf("%s: %s\nwant %s", vin, got, want)
		}
	}
}

// When Kafka is away for more events than the bound, each vehicle's last end and later events are kept, also across a
// kill. Afterwards events are published from memory again.
func TestBoundKeepsTheLastOfEach(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		k := newTopic()
		small := func(o *Options) { o.MaxWaiting, o.Grace = 4, time.Hour }
		r := k.begin(t, filepath.Join(t.TempDir(), "state.db"), 1, small)
		report := func(vin string, kind Kind, reason string) {
			r.Report(vin, kind, time.Now(), reason)
			check.Eventually(t, "written", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.pending) == 0 })
		}
		k.set(true)
		for n := range 5 {
			for _, vin := range []string{"a", "b"} {
				report(vin, Connected, "")
				if n < 4 || vin == "b" {
					report(vin, Disconnected, fmt.Sprint(n))
				}
			}
		}
		report("a", Ready, "")
		if killed {
			file := r.kill()
			r = k.begin(t, file, 2, small)
		}
		k.set(false)
		check.Eventually(t, "published", r.flushed)
		report("b", Connected, "")
		check.Eventually(t, "published", r.flushed)
		r.mu.Lock()
		if r.spilled || len(r.late) > 0 {
			t.Error("still by way of the disk")
		}
		r.mu.Unlock()
		a, b := k.of("a"), k.of("b")
		if n := len(a); n < 3 || a[n-3].Reason != "3" || a[n-2].Kind != Connected || a[n-1].Kind != Ready {
			t.Errorf("killed %v: a: %s", killed, k.published("a"))
		}
		if n := len(b); n < 2 || b[n-2].Reason != "4" || b[n-1].Kind != Connected {
			t.Errorf("killed %v: b: %s", killed, k.published("b"))
		}
		r.end()
	}
}

// After any sequence of operations the last published state is true, every published session has an end, and the events
// of a vehicle are in order.
func TestPublishedPresenceMatchesSessions(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, k: newTopic(), rnd: rand.New(rand.NewPCG(seed, 1)), connected: map[string]bool{}} //nolint:gosec // a test
			w.restart(filepath.Join(t.TempDir(), "state.db"))
			for range 150 {
				w.step()
			}
			w.k.set(false)
			check.Eventually(t, "all is told", func() bool {
				w.r.mu.Lock()
				lost := len(w.r.lost)
				w.r.mu.Unlock()
				return lost == 0 && w.r.flushed()
			})
			for vin := range w.connected {
				w.check(vin)
			}
			w.r.end()
		})
	}
}

// world is a gateway with its vehicles and Kafka.
type world struct {
	t         *testing.T
	k         *topic
	rnd       *rand.Rand
	r         *run
	epoch     int64
	connected map[string]bool // the true state
}

func (w *world) restart(file string) {
	w.epoch++
	w.r = w.k.begin(w.t, file, w.epoch, func(o *Options) {
		o.MaxWaiting, o.Grace = 30, time.Duration(w.rnd.IntN(30))*time.Millisecond
	})
}

func (w *world) report(vin string, kind Kind, reason string) {
	check.Eventually(w.t, "room", func() bool { w.r.mu.Lock(); defer w.r.mu.Unlock(); return len(w.r.pending) < 20 })
	w.r.Report(vin, kind, time.Now(), reason)
}

func (w *world) step() {
	vin := fmt.Sprint("VIN", w.rnd.IntN(12))
	switch n := w.rnd.IntN(40); {
	case n < 18:
		if w.connected[vin] {
			w.report(vin, Disconnected, "takeover")
		}
		w.report(vin, Connected, "")
		w.connected[vin] = true
		if w.rnd.IntN(2) == 0 {
			w.report(vin, Ready, "")
		}
	case n < 28:
		if w.connected[vin] {
			w.report(vin, Disconnected, "client")
			w.connected[vin] = false
		}
	case n < 32:
		w.k.set(w.rnd.IntN(2) == 0)
	case n < 34:
		file := w.r.kill()
		for vin := range w.connected {
			w.connected[vin] = false
		}
		w.restart(file)
	case n < 35:
		for vin, is := range w.connected {
			if is {
				w.report(vin, Disconnected, "shutdown")
				w.connected[vin] = false
			}
		}
		w.r.end()
		w.restart(w.r.file)
	default:
		time.Sleep(time.Duration(w.rnd.IntN(80)) * time.Millisecond)
	}
}

func (w *world) check(vin string) {
	is := false
	for _, e := range w.k.of(vin) {
		switch e.Kind {
		case Connected:
			if is {
				w.t.Errorf("%s: a session without an end: %s", vin, w.k.published(vin))
			}
			is = true
		case Ready:
			if !is {
				w.t.Errorf("%s: ready, but not connected: %s", vin, w.k.published(vin))
			}
		case Disconnected:
			is = false
		}
	}
	if is != w.connected[vin] {
		w.t.Errorf("%s: told %v, it is %v: %s", vin, is, w.connected[vin], w.k.published(vin))
	}
}

// Events that Kafka refuses permanently do not count as published, and are not published again.
func TestRefusedEventsAreCounted(t *testing.T) {
	t.Parallel()
	k := newTopic()
	r := k.begin(t, filepath.Join(t.TempDir(), "state.db"), 1, nothing)
	r.Report(refusedVIN, Connected, time.Now(), "")
	r.Report("a", Connected, time.Now(), "")
	r.Report("a", Ready, time.Now(), "")
	check.Eventually(t, "published", r.flushed)
	for result, want := range map[string]float64{"published": 2, "refused": 1} {
		if n := testutil.ToFloat64(r.o.Metrics.events.WithLabelValues(result)); n != want {
			t.Errorf("%s: %v, want %v", result, n, want)
		}
	}
	r.end()
}

// When the mirror returns it gets the last event of each vehicle, and no older one after it.
func TestMirrorGetsTheLast(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	away, got := true, map[string]Event{}
	r := newTopic().begin(t, filepath.Join(t.TempDir(), "state.db"), 1, func(o *Options) {
		o.Mirror = func(_ context.Context, events []Event) error {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return errors.New("away")
			}
			for _, e := range events {
				if was, known := got[e.VIN]; known && was.after(e.Mark) {
					t.Errorf("%+v after %+v", e, was)
				}
				got[e.VIN] = e
			}
			return nil
		}
	})
	for n := range 50 {
		r.Report(fmt.Sprint(n%5), Kind(n%3+1), time.Now(), "")
	}
	check.Eventually(t, "published", r.flushed)
	mu.Lock()
	away = false
	mu.Unlock()
	check.Eventually(t, "mirrored", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == 5 && got["4"].Seq == 50 && got["0"].Seq == 46
	})
	r.end()
}

// FuzzEntry checks that stored entries are read back unchanged, and that damaged ones are recognised.
func FuzzEntry(f *testing.F) {
	e := entry{published: Mark{1, 2}, events: []Event{{VIN: "v", Mark: Mark{-3, 4}, Kind: Ready, At: -5, Reason: "lost"}, {VIN: "v", Kind: Connected}}}
	f.Add(e.encode())
	f.Add([]byte("\x02\x01\x02\x01\x81\x02\x00\x00\x00\x01n")) // placed, with a node but without a position
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode("v", b)
		if err != nil {
			return
		}
		again, err := decode("v", e.encode())
		if err != nil || again.published != e.published || !slices.Equal(again.events, e.events) {
			t.Errorf("%+v, then %+v, %v", e, again, err)
		}
	})
}
