package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/options"

	"github.com/eclipse/paho.golang/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = check.Patience

// env is a manager with its environment; the state file and the journal survive restarts.
type env struct {
	t       *testing.T
	o       Options
	path    string
	db      *statefile.DB
	index   *testIndex
	journal *memJournal
	m       *Manager
	wrap    func(DB) DB // if not nil, wraps the state file
}

// testOptions are the gateway's own, except CommitInterval: a test decides when changes without a waiter are
// written.
func testOptions() Options {
	o := Options{
		Issuer: "cellgate/cell-1", Log: slog.New(slog.DiscardHandler), Now: time.Now, Wall: time.Now,
		DiskShort: func() bool { return false }, Rejected: func(string) {}, CommitInterval: time.Hour,
	}
	c := configs.Default()
	options.Fill(&o.Bounds, c.Sessions, c.Limits, Bounds{MaxTotalBytes: configs.MaxTotalQueuedBytes})
	return o
}

func newEnv(t *testing.T, change ...func(*Options)) *env {
	t.Helper()
	e := &env{t: t, path: filepath.Join(t.TempDir(), "state.db"), journal: &memJournal{epoch: 7}}
	e.o = testOptions()
	for _, c := range change {
		c(&e.o)
	}
	e.open()
	t.Cleanup(e.close)
	return e
}

func (e *env) open() {
	e.t.Helper()
	db, err := openDB(e.path)
	check.OK(e.t, err)
	e.db, e.index = db, &testIndex{subs: map[string]map[string]Subscription{}, since: map[string]uint64{}, retained: map[string]*message.Record{}}
	e.o.DB, e.o.Index, e.o.Journal, e.o.Metrics = db, e.index, e.journal, NewMetrics(nil)
	if e.wrap != nil {
		e.o.DB = e.wrap(db)
	}
	if e.m, err = Open(e.o); err != nil {
		e.t.Fatal(err)
	}
}

// openDB opens a state file without syncing: what a killed process has written survives anyway.
func openDB(path string) (*statefile.DB, error) {
	return statefile.Open(path, statefile.Options{Sync: statefile.SyncNever, Timeout: patience})
}

func (e *env) close() {
	if e.m == nil {
		return
	}
	check.Ended(e.t, e.m.Close)
	e.m = nil
	if err := e.db.Close(); err != nil {
		e.t.Errorf("close state file: %v", err)
	}
}

func (e *env) restart() {
	e.t.Helper()
	e.close()
	e.open()
}

// copyState copies the state file as a kill would leave it now.
func (e *env) copyState(to string) {
	e.t.Helper()
	err := e.db.Update(func(*statefile.Tx) error { // excludes other writers
		data, err := os.ReadFile(e.db.Path())
		return errors.Join(err, os.WriteFile(to, data, 0o600))
	})
	if err != nil {
		e.t.Error(err)
	}
}

// kill starts again from the present state file: what is only in memory is lost. Records after the position are fanned
// out again, as in the fan-out loop.
func (e *env) kill() {
	e.t.Helper()
	crashed := filepath.Join(e.t.TempDir(), "crashed.db")
	e.copyState(crashed)
	e.close()
	e.path = crashed
	e.open()
	for _, rec := range e.journal.from(e.m.ReplayFrom()) {
		e.m.Replay(&rec)
		e.m.Fanout(&rec)
	}
}

func (e *env) checkpoint() {
	e.t.Helper()
	check.OK(e.t, e.m.Checkpoint(context.Background(), e.m.fan.reached))
}

func (e *env) publish(rec message.Record) {
	e.t.Helper()
	rec.Kind = message.KindPublish
	if rec.Client == "" {
		rec.Client = "publisher"
	}
	recs := []message.Record{rec}
	_, err := e.journal.Append(recs)
	check.OK(e.t, err)
	e.m.Fanout(&recs[0])
}

func (e *env) say(topic string, qos byte, texts ...string) {
	e.t.Helper()
	for _, text := range texts {
		e.publish(message.Record{Topic: topic, QoS: qos, Payload: []byte(text)})
	}
}

