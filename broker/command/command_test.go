package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/options"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vin = "LTEST000000000001"

// engine is a fake delivery engine: it keeps deliveries, and a test ends each.
type engine struct {
	mu      sync.Mutex
	version byte // 0: not ready
	err     error
	got     []*message.Delivery
	arrived chan *message.Delivery
}

func newEngine(version byte) *engine {
	return &engine{version: version, arrived: make(chan *message.Delivery, 10_000)}
}

func (e *engine) Ready(string) (byte, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.version, e.version != 0
}

func (e *engine) Deliver(_ string, d *message.Delivery) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	e.got = append(e.got, d)
	e.arrived <- d
	return nil
}

func (e *engine) set(version byte, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version, e.err = version, err
}

func (e *engine) next(t *testing.T) *message.Delivery {
	t.Helper()
	select {
	case d := <-e.arrived:
		return d
	case <-time.After(time.Minute):
		t.Fatal("nothing was delivered")
		return nil
	}
}

// kafka is a fake publisher.
type kafka struct {
	mu     sync.Mutex
	err    error
	events []Event
}

func (k *kafka) Publish(_ context.Context, events []Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return k.err
	}
	k.events = append(k.events, events...)
	return nil
}

func (k *kafka) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *kafka) all() []Event {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.events)
}

// states returns the published states of a command, in order.
func (k *kafka) states(t *testing.T, id string) []State {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var states []State
	for _, e := range k.events {
		var v eventValue
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatalf("event %s: %v", e.Value, err)
		}
		if v.VIN != e.VIN {
			t.Errorf("event key %q of %s", e.VIN, e.Value)
		}
		if v.ID == id {
			states = append(states, v.State)
		}
	}
	return states
}

// last returns the last published event of a command.
func (k *kafka) last(t *testing.T, id string) (last eventValue) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.events {
		var v eventValue
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatalf("event %s: %v", e.Value, err)
		}
		if v.ID == id {
			last = v
		}
	}
	return last
}

