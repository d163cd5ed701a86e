package broker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/journal"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
	"cellgate/test/parts"
)

// fanEnv runs both loops between a real journal, real sessions and a fake command service, without connections.
type fanEnv struct {
	t        *testing.T
	dir      string
	db       *statefile.DB
	journal  *journal.Journal
	retained *retainSpy
	sessions *session.Manager
	commands *fakeCommands
	fanout   *Fanout
	intake   *Intake
	stop     func()
}

func newFanEnv(t *testing.T) *fanEnv {
	t.Helper()
	f := &fanEnv{t: t, dir: t.TempDir()}
	f.open()
	t.Cleanup(func() { f.close(true) })
	return f
}

func (f *fanEnv) open() {
	f.t.Helper()
	jo := parts.Journal(filepath.Join(f.dir, "journal"))
	jo.SegmentBytes, jo.BufferBytes = 1<<20, 1<<20
	j, _, err := journal.Open(jo)
	check.OK(f.t, err)
	db, err := statefile.Open(filepath.Join(f.dir, "state.db"), statefile.Options{Sync: statefile.SyncNever, Timeout: 10 * time.Second})
	check.OK(f.t, err)
	f.db, f.journal, f.retained, f.commands = db, j, &retainSpy{Journal: j}, &fakeCommands{}
	o := sessionOptions(db, NewIndex(), sessionJournal{j})
	o.CommitInterval, o.MaxQueuedMessages, o.MaxRetainedMessages = 10*time.Millisecond, 1<<20, 1<<20
	f.sessions, err = session.Open(o)
	check.OK(f.t, err)
	f.fanout, err = NewFanout(FanoutOptions{Journal: f.retained, Sessions: f.sessions, Log: o.Log, Metrics: NewTailMetrics(nil, "fanout")})
	check.OK(f.t, err)
	f.intake, err = NewIntake(IntakeOptions{
		Journal: f.retained, Commands: f.commands, Sessions: f.sessions, Log: o.Log, Metrics: NewTailMetrics(nil, "intake"),
	})
	check.OK(f.t, err)
}

// run replays and then starts the loops.
func (f *fanEnv) run() {
	f.t.Helper()
	check.OK(f.t, f.fanout.Replay(f.t.Context()))
	check.OK(f.t, f.intake.Replay(f.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, loop := range []func(context.Context) error{f.fanout.Run, f.intake.Run} {
		wg.Go(func() {
			if err := loop(ctx); err != nil {
				f.t.Errorf("run: %v", err)
			}
		})
	}
	f.stop = func() {
		cancel()
		wg.Wait()
	}
}

// close stops everything. Without save, it simulates a kill after the last commit.
func (f *fanEnv) close(save bool) {
	if f.stop != nil {
		f.stop()
		f.stop = nil
	}
	if save {
		check.Ended(f.t, f.intake.Close)
		check.OK(f.t, f.fanout.Close(context.Background()))
	}
	check.Ended(f.t, f.sessions.Close)
	check.Ended(f.t, f.journal.Close)
	check.OK(f.t, f.db.Close())
}

// append journals a message and waits until it is durable.
func (f *fanEnv) append(rec message.Record) uint64 {
	f.t.Helper()
	rec.Kind = message.KindPublish
	seq, err := f.journal.Append([]message.Record{rec}, nil)
	check.OK(f.t, err)
	check.OK(f.t, f.journal.WaitDurable(f.t.Context(), seq))
	return seq
}

func (f *fanEnv) attach(id string) *sub {
	f.t.Helper()
	c := &sub{drained: make(chan struct{}), got: make(chan string, 1<<16)}
	s, _, err := f.sessions.Attach(f.t.Context(), session.Attach{
		Key: id, Version: 4, Expiry: time.Hour, Perm: anything{}, Conn: c,
	})
	check.OK(f.t, err)
	c.s = s
	s.Start()
	return c
}

// anything permits everything.
type anything struct{}

func (anything) Publish(string) bool   { return true }
func (anything) Subscribe(string) bool { return true }
func (anything) Receive(string) bool   { return true }
func (anything) Withheld(string) bool  { return false }

// sub is a subscriber's connection. got receives the payloads of QoS 0 messages.
type sub struct {
	s       *session.Session
	drained chan struct{}
	got     chan string
}

func (c *sub) Enqueue(f []byte) bool {
	// Test frames are shorter than 128 bytes.
	topic := int(f[3])
	c.got <- string(f[4:4+topic]) + "=" + string(f[4+topic:])
	return true
}
func (c *sub) Kick(byte, string)        {}
func (c *sub) Drained() <-chan struct{} { return c.drained }

func (c *sub) subscribe(filter string) {
	done := make(chan struct{})
	c.s.Subscribe([]session.Subscription{{Filter: filter}}, 0, func([]byte) { close(done) })
	<-done
}

func (c *sub) unsubscribe(filter string) {
	done := make(chan struct{})
	c.s.Unsubscribe([]string{filter}, func([]byte) { close(done) })
	<-done
}

func (c *sub) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-c.got:
		return s
	case <-time.After(time.Minute):
		t.Fatal("nothing arrives")
		return ""
	}
}