// perms permit everything except the topics and filters listed.
type perms struct{ publish, subscribe, receive []string }

func (p perms) Publish(topic string) bool    { return !slices.Contains(p.publish, topic) }
func (p perms) Subscribe(filter string) bool { return !slices.Contains(p.subscribe, filter) }
func (p perms) Withheld(string) bool         { return false }
func (p perms) Receive(topic string) bool    { return !slices.Contains(p.receive, topic) }

// conn is a client's connection as the session sees it.
type conn struct {
	t       *testing.T
	version byte
	drained chan struct{}
	keep    bool // a kick does not end it; detach does
	// attached is closed when s is set.
	attached chan struct{}
	s        *Session

	mu     sync.Mutex
	frames [][]byte
	room   int // frames that Enqueue still accepts; negative means no bound
	kicked []byte
	end    sync.Once
	change chan struct{} // closed and renewed with every frame
}

func (c *conn) Enqueue(f []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == 0 {
		return false
	}
	c.room--
	c.frames = append(c.frames, bytes.Clone(f))
	close(c.change)
	c.change = make(chan struct{})
	return true
}

func (c *conn) Kick(reason byte, _ string) {
	c.mu.Lock()
	c.kicked = append(c.kicked, reason)
	c.mu.Unlock()
	if !c.keep {
		go c.detach(false)
	}
}

func (c *conn) Drained() <-chan struct{} { return c.drained }

func (c *conn) detach(normal bool) {
	<-c.attached
	c.end.Do(func() {
		reason := ReasonLost
		if normal {
			reason = ReasonClient
		}
		c.s.Detach(normal, reason, nil)
		close(c.drained)
	})
}

func (c *conn) setRoom(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = n
}

// sentFrame is a decoded outgoing frame.
type sentFrame struct {
	typ     byte
	id      uint16
	qos     byte
	dup     bool
	retain  bool
	topic   string
	payload string
	code    byte
	props   *packets.Properties
	size    int
}

func (f sentFrame) String() string {
	switch f.typ {
	case frame.TypePublish:
		s := fmt.Sprintf("%s=%s q%d", f.topic, f.payload, f.qos)
		if f.id != 0 {
			s += fmt.Sprintf(" #%d", f.id)
		}
		if f.dup {
			s += " dup"
		}
		if f.retain {
			s += " retain"
		}
		return s
	case frame.TypePubrel:
		return fmt.Sprintf("PUBREL #%d", f.id)
	}
	return fmt.Sprintf("type %d", f.typ)
}

func parse(t *testing.T, b []byte, version byte) sentFrame {
	t.Helper()
	f := sentFrame{typ: b[0] >> 4, size: len(b)}
	if f.typ == frame.TypePubrel {
		f.id = binary.BigEndian.Uint16(b[2:])
		if len(b) > 4 {
			f.code = b[4]
		}
		return f
	}
	f.dup, f.qos, f.retain = b[0]&8 != 0, b[0]>>1&3, b[0]&1 != 0
	if version == frame.Version5 {
		cp, err := packets.ReadPacket(bytes.NewReader(b))
		check.OK(t, err)
		p, ok := cp.Content.(*packets.Publish)
		if !ok {
			t.Fatalf("frame %x", b)
		}
		f.topic, f.payload, f.id, f.props = p.Topic, string(p.Payload), p.PacketID, p.Properties
		return f
	}
	b = b[1:]
	for b[0]&0x80 != 0 {
		b = b[1:]
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	f.topic, b = string(b[3:3+n]), b[3+n:]
	if f.qos > 0 {
		f.id, b = binary.BigEndian.Uint16(b), b[2:]
	}
	f.payload = string(b)
	return f
}

// take returns the next n frames, and fails if they do not come.
func (c *conn) take(n int) []sentFrame {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		if len(c.frames) >= n {
			var out []sentFrame
			for _, b := range c.frames[:n] {
				out = append(out, parse(c.t, b, c.version))
			}
			c.frames = c.frames[n:]
			c.mu.Unlock()
			return out
		}
		change, have := c.change, len(c.frames)
		c.mu.Unlock()
		select {
		case <-change:
		case <-deadline:
			c.t.Fatalf("%d frames instead of %d", have, n)
		}
	}
}

