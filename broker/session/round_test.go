package session

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
)

// watchedDB reports every write transaction.
type watchedDB struct {
	DB
	committed func()
}

func (w watchedDB) Update(fn func(*statefile.Tx) error) error {
	err := w.DB.Update(fn)
	w.committed()
	return err
}

// watch calls fn after every transaction from now on.
func (e *env) watch(fn func()) {
	e.t.Helper()
	var once sync.Mutex
	e.wrap = func(db DB) DB {
		return watchedDB{db, func() { once.Lock(); defer once.Unlock(); fn() }}
	}
	e.restart()
}

// A crash between any two transactions of a round loses nothing, and duplicates no message of QoS 2.
func TestCrashWithinARound(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxQueuedBytes = 4 << 20 })
	var images []string
	e.watch(func() {
		image := filepath.Join(e.t.TempDir(), fmt.Sprintf("%d.db", len(images)))
		e.copyState(image)
		images = append(images, image)
	})
	for i := range 4 {
		e.leave(fmt.Sprintf("svc/%d", i), sub("t/#", 2))
	}
	e.checkpoint()
	images = nil
	big := strings.Repeat("x", 8<<10)
	const messages = 150 // of 8 KiB for four sessions: several transactions
	for n := range messages {
		e.publish(message.Record{Topic: fmt.Sprintf("t/%d", n), QoS: byte(1 + n%2), Retain: n%10 == 0, Payload: []byte(big)})
	}
	e.checkpoint()
	if len(images) < 3 {
		t.Fatalf("%d transactions: the round is not spread", len(images))
	}
	e.close()
	e.wrap = nil
	for at, image := range images {
		e.path = image
		e.open()
		for _, rec := range e.journal.from(e.m.ReplayFrom()) {
			e.m.Replay(&rec)
			e.m.Fanout(&rec)
		}
		for i := range 4 {
			e.auditQueue(fmt.Sprintf("after transaction %d, client %d", at+1, i), e.m.lookup(fmt.Sprintf("svc/%d", i)), messages)
		}
		e.close()
	}
	e.open()
}

// auditQueue checks that a queue holds every message, those of QoS 2 once, each topic's in order.
func (e *env) auditQueue(what string, st *state, messages int) {
	e.t.Helper()
	count := map[string]int{}
	if st.flow == nil {
		e.t.Fatalf("%s: nothing is queued", what)
	}
	for _, m := range st.flow.waiting.list[st.flow.waiting.head:] {
		count[m.body.topic]++
	}
	for n := range messages {
		topic := fmt.Sprintf("t/%d", n)
		if got := count[topic]; got == 0 || (got > 1 && n%2 == 1) {
			e.t.Errorf("%s: %d copies of %s at QoS %d", what, got, topic, 1+n%2)
		}
	}
}

// Records that clients wait for go before a round's queues: a SUBACK is sent while these are written.
func TestRecordsGoBeforeQueues(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxQueuedBytes = 4 << 20 })
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		order = append(order, what)
		mu.Unlock()
	}
	var late *conn
	var once sync.Once
	e.watch(func() {
		note("transaction")
		if late != nil {
			once.Do(func() { // during the first transaction of the round
				late.s.Subscribe([]Subscription{sub("u", 1)}, 0, func([]byte) { note("SUBACK") })
			})
		}
	})
	e.leave("svc", sub("t", 1))
	c, _ := e.attach("late")
	e.checkpoint()
	mu.Lock()
	order, late = nil, c
	mu.Unlock()
	for range 200 { // three megabytes
		e.say("t", 1, strings.Repeat("x", 16<<10))
	}
	e.checkpoint()
	mu.Lock()
	defer mu.Unlock()
	if at := slices.Index(order, "SUBACK"); at < 0 || at > 2 || len(order) < 4 {
		t.Errorf("%q", order)
	}
}

// Transactions stay small however much is to be written.
func TestTransactionsAreSmall(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxPerSubject = 2000 })
	for i := range 20 {
		e.leave(fmt.Sprintf("svc/%d", i), sub("t", 1))
	}
	e.checkpoint()
	for range 150 { // below the size at which the writer starts by itself
		e.say("t", 1, strings.Repeat("x", 1000))
	}
	r := e.m.writer.cut()
	for last := false; !last; {
		b := r.gather()
		if len(b.ops) > batchOps+2 || b.bytes > batchBytes+64<<10 {
			t.Fatalf("a transaction of %d changes and %d bytes", len(b.ops), b.bytes)
		}
		if !e.m.writer.store(b) {
			t.Fatal("closed")
		}
		r.finish(b)
		last = b.last
	}
	e.m.Purge("svc/1") // with its messages in the file
	e.checkpoint()
	e.kill()
	if _, known := e.m.Get("svc/1"); known {
		t.Error("a session that was purged is there")
	}
	if info, _ := e.m.Get("svc/2"); info.Queued != 150 {
		t.Errorf("%d messages are left of 150", info.Queued)
	}
}