// retainSpy records what the journal must retain.
type retainSpy struct {
	*journal.Journal
	mu   sync.Mutex
	from map[string]uint64
}

func (r *retainSpy) Retain(name string, seq uint64) {
	r.mu.Lock()
	if r.from == nil {
		r.from = map[string]uint64{}
	}
	r.from[name] = seq
	r.mu.Unlock()
	r.Journal.Retain(name, seq)
}

// kept returns the first sequence that one of the loops needs.
func (r *retainSpy) kept() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(r.from[fanoutName], r.from[intakeName])
}

// fakeCommands is a command service that records topics.
type fakeCommands struct {
	mu       sync.Mutex
	results  []string
	commands []string
	syncs    int
	fail     error
}

func (c *fakeCommands) Result(_ context.Context, rec *message.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results = append(c.results, rec.Topic)
	return nil
}

func (c *fakeCommands) Command(_ context.Context, rec *message.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands = append(c.commands, rec.Topic)
	return nil
}

func (c *fakeCommands) Sync(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.syncs++
	return c.fail
}

func (c *fakeCommands) setFail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

func (c *fakeCommands) given() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint(c.results, c.commands)
}

func TestFanoutRoutes(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.run()
	c := f.attach("svc")
	c.subscribe("v1/#")
	for _, rec := range []message.Record{
		{Client: "V", Topic: "v1/V/up/telemetry"},
		{Client: "V", Topic: "v1/V/res/7/accepted"},
		{Client: "app", Topic: "v1/V/cmd/7/lock"},
		{Client: "app", Topic: "v1/V/cmd/odd"},
		{Client: "V", Topic: "v1/V/cmd/7/lock"}, // by a role that may publish there: not a service's command
		{Client: "app", Topic: "v1/other"},
	} {
		f.append(rec)
	}
	for _, want := range []string{"v1/V/up/telemetry=", "v1/V/res/7/accepted=", "v1/V/cmd/odd=", "v1/V/cmd/7/lock=", "v1/other="} {
		if got := c.next(t); got != want {
			t.Errorf("fanned out %q, want %q", got, want)
		}
	}
	const want = "[v1/V/res/7/accepted] [v1/V/cmd/7/lock]"
	check.Eventually(f.t, "the command service gets "+want, func() bool { return f.commands.given() == want })
}

// TestFanoutPassesOverTelemetry checks that the loop skips telemetry without subscribers.
func TestFanoutPassesOverTelemetry(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.run()
	for range 50 {
		f.append(message.Record{Client: "V", Topic: "v1/V/up/telemetry"})
	}
	last := f.append(message.Record{Client: "V", Topic: "v1/V/res/7/accepted"})
	check.Eventually(f.t, "the position", func() bool { return f.sessions.Position() == last })
	check.Eventually(f.t, "the release of the journal", func() bool { return f.retained.kept() == last+1 })
	if n := testutil.ToFloat64(f.fanout.metrics.records) + testutil.ToFloat64(f.intake.metrics.records); n > 10 {
		t.Errorf("%v records were decoded", n)
	}
}