func openDB(t testing.TB) *statefile.DB {
	t.Helper()
	db, err := statefile.Open(filepath.Join(t.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// completed fills the options that a test leaves out with the gateway's defaults.
func completed(o Options) Options {
	c, _ := clock.New(clock.System(), clock.Saved{})
	options.Fill(&o, configs.Default().Commands, Options{
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil), Clock: c, MaxOpen: configs.MaxOpenCommands,
		Refused: func(string) {}, Audit: func(Audited) {}, KafkaMay: func(string, string) bool { return true },
	})
	return o
}

func start(t testing.TB, o Options) *Service {
	t.Helper()
	if o.DB == nil {
		o.DB = openDB(t)
	}
	s, err := Open(completed(o))
	check.OK(t, err)
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t testing.TB, s *Service) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func create(t *testing.T, s *Service, r Request) Command {
	t.Helper()
	if r.VIN == "" {
		r.VIN = vin
	}
	if r.Name == "" {
		r.Name = "lock"
	}
	cmd, _, err := s.Create(context.Background(), r)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return cmd
}

func flush(t *testing.T, s *Service) {
	t.Helper()
	check.OK(t, s.Sync(context.Background()))
}

func state(t *testing.T, s *Service, id string) State {
	t.Helper()
	cmd, err := s.Get(context.Background(), vin, id)
	if err != nil {
		t.Fatalf("Get %s: %v", id, err)
	}
	return cmd.State
}

func result(t *testing.T, s *Service, id string, status State, payload string) {
	t.Helper()
	rec := &message.Record{
		Kind: message.KindPublish, QoS: 1, Client: vin, Topic: fmt.Sprintf("v1/%s/res/%s/%s", vin, id, status),
		Payload: []byte(payload), ReceivedAt: time.Now().UnixMilli(),
	}
	check.OK(t, s.Result(context.Background(), rec))
	flush(t, s)
}

func TestWholeLife(t *testing.T) {
	t.Parallel()
	e, k := newEngine(5), &kafka{}
	s := start(t, Options{Deliverer: e, Publish: k.Publish})
	cmd := create(t, s, Request{ID: "c1", Payload: []byte(`{ "x": 1 }`), JSON: true})
	if cmd.State != Queued || string(cmd.Payload) != `{"x":1}` || cmd.TTL != "1m" {
		t.Fatalf("created %+v", cmd)
	}
	d := e.next(t)
	if d.Topic != "v1/"+vin+"/cmd/c1/lock" || string(d.Payload) != `{"x":1}` || d.Props.User[0].Name != "issued-at" ||
		d.Props.User[1] != (message.UserProperty{Name: "expires-at", Value: cmd.ExpiresAt.String()}) ||
		d.Life <= 0 || d.Life > time.Duration(cmd.ExpiresAt-cmd.CreatedAt)*time.Millisecond {
		t.Fatalf("delivery %+v", d)
	}
	d.Sent()
	flush(t, s)
	if got := state(t, s, "c1"); got != Sent {
		t.Fatalf("after Sent: %s", got)
	}
	d.Acked(0)
	flush(t, s)
	if got := state(t, s, "c1"); got != Delivered {
		t.Fatalf("after PUBACK: %s", got)
	}
	result(t, s, "c1", Accepted, "")
	result(t, s, "c1", Succeeded, `{"ok":true}`)
	result(t, s, "c1", Failed, `{}`) // a contradiction changes nothing
	done, err := s.Get(context.Background(), vin, "c1")
	check.OK(t, err)
	if done.State != Succeeded || string(done.Result) != `{"ok":true}` || done.SentAt == 0 || done.FinishedAt == 0 {
		t.Fatalf("final %+v", done)
	}
	want := fmt.Sprint([]State{Queued, Sent, Delivered, Accepted, Succeeded})
	check.Eventually(t, "all events", func() bool { return fmt.Sprint(k.states(t, "c1")) == want && s.Stat().Waiting == 0 })
}

func TestResultOvertakesPuback(t *testing.T) {
	t.Parallel()
	e := newEngine(5)
	s := start(t, Options{Deliverer: e})
	create(t, s, Request{ID: "c1"})
	d := e.next(t)
	result(t, s, "c1", Succeeded, "")
	d.Sent()
	d.Acked(0)
	flush(t, s)
	if got := state(t, s, "c1"); got != Succeeded {
		t.Errorf("state %s after the late PUBACK", got)
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0)})
	ctx := context.Background()
	base := Request{ID: "c1", VIN: vin, Name: "lock", Payload: []byte(`1`), JSON: true}
	create(t, s, base)
	if _, created, err := s.Create(ctx, base); created || err != nil {
		t.Errorf("the same again: created %v, %v", created, err)
	}
	for name, change := range map[string]func(*Request){
		"vin":     func(r *Request) { r.VIN = "OTHER" },
		"name":    func(r *Request) { r.Name = "unlock" },
		"payload": func(r *Request) { r.Payload = []byte(`2`) },
		"ttl":     func(r *Request) { r.TTL = 5 * time.Second },
	} {
		r := base
		change(&r)
		if _, _, err := s.Create(ctx, r); !errors.Is(err, errConflict) {
			t.Errorf("other %s: %v, want ErrConflict", name, err)
		}
	}
	a := create(t, s, Request{Key: "k 1", Caller: Caller{By: "svc"}})
	b := create(t, s, Request{Key: "k 1", Caller: Caller{By: "svc"}})
	c := create(t, s, Request{Key: "k 1", Caller: Caller{By: "other"}})
	if a.ID != b.ID || a.ID == c.ID {
		t.Errorf("keys: %s %s %s", a.ID, b.ID, c.ID)
	}
	if _, _, err := s.Create(ctx, Request{Key: "k 1", Caller: Caller{By: "svc"}, VIN: vin, Name: "unlock"}); !errors.Is(err, errConflict) {
		t.Errorf("same key, other content: %v", err)
	}
}

func TestOrderAndWindow(t *testing.T) {
	t.Parallel()
	e := newEngine(0)
	s := start(t, Options{Deliverer: e, Inflight: 3})
	for i := range 10 {
		create(t, s, Request{ID: fmt.Sprintf("c%d", i)})
	}
	e.set(5, nil)
	s.OnReady(vin)
	s.OnReady(vin)
	for i := range 10 {
		d := e.next(t)
		if want := fmt.Sprintf("v1/%s/cmd/c%d/lock", vin, i); d.Topic != want {
			t.Fatalf("delivery %d on %s", i, d.Topic)
		}
		e.mu.Lock()
		if len(e.got) > i+3 {
			t.Errorf("%d deliveries are out with %d acknowledged", len(e.got), i)
		}
		e.mu.Unlock()
		d.Sent()
		d.Acked(0)
	}
	flush(t, s)
	s.OnReady(vin)
	flush(t, s)
	if len(e.arrived) > 0 {
		t.Error("an acknowledged command was sent again")
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	e := newEngine(0)
	s := start(t, Options{Deliverer: e})
	ctx := context.Background()
	create(t, s, Request{ID: "c1"})
	if _, err := s.Cancel(ctx, Caller{}, "OTHER", "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of another vehicle: %v", err)
	}
	for range 2 {
		if cmd, err := s.Cancel(ctx, Caller{}, vin, "c1"); err != nil || cmd.State != Cancelled {
			t.Errorf("Cancel: %s, %v", cmd.State, err)
		}
	}
	e.set(5, nil)
	create(t, s, Request{ID: "c2"})
	e.next(t) // handed over, Sent not yet called: it may be on the wire
	if _, err := s.Cancel(ctx, Caller{}, vin, "c2"); !errors.Is(err, ErrNotCancellable) {
		t.Errorf("on its way: %v", err)
	}
	result(t, s, "c1", Succeeded, "")
	if got := state(t, s, "c1"); got != Cancelled {
		t.Errorf("a result made the cancelled command %s", got)
	}
}

