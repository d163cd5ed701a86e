package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"cellgate/broker/journal"
	"cellgate/broker/message"
	"cellgate/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// got is one message that a memory sink has taken.
type got struct {
	seq    uint64
	id     string
	vin    string
	value  string
	rule   string
	reason string
	dead   bool
}

// memSink keeps what it is given. While held it settles nothing; refuse says what it will never take.
type memSink struct {
	name string
	kind rules.SinkKind

	mu      sync.Mutex
	held    bool
	refuse  func(g got) bool
	waiting []Ticket
	taken   []got // in the order of Deliver
	peak    int
	closed  bool
}

func (s *memSink) Name() string                { return s.name }
func (s *memSink) Kind() rules.SinkKind        { return s.kind }
func (s *memSink) Health() Health              { return Health{OK: true} }
func (s *memSink) Close(context.Context) error { s.mu.Lock(); s.closed = true; s.mu.Unlock(); return nil }

func (s *memSink) Deliver(d *Delivery, t Ticket) {
	g := got{
		seq: t.Seq(), id: string(d.AppendMsgID(nil)), vin: d.Record.VIN(), dead: d.Out.DeadLetter,
		reason: d.Out.Reason, value: string(d.Out.Value),
	}
	if d.Out.Sink == rules.SinkRedis {
		g.value = string(d.Out.Redis.Value)
	}
	for _, h := range d.Out.Headers {
		if h.Name == "rule" {
			g.rule = h.Value
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil && s.refuse(g) {
		go t.Refused(errors.New("poison"))
		return
	}
	s.taken = append(s.taken, g)
	s.waiting = append(s.waiting, t)
	s.peak = max(s.peak, len(s.waiting))
	if !s.held {
		s.flushLocked()
	}
}

func (s *memSink) flushLocked() {
	for _, t := range s.waiting {
		t.Delivered()
	}
	s.waiting = s.waiting[:0]
}

func (s *memSink) hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = on
	if !on {
		s.flushLocked()
	}
}

func (s *memSink) all() []got {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

// rig is a dispatcher on a real journal and real rules.
type rig struct {
	t       *testing.T
	dir     string
	journal *journal.Journal
	db      *bbolt.DB
	d       *Dispatcher
	kafka   *memSink
	redis   *memSink
	change  func(*Options)
}

const testRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to:
      - kafka: {topic: t}
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.h == 0
    to:
      - redis: {publish: "ch:${vin}", value: payload.n}
  - id: broken
    from: ["v1/+/up/bad"]
    when: payload.x > 3
    to:
      - kafka: {topic: t}
  - id: low
    from: ["v1/+/up/telemetry"]
    threshold: {enter: payload.k == 9, exit: payload.k == 0}
    to:
      - kafka: {topic: low}
`

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), change: change}
	t.Cleanup(func() {
		if r.d != nil {
			r.kill()
		}
	})
	r.open()
	return r
}

// open opens journal, database and dispatcher, and starts.
func (r *rig) open() {
	r.t.Helper()
	var err error
	r.journal, _, err = journal.Open(journal.Options{
		Dir: filepath.Join(r.dir, "journal"), SegmentBytes: 64 << 10, CommitInterval: time.Millisecond, ReserveBytes: -1,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.db, err = bbolt.Open(filepath.Join(r.dir, "state.db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.kafka == nil {
		r.kafka = &memSink{name: "kafka", kind: rules.SinkKafka}
		r.redis = &memSink{name: "redis", kind: rules.SinkRedis}
	}
	o := Options{
		Journal: r.journal, DB: r.db, Dir: filepath.Join(r.dir, "decisions"), Cell: "cell-1", Node: "gw-1",
		Sinks:              []Binding{{Sink: r.kafka}, {Sink: r.redis}},
		CheckpointInterval: 10 * time.Millisecond, SegmentBytes: 8 << 10,
		Log: slog.New(slog.DiscardHandler),
	}
	if r.change != nil {
		r.change(&o)
	}
	if r.d, err = New(o); err != nil {
		r.t.Fatal(err)
	}
	if err := r.d.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.apply(testRules)
}

func (r *rig) apply(text string) {
	r.t.Helper()
	if err := r.d.ApplyRules(context.Background(), source(text)); err != nil {
		r.t.Fatal(err)
	}
}

func source(text string) *rules.Source {
	return rules.NewSource(map[string][]byte{"test.rules.yaml": []byte(text)})
}

// kill ends everything as a crash would: no checkpoint, nothing finished.
func (r *rig) kill() {
	r.d.stopWorkers()
	r.d.closeLogs()
	_ = r.db.Close()
	_ = r.journal.Close(context.Background())
	r.d = nil
}

// stop ends everything in order.
func (r *rig) stop() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.d.Stop(ctx); err != nil {
		r.t.Fatal(err)
	}
	_ = r.db.Close()
	_ = r.journal.Close(ctx)
	r.d = nil
}

func vin(i int) string { return fmt.Sprintf("LTEST%012d", i) }

// publish appends n telemetry records of a few vehicles, numbered from first, and waits until they are
// durable.
func (r *rig) publish(first, n int) {
	r.t.Helper()
	var last uint64
	for i := first; i < first+n; {
		var recs []message.Record
		for ; i < first+n && len(recs) < 50; i++ {
			recs = append(recs, telemetry(i))
		}
		var err error
		if last, err = r.journal.Append(recs, nil); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.journal.WaitDurable(context.Background(), last); err != nil {
		r.t.Fatal(err)
	}
}

func payload(i int) string { return fmt.Sprintf(`{"n":%d,"h":%d,"k":%d}`, i, i%3, i%10) }

func telemetry(i int) message.Record {
	v := vin(i % 7)
	return message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: 1, Client: v, Topic: "v1/" + v + "/up/telemetry",
		Payload: []byte(payload(i)),
	}
}

func (r *rig) ledger(name string) SinkLedger {
	for _, l := range r.d.Ledger() {
		if l.Sink == name {
			return l
		}
	}
	r.t.Fatalf("no ledger of %s", name)
	return SinkLedger{}
}

// settled waits until nothing is pending and everything is evaluated.
func (r *rig) settled() {
	r.t.Helper()
	r.await(func() bool {
		if r.d.Position() < r.journal.Last() {
			return false
		}
		for _, l := range r.d.Ledger() {
			if l.Pending > 0 {
				return false
			}
		}
		return true
	})
}

func (r *rig) await(ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within 20 s; ledger %+v, lag %+v, health %+v", r.d.Ledger(), r.d.Lag(), r.d.Health())
		}
	}
}

func (r *rig) balanced() {
	r.t.Helper()
	for _, l := range r.d.Ledger() {
		if !l.Balanced {
			r.t.Fatalf("ledger does not balance: %+v", l)
		}
	}
}

// order checks that the first appearance of each message of a VIN and rule is in journal order, and that
// a message has one id however often it comes.
func order(t *testing.T, all []got) {
	t.Helper()
	seen := map[string]bool{}
	last := map[string]uint64{}
	for _, g := range all {
		key := g.vin + "/" + g.rule
		if seen[key+g.id] {
			continue
		}
		seen[key+g.id] = true
		if g.seq < last[key] {
			t.Fatalf("%s: record %d after %d", key, g.seq, last[key])
		}
		last[key] = g.seq
	}
}

func TestDispatchDeliversAndAccounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.publish(0, 300)
	r.settled()
	r.balanced()
	if l := r.ledger("kafka"); l.Received != 300 || l.Delivered != 300 {
		t.Fatalf("kafka: %+v", l)
	}
	if l := r.ledger("redis"); l.Received != 300 || l.Delivered != 100 || l.Filtered != 200 {
		t.Fatalf("redis: %+v", l)
	}
	if n := len(r.redis.all()); n != 100 {
		t.Fatalf("%d messages in redis", n)
	}
	order(t, r.kafka.all())
	r.stop()
}

func TestLedgerSurvivesAStop(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.publish(0, 100)
	r.settled()
	before := r.d.Ledger()
	n := len(r.kafka.all())
	r.stop()
	r.open()
	r.settled()
	if after := r.d.Ledger(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("ledger after restart %+v, before %+v", after, before)
	}
	if again := len(r.kafka.all()); again != n {
		t.Fatalf("%d messages after a clean restart, %d before", again, n)
	}
	r.stop()
}

func TestSinkAwayIsFedFromItsLogAndDelaysNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		for i := range o.Sinks {
			o.Sinks[i].Limits.Messages = 64
		}
	})
	r.redis.hold(true)
	r.publish(0, 3000)
	r.await(func() bool { return r.ledger("kafka").Delivered == 3000 })
	r.balanced()
	l := r.ledger("redis")
	if l.Pending != 1000 || l.Delivered != 0 {
		t.Fatalf("redis while away: %+v", l)
	}
	if r.redis.peak > 64 {
		t.Fatalf("%d messages under way, the bound is 64", r.redis.peak)
	}
	r.redis.hold(false)
	r.settled()
	r.balanced()
	recs := r.redis.all()
	if len(recs) != 1000 {
		t.Fatalf("%d messages", len(recs))
	}
	order(t, recs)
	r.await(func() bool { return r.d.Lag()[1].Live })
	r.publish(3000, 300)
	r.settled()
	if n := len(r.redis.all()); n != 1100 {
		t.Fatalf("%d messages after turning live again", n)
	}
	r.stop()
}

func TestEvaluationErrorsAreDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	bad := message.Record{Kind: message.KindPublish, Client: "s", Topic: "v1/" + vin(1) + "/up/bad", Payload: []byte(`{"x":"text"}`)}
	if _, err := r.journal.Append([]message.Record{bad}, nil); err != nil {
		t.Fatal(err)
	}
	r.await(func() bool { return r.ledger("kafka").DeadLettered == 1 })
	all := r.kafka.all()
	if len(all) != 1 || !all[0].dead || all[0].rule != "broken" || all[0].value != `{"x":"text"}` {
		t.Fatalf("dead letter %+v", all)
	}
	r.settled()
	r.balanced()
	r.stop()
}

func TestRefusedMessagesGoToTheErrorTopic(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.redis.refuse = func(g got) bool { return g.value == "3" || g.value == "6" }
	r.publish(0, 30)
	r.settled()
	r.balanced()
	l := r.ledger("redis")
	if l.DeadLettered != 2 || l.Delivered != 8 {
		t.Fatalf("redis: %+v", l)
	}
	dead := 0
	for _, g := range r.kafka.all() {
		if g.dead {
			dead++
			if g.rule != "hot" || g.reason == "" {
				t.Fatalf("dead letter %+v", g)
			}
		}
	}
	if dead != 2 {
		t.Fatalf("%d dead letters", dead)
	}
	r.stop()
}

func TestRulesGovernFromTheirPlaceInTheJournal(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Sinks[0].Limits.Messages = 16 })
	r.kafka.hold(true)
	r.publish(0, 500)
	r.apply(`
rules:
  - id: none
    from: ["v1/+/up/other"]
    to: [{kafka: {topic: t}}]
`)
	r.publish(500, 200)
	r.apply(testRules)
	r.publish(700, 50)
	r.await(func() bool { return r.d.Position() == r.journal.Last() })
	r.kill() // while almost everything waits in the log
	r.kafka = &memSink{name: "kafka", kind: rules.SinkKafka}
	r.redis = &memSink{name: "redis", kind: rules.SinkRedis}
	r.open()
	r.settled()
	r.balanced()
	seen := map[string]bool{}
	for _, g := range r.kafka.all() {
		if g.rule == "all" {
			seen[g.value] = true
		}
	}
	for i := range 750 {
		if want := i < 500 || i >= 700; seen[payload(i)] != want {
			t.Fatalf("message %d delivered: %t", i, !want)
		}
	}
	r.stop()
}

func TestBrokenRulesChangeNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	hash := r.d.RulesHash()
	last := r.journal.Last()
	var diags rules.Diagnostics
	err := r.d.ApplyRules(context.Background(), source("rules:\n  - id: x\n    from: [a\n"))
	if !errors.As(err, &diags) {
		t.Fatalf("error %v is no diagnosis", err)
	}
	err = r.d.ApplyRules(context.Background(), source(`
rules:
  - id: x
    from: ["v1/+/up/telemetry"]
    to: [{central: {lane: p0, topic: t}}]
`))
	if !errors.Is(err, ErrNoSink) {
		t.Fatalf("rules for a sink that is not there: %v", err)
	}
	if r.d.RulesHash() != hash || r.journal.Last() != last {
		t.Fatal("something changed")
	}
	r.stop()
}

func TestAgeOutPassesOverTheOldest(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		o.Sinks[1].WhenFull, o.Sinks[1].AgeOutBytes = AgeOut, 8<<10
		o.Sinks[1].Limits.Messages = 16
	})
	r.redis.hold(true)
	r.publish(0, 3000)
	r.await(func() bool { return r.d.pipelines[1].floor.Load() > 0 })
	// What the sink holds it lets go when it asks; the loader passes over the rest.
	r.await(func() bool {
		r.redis.mu.Lock()
		defer r.redis.mu.Unlock()
		var left []Ticket
		for _, w := range r.redis.waiting {
			if w.Abandoned() {
				w.Dropped(Retention)
				continue
			}
			left = append(left, w)
		}
		r.redis.waiting = left
		return r.ledger("redis").Dropped[Retention] > 500
	})
	r.balanced()
	r.redis.hold(false)
	r.settled()
	r.balanced()
	l := r.ledger("redis")
	if l.Delivered == 0 || l.Delivered+l.Dropped[Retention] != 1000 {
		t.Fatalf("redis: %+v", l)
	}
	r.stop()
}

func TestALostRecordShowsAsMismatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.publish(0, 10)
	r.settled()
	p := r.d.pipelines[0]
	p.mu.Lock()
	p.received++ // a record that was read, and then forgotten
	p.publishLocked()
	p.mu.Unlock()
	if r.ledger("kafka").Balanced {
		t.Fatal("a forgotten record does not show")
	}
	r.stop()
}