// TestFanoutBeginsWithTheSubscription checks that messages appended after a subscription reach it, while other vehicles
// publish all the time and the loop may be skipping their telemetry.
func TestFanoutBeginsWithTheSubscription(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.run()
	c := f.attach("svc")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = f.journal.Append([]message.Record{{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/noise"}}, nil)
				time.Sleep(50 * time.Microsecond)
			}
		}
	})
	for round := range 40 {
		c.subscribe("v1/V/up/#")
		marker := "v1/V/up/marker=" + strconv.Itoa(round)
		_, err := f.journal.Append([]message.Record{{
			Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/marker", Payload: []byte(strconv.Itoa(round)),
		}}, nil)
		check.OK(f.t, err)
		for deadline := time.Now().Add(testPatience); c.next(t) != marker; {
			if time.Now().After(deadline) {
				close(stop)
				t.Fatalf("round %d: what was published after the SUBACK does not arrive", round)
			}
		}
		c.unsubscribe("v1/V/up/#")
	}
	close(stop)
	wg.Wait()
}

func TestFanoutResumes(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.run()
	c := f.attach("svc")
	c.s.Subscribe([]session.Subscription{{Filter: "v1/+/up/#", QoS: 1}}, 0, func([]byte) {})
	v := f.attach("V")
	check.Eventually(f.t, "the subscription", func() bool { return f.sessions.ReplayFrom() == 1 })
	v.s.ReceiveQoS2(1, false, "", nil)
	seq := f.append(message.Record{Client: "V", Topic: "v1/V/up/a", QoS: 2, PacketID: 1, Payload: []byte("1")})
	v.s.JournaledQoS2(1, seq)
	f.append(message.Record{Client: "V", Topic: "v1/V/res/1/accepted"})
	check.Eventually(f.t, "the position", func() bool { return f.sessions.ReplayFrom() > 2 && f.sessions.IntakePosition() > 2 })
	c.s.Detach(false, session.ReasonLost, nil)
	close(c.drained)
	f.close(true)

	// The gateway stops right after it has acknowledged these. The sessions' state does not have them.
	f.open()
	for i, rec := range []message.Record{
		{Client: "V", Topic: "v1/V/up/a", QoS: 2, PacketID: 2, Payload: []byte("2")},
		{Client: "V", Topic: "v1/V/up/a", QoS: 1, PacketID: 7, Payload: []byte("3")},
		{Client: "V", Topic: "v1/V/res/2/accepted"},
	} {
		if seq := f.append(rec); seq != uint64(i)+3 {
			t.Fatalf("sequence %d", seq)
		}
	}
	f.close(false)

	f.open()
	f.run()
	if got := f.commands.given(); got != "[v1/V/res/2/accepted] []" {
		t.Errorf("the command service got %s", got)
	}
	info, _ := f.sessions.Get("svc")
	if vehicle, _ := f.sessions.Get("V"); info.Queued != 3 || vehicle.IncomingQoS2 != 2 {
		t.Errorf("%d messages queued, %d identifiers", info.Queued, vehicle.IncomingQoS2)
	}
}

// TestFanoutWaitsForTheCommandService checks that the journal retains results until they are durable in the command
// service.
func TestFanoutWaitsForTheCommandService(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.commands.setFail(errors.New("no disk"))
	f.run()
	f.append(message.Record{Client: "V", Topic: "v1/V/res/1/accepted"})
	check.Eventually(f.t, "a Sync that fails", func() bool {
		f.commands.mu.Lock()
		defer f.commands.mu.Unlock()
		return f.commands.syncs >= 2
	})
	if f.sessions.IntakePosition() != 1 || f.retained.kept() != 1 {
		t.Errorf("the journal is kept from %d", f.retained.kept())
	}
	check.Eventually(f.t, "the sessions' position, which does not wait for the command service", func() bool { return f.sessions.Position() == 1 })
	f.commands.setFail(nil)
	check.Eventually(f.t, "the release", func() bool { return f.retained.kept() == 2 })
}