// expect takes as many frames as there are texts, compares them, and fails if there are more.
func (c *conn) expect(want ...string) []sentFrame {
	c.t.Helper()
	frames := c.take(len(want))
	for i, f := range frames {
		if f.String() != want[i] {
			c.t.Errorf("frame %d is %q, want %q", i, f, want[i])
		}
	}
	c.quiet()
	return frames
}

// quiet checks that no frame is left.
func (c *conn) quiet() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.frames {
		c.t.Errorf("unexpected frame %q", parse(c.t, b, c.version))
	}
	c.frames = nil
}

// attach connects a client: by default a service on MQTT 5 with a session expiry of an hour.
func (e *env) attach(id string, change ...func(*Attach)) (*conn, bool) {
	e.t.Helper()
	c, present, err := e.tryAttach(context.Background(), id, change...)
	check.OK(e.t, err)
	return c, present
}

func (e *env) tryAttach(ctx context.Context, id string, change ...func(*Attach)) (*conn, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := &conn{t: e.t, drained: make(chan struct{}), attached: make(chan struct{}), room: -1, change: make(chan struct{})}
	a := Attach{Key: id, Version: 5, Expiry: time.Hour, Perm: perms{}, Conn: c}
	for _, ch := range change {
		ch(&a)
	}
	c.version = a.Version
	s, present, err := e.m.Attach(ctx, a)
	if err != nil {
		return nil, false, err
	}
	c.s = s
	close(c.attached)
	s.Start()
	return c, present, nil
}

func clean(a *Attach)    { a.CleanStart = true }
func volatile(a *Attach) { a.Expiry = 0 }
func vehicle(a *Attach)  { a.Vehicle = true }
func v4(a *Attach)       { a.Version = 4 }

func (c *conn) subscribe(subs ...Subscription) []byte {
	c.t.Helper()
	return c.subscribeID(0, subs...)
}

func (c *conn) subscribeID(id uint32, subs ...Subscription) []byte {
	c.t.Helper()
	got := make(chan []byte, 1)
	c.s.Subscribe(subs, id, func(codes []byte) { got <- codes })
	return c.codes(got)
}

func (c *conn) unsubscribe(filters ...string) []byte {
	c.t.Helper()
	got := make(chan []byte, 1)
	c.s.Unsubscribe(filters, func(codes []byte) { got <- codes })
	return c.codes(got)
}

func (c *conn) codes(got chan []byte) []byte {
	c.t.Helper()
	select {
	case codes := <-got:
		c.s.st.mu.Lock()
		for c.s.st.link.holds > 0 { // deliveries continue a moment later
			c.s.st.mu.Unlock()
			time.Sleep(time.Millisecond)
			c.s.st.mu.Lock()
		}
		c.s.st.mu.Unlock()
		return codes
	case <-time.After(patience):
		c.t.Fatal("no reason codes")
		return nil
	}
}

func sub(filter string, qos byte) Subscription { return Subscription{Filter: filter, QoS: qos} }

func (e *env) dropped(reason string) float64 {
	e.t.Helper()
	return testutil.ToFloat64(e.m.metrics.dropped.WithLabelValues(reason))
}

// putRaw puts a value into the state file, bypassing the manager.
func putRaw(t *testing.T, db *statefile.DB, b bucket, key, value string) {
	t.Helper()
	err := db.Update(func(tx *statefile.Tx) error {
		return tx.Bucket([]byte(rootBucket)).Bucket(b.name()).Put([]byte(key), []byte(value))
	})
	check.OK(t, err)
}

// hold blocks all other write transactions until it is released.
func hold(t *testing.T, db *statefile.DB) (release func()) {
	t.Helper()
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- db.Update(func(*statefile.Tx) error {
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	return func() {
		close(end)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// testClock is the wall clock plus an offset.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *testClock) advance(d time.Duration) { c.ahead.Add(int64(d)) }
