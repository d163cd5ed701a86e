package session

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// silent is a connection that accepts and discards every frame.
type silent struct{ drained chan struct{} }

func (silent) Enqueue([]byte) bool        { return true }
func (silent) Kick(byte, string)          {}
func (c silent) Drained() <-chan struct{} { return c.drained }

func (e *env) attachSilent(id string, expiry time.Duration) *Session {
	e.t.Helper()
	s, _, err := e.m.Attach(e.t.Context(), Attach{
		Key: id, Version: 5, Expiry: expiry, Vehicle: true, Perm: perms{}, Conn: silent{},
	})
	check.OK(e.t, err)
	s.Start()
	return s
}

// TestIdleVehicleIsCheap measures the heap of a connected vehicle with its command subscription.
func TestIdleVehicleIsCheap(t *testing.T) { // not parallel: it reads the heap
	const vehicles, limit = 2000, 1024
	e := newEnv(t)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	sessions := make([]*Session, vehicles)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < vehicles; i += 8 {
				vin := fmt.Sprintf("LTEST%012d", i)
				sessions[i] = e.attachSilent(vin, time.Hour)
				sessions[i].Subscribe([]Subscription{sub("v1/"+vin+"/cmd/#", 1)}, 0, func([]byte) {})
			}
		})
	}
	wg.Wait()
	e.checkpoint()
	per := (heap() - before) / vehicles
	t.Logf("%d bytes per idle vehicle, of which the state is %d", per, unsafe.Sizeof(state{}))
	if per > limit {
		t.Errorf("%d bytes per idle vehicle, at most %d", per, limit)
	}
	runtime.KeepAlive(sessions)
}

// slowDisk delays every commit, like an fsync.
type slowDisk struct {
	*statefile.DB
	commits atomic.Int32
}

func (d *slowDisk) Update(fn func(*statefile.Tx) error) error {
	d.commits.Add(1)
	time.Sleep(5 * time.Millisecond)
	return d.DB.Update(fn)
}

// TestSubscribeStorm counts the transactions of many simultaneous connects, which must share them.
func TestSubscribeStorm(t *testing.T) {
	t.Parallel()
	const clients = 400
	e := newEnv(t)
	e.close()
	db, err := openDB(e.path)
	check.OK(t, err)
	disk := &slowDisk{DB: db}
	e.db, e.o.DB = db, disk
	if e.m, err = Open(e.o); err != nil {
		t.Fatal(err)
	}
	opened := disk.commits.Load()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			s := e.attachSilent(fmt.Sprintf("V%d", i), time.Hour)
			done := make(chan struct{})
			s.Subscribe([]Subscription{sub("v1/x/cmd/#", 1)}, 0, func([]byte) { close(done) })
			<-done
		})
	}
	wg.Wait()
	n := disk.commits.Load() - opened
	t.Logf("%d transactions for %d connects and subscriptions", n, clients)
	if n > clients/8 {
		t.Errorf("%d transactions for %d clients: they do not share them", n, clients)
	}
}

func BenchmarkFanout(b *testing.B) {
	for _, tc := range []struct {
		name        string
		subscribers int
		qos         byte
	}{{"none", 0, 1}, {"1xQoS0", 1, 0}, {"1xQoS1", 1, 1}, {"100xQoS0", 100, 0}, {"100xQoS1", 100, 1}} {
		b.Run(tc.name, func(b *testing.B) {
			e := newBenchEnv(b, tc.subscribers, tc.qos)
			rec := message.Record{Kind: message.KindPublish, Client: "p", Topic: "v1/V/up/t", QoS: 1, Payload: make([]byte, 256)}
			b.ReportAllocs()
			for b.Loop() {
				rec.Seq++
				e.m.Fanout(&rec)
			}
		})
	}
}

// listIndex matches every topic for all its clients.
type listIndex struct {
	clients []string
	match   Matched
}

func (x *listIndex) Subscribe(client string, sub Subscription, _ uint64) {
	x.clients, x.match.QoS = append(x.clients, client), sub.QoS
}
func (x *listIndex) Unsubscribe(string, string) {}
func (x *listIndex) Count() int                 { return len(x.clients) }
func (x *listIndex) Member(string, string) (string, Subscription, bool) {
	return "", Subscription{}, false
}
func (x *listIndex) Retain(*message.Record) {}
func (x *listIndex) Retained(string, *RetainedAt, int, func(*message.Record)) bool {
	return false
}

func (x *listIndex) Match(_ *message.Record, fn func(client string, m Matched)) {
	for _, c := range x.clients {
		fn(c, x.match)
	}
}

// acking acknowledges each message as soon as it can without calling the session from within Enqueue: when the next one
// comes.
type acking struct {
	silent
	acks chan uint16
}

func (a *acking) Enqueue(f []byte) bool {
	if f[0]&6 != 0 {
		topic := 2 + int(f[1]>>7) // start of the topic: the length has one or two bytes
		a.acks <- binary.BigEndian.Uint16(f[topic+2+int(f[topic+1]):])
	}
	return true
}

type benchEnv struct{ m *Manager }

func newBenchEnv(b *testing.B, subscribers int, qos byte) *benchEnv {
	b.Helper()
	e := &env{path: b.TempDir() + "/state.db", journal: &memJournal{}}
	db, err := openDB(e.path)
	check.OK(b, err)
	o := testOptions()
	o.DB, o.Index, o.Journal, o.Metrics = db, &listIndex{}, e.journal, NewMetrics(nil)
	m, err := Open(o)
	check.OK(b, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	b.Cleanup(func() {
		close(stop)
		wg.Wait()
		_ = m.Close(b.Context())
		_ = db.Close()
	})
	for i := range subscribers {
		c := &acking{acks: make(chan uint16, 1024)}
		s, _, err := m.Attach(b.Context(), Attach{Key: fmt.Sprint(i), Version: 4, Perm: perms{}, Conn: c})
		check.OK(b, err)
		s.Start()
		s.Subscribe([]Subscription{sub("#", qos)}, 0, func([]byte) {})
		wg.Go(func() {
			for {
				select {
				case id := <-c.acks:
					s.Puback(id, 0)
				case <-stop:
					return
				}
			}
		})
	}
	return &benchEnv{m: m}
}

// BenchmarkFullQueues measures a message for which a hundred sessions of one owner have no room.
func BenchmarkFullQueues(b *testing.B) {
	db, err := openDB(b.TempDir() + "/state.db")
	check.OK(b, err)
	o := testOptions()
	o.DB, o.Index, o.Journal, o.Metrics, o.MaxQueuedBytesPerSubject = db, &listIndex{}, &memJournal{}, NewMetrics(nil), 1<<20
	m, err := Open(o)
	check.OK(b, err)
	b.Cleanup(func() {
		_ = m.Close(b.Context())
		_ = db.Close()
	})
	for i := range 100 {
		s, _, err := m.Attach(b.Context(), Attach{Key: fmt.Sprintf("svc/%d", i), Version: 4, Expiry: time.Hour, Perm: perms{}, Conn: &silent{}})
		check.OK(b, err)
		s.Start()
		s.Subscribe([]Subscription{sub("#", 1)}, 0, func([]byte) {})
		s.Detach(true, ReasonClient, nil)
	}
	rec := message.Record{Kind: message.KindPublish, Client: "p", Topic: "v1/V/up/t", QoS: 1, Payload: make([]byte, 256)}
	for range 100 {
		rec.Seq++
		m.Fanout(&rec)
	}
	b.ReportAllocs()
	for b.Loop() {
		rec.Seq++
		m.Fanout(&rec)
	}
}