func TestFailedDelivery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(5)
		e.err = errors.New("queue full")
		s := start(t, Options{Deliverer: e})
		create(t, s, Request{ID: "c1"})
		synctest.Wait()
		if cmd, err := s.Cancel(t.Context(), Caller{}, vin, "c1"); err != nil || cmd.State != Cancelled {
			t.Errorf("what was not taken can be cancelled: %s, %v", cmd.State, err)
		}
		create(t, s, Request{ID: "c2"})
		synctest.Wait()
		e.set(5, nil)
		time.Sleep(2 * retryEvery)
		synctest.Wait()
		d := e.next(t)
		d.Sent()
		d.Failed(errors.New("session ended"))
		synctest.Wait()
		if got := state(t, s, "c2"); got != Sent {
			t.Errorf("state %s after a failure after Sent", got)
		}
		time.Sleep(2 * retryEvery)
		synctest.Wait()
		e.next(t).Failed(fmt.Errorf("%w: too large", ErrUndeliverable))
		synctest.Wait()
		if cmd, _ := s.Get(context.Background(), vin, "c2"); cmd.State != Rejected || cmd.Cause != "too large" {
			t.Errorf("undeliverable: %+v", cmd)
		}
		create(t, s, Request{ID: "c3"})
		e.next(t).Acked(0x87)
		synctest.Wait()
		if cmd, _ := s.Get(context.Background(), vin, "c3"); cmd.State != Rejected || cmd.Cause != "puback_0x87" {
			t.Errorf("refused by PUBACK: %+v", cmd)
		}
		stop(t, s)
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, k := newEngine(0), &kafka{}
		s := start(t, Options{Deliverer: e, Publish: k.Publish})
		create(t, s, Request{ID: "c1", TTL: 10 * time.Second})
		create(t, s, Request{ID: "c2", TTL: 5 * time.Second})
		time.Sleep(5*time.Second - time.Millisecond)
		synctest.Wait()
		if got := state(t, s, "c2"); got != Queued {
			t.Errorf("before its time: %s", got)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if a, b := state(t, s, "c1"), state(t, s, "c2"); a != Queued || b != Expired {
			t.Errorf("after 5 s: %s, %s", a, b)
		}
		e.set(5, nil)
		s.OnReady(vin)
		d := e.next(t)
		d.Sent()
		d.Acked(0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if cmd, _ := s.Get(context.Background(), vin, "c1"); cmd.State != Expired || cmd.Cause != "no_result" {
			t.Errorf("c1 %+v", cmd)
		}
		result(t, s, "c1", Accepted, "")
		result(t, s, "c1", Succeeded, `"done"`)
		result(t, s, "c1", Failed, "")
		cmd, _ := s.Get(context.Background(), vin, "c1")
		if cmd.State != Late || cmd.Outcome != Succeeded || string(cmd.Result) != `"done"` {
			t.Errorf("late: %+v", cmd)
		}
		synctest.Wait()
		if got, want := fmt.Sprint(k.states(t, "c1")), fmt.Sprint([]State{Queued, Sent, Delivered, Expired, Late, Late}); got != want {
			t.Errorf("events %s, want %s", got, want)
		}
		stop(t, s)
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	e := newEngine(5)
	s := start(t, Options{Deliverer: e})
	create(t, s, Request{ID: "c1"})
	ended := make(chan Command, 2)
	for range 2 {
		go func() {
			cmd, _ := s.wait(context.Background(), vin, "c1")
			ended <- cmd
		}()
	}
	result(t, s, "c1", Rejected, "")
	for range 2 {
		if cmd := <-ended; cmd.State != Rejected {
			t.Errorf("Wait gave %s", cmd.State)
		}
	}
	create(t, s, Request{ID: "c2"})
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if cmd, err := s.wait(ctx, vin, "c2"); err != nil || cmd.State.Final() {
		t.Errorf("a wait that runs out: %s, %v", cmd.State, err)
	}
	if len(s.waiters.byID) != 0 {
		t.Error("a waiter was left behind")
	}
}