func TestFanoutReportsWhatTheJournalTrimmed(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	c := f.attach("svc")
	c.subscribe("#")
	check.OK(f.t, f.fanout.reader.Close())
	r, err := NewFanout(FanoutOptions{
		Journal: trimmed{f.retained}, Sessions: f.sessions, Log: f.fanout.log, Metrics: NewTailMetrics(nil, "fanout"),
	})
	check.OK(f.t, err)
	f.fanout = r
	if n := testutil.ToFloat64(r.metrics.missing); n != 4 {
		t.Errorf("%v records counted as missing", n)
	}
}

// trimmed is a journal without its first four records.
type trimmed struct{ *retainSpy }

func (j trimmed) First() uint64 { return 5 }

func (j trimmed) NewReader(from uint64) (*journal.Reader, error) {
	if from < 5 {
		return nil, journal.ErrTrimmed
	}
	return j.Journal.NewReader(1)
}

// TestIntakeStopsWithinABatch checks that records that the command service did not take are read again after a restart.
func TestIntakeStopsWithinABatch(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	publish := func(topic string) message.Record {
		return message.Record{Kind: message.KindPublish, Client: "V", Topic: topic, QoS: 1}
	}
	last, err := f.journal.Append([]message.Record{
		publish("v1/V/up/a"), publish("v1/V/res/1/accepted"), publish("v1/V/res/2/accepted"), publish("v1/V/up/b"),
	}, nil)
	check.OK(f.t, err)
	check.OK(f.t, f.journal.WaitDurable(t.Context(), last))
	ctx, cancel := context.WithCancel(t.Context())
	f.intake.o.Commands = &stoppingCommands{fakeCommands: f.commands, stop: cancel}
	check.OK(f.t, f.intake.Run(ctx))
	f.close(true)

	f.open()
	f.run()
	check.Eventually(f.t, "the second result", func() bool { return strings.Contains(f.commands.given(), "v1/V/res/2/accepted") })
	check.Eventually(f.t, "the position", func() bool { return f.sessions.IntakePosition() == last+1 })
}

// TestIntakeDoesNotWaitForTheFanout checks that results and commands reach the command service while the fan-out is
// stopped, and are not read again after a restart.
func TestIntakeDoesNotWaitForTheFanout(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	c := f.attach("svc")
	c.subscribe("v1/+/up/#")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { check.OK(f.t, f.intake.Run(ctx)) }) // the fan-out does not run
	f.append(message.Record{Client: "V", Topic: "v1/V/up/a"})
	last := f.append(message.Record{Client: "V", Topic: "v1/V/res/1/accepted"})
	check.Eventually(f.t, "the result", func() bool { return f.commands.given() == "[v1/V/res/1/accepted] []" })
	check.Eventually(f.t, "the position", func() bool { return f.sessions.IntakePosition() == last+1 })
	if n, _ := f.fanout.Lag(); n != last {
		t.Errorf("the fan-out lags by %d messages, want %d", n, last)
	}
	check.Eventually(f.t, "the age of what waits", func() bool { _, age := f.fanout.Lag(); return age > 20*time.Millisecond })
	if n, age := f.intake.Lag(); n != 0 || age != 0 {
		t.Errorf("the intake lags by %d messages, %v", n, age)
	}
	cancel()
	wg.Wait()
	f.close(false)

	f.open()
	f.run()
	check.Eventually(f.t, "the fan-out", func() bool { return f.sessions.Position() == last })
	if got := f.commands.given(); got != "[] []" {
		t.Errorf("the command service got %s again", got)
	}
}

// stoppingCommands takes one result and stops the gateway.
type stoppingCommands struct {
	*fakeCommands
	stop context.CancelFunc
}

func (c *stoppingCommands) Result(ctx context.Context, rec *message.Record) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.stop()
	return c.fakeCommands.Result(ctx, rec)
}
