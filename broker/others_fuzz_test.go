package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// No client may wait longer than longWait because of another client's work; allowed bounds the sum of such waits,
// because the machine may be busy. The defects in question take many seconds.
const (
	longWait = 250 * time.Millisecond
	allowed  = 2 * time.Second
)

// FuzzOthersWait has one client subscribe, retain and publish as the fuzzer says, and measures how long another
// client's SUBSCRIBE, message and UNSUBSCRIBE take meanwhile. Times count while fuzzing and with HOSTILE=full;
// otherwise the other client must only be served.
func FuzzOthersWait(f *testing.F) {
	f.Add([]byte{0, 255, 255, '+', 1, 255, 255, 'x'})
	f.Add([]byte{0, 0, 200, 'x', 4, 255, 0, '+', 2, 0, 200, 'r', 3, 0, 0, '#'})
	f.Add([]byte{2, 255, 255, 'r', 3, 0, 0, '#', 3, 0, 0, '#', 5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		judged := os.Getenv("HOSTILE") == "full" || strings.Contains(strings.Join(os.Args, " "), "-test.fuzz=")
		e := newOthers(t)
		var all sync.WaitGroup
		stop := make(chan struct{})
		var slow, quiet time.Duration
		var served int
		all.Go(func() { slow, served = e.rounds(t, stop) })
		if judged { // a client that is alone measures how busy the machine is
			alone := newOthers(t)
			all.Go(func() { quiet, _ = alone.rounds(t, stop) })
		}
		e.hostile(ops)
		close(stop)
		all.Wait()
		if judged && slow > allowed+2*quiet {
			t.Errorf("in %d rounds the other client waited for %v, one without this client beside it for %v", served, slow, quiet)
		}
	})
}

// rounds runs the honest client's rounds until stop is closed, at least one.
func (e *others) rounds(t *testing.T, stop <-chan struct{}) (slow time.Duration, served int) {
	for {
		slow += e.honest(t, served)
		served++
		select {
		case <-stop:
			return slow, served
		default:
		}
	}
}

// others holds an attacking and an honest session on a real index, with a journal that only counts.
type others struct {
	m        *session.Manager
	attacker *sub
	good     *sub
	turn     sync.Mutex // serialises the two goroutines that act as the fan-out loop
	seq      uint64
}

type numbers struct{}

func (numbers) Append([]message.Record) (uint64, error) { return 0, nil }
func (numbers) Last() uint64                            { return 0 }
func (numbers) Epoch() uint64                           { return 1 }

func newOthers(t *testing.T) *others {
	t.Helper()
	db, err := statefile.Open(filepath.Join(t.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	e := &others{}
	o := sessionOptions(db, NewIndex(), numbers{})
	o.CommitInterval = time.Hour
	e.m, err = session.Open(o)
	check.OK(t, err)
	t.Cleanup(func() {
		check.Ended(t, e.m.Close)
		check.OK(t, db.Close())
	})
	e.attacker, e.good = e.attach(t, "evil"), e.attach(t, "good")
	return e
}

func (e *others) attach(t *testing.T, id string) *sub {
	t.Helper()
	c := &sub{drained: make(chan struct{}), got: make(chan string, 1<<16)}
	s, _, err := e.m.Attach(t.Context(), session.Attach{Key: id, Version: 4, Perm: anything{}, Conn: discardSub{c}})
	check.OK(t, err)
	c.s = s
	s.Start()
	return c
}

// discardSub keeps only the honest client's messages.
type discardSub struct{ *sub }

func (s discardSub) Enqueue(f []byte) bool {
	if len(f) < 128 && strings.Contains(string(f), "honest/") {
		return s.sub.Enqueue(f)
	}
	return true
}

// hostile executes ops of four bytes: operation, count (2), text.
func (e *others) hostile(ops []byte) {
	var filters []string
	for ; len(ops) >= 4; ops = ops[4:] {
		n, level := int(ops[1])<<8|int(ops[2]), string(ops[3:4])
		deep := strings.TrimSuffix(strings.Repeat(level+"/", min(n, 32_000)+1), "/")
		switch ops[0] % 6 {
		case 0: // one filter
			filters = append(filters, deep)
			e.attacker.subscribe(deep)
		case 1: // a message
			e.publish(deep, false)
		case 2: // retained messages
			for i := range n / 16 {
				e.publish(fmt.Sprintf("%s/%d/%d", level, i%97, i), true)
			}
		case 3: // all retained messages
			e.attacker.subscribe(level)
			e.attacker.subscribe("#")
		case 4: // many filters
			subs := make([]session.Subscription, 1+n/64)
			for i := range subs {
				subs[i].Filter = fmt.Sprintf("%s/%d/+/#", level, i)
				filters = append(filters, subs[i].Filter)
			}
			e.attacker.s.Subscribe(subs, 0, func([]byte) {})
		case 5:
			e.attacker.s.Unsubscribe(filters, func([]byte) {})
			filters = nil
		}
	}
}

// publish does the work of connection and fan-out loop.
func (e *others) publish(topic string, retain bool) {
	rec := message.Record{Kind: message.KindPublish, Client: "evil", Topic: topic, Payload: []byte("x"), Retain: retain}
	if message.ValidTopic(topic) != nil {
		return
	}
	if retain {
		if _, err := e.m.ClaimRetained(&rec); err != nil {
			rec.Client = topic // another publisher
		}
	}
	e.turn.Lock()
	defer e.turn.Unlock()
	e.seq++
	rec.Seq = e.seq
	e.m.Fanout(&rec)
}

// honest runs one round of an honest client and returns the sum of its waits that are longer than longWait.
func (e *others) honest(t *testing.T, round int) (slow time.Duration) {
	timed := func(do func()) {
		begun := time.Now()
		do()
		if took := time.Since(begun); took > longWait {
			slow += took
		}
	}
	filter := fmt.Sprintf("honest/%d", round)
	timed(func() { e.good.subscribe(filter) })
	timed(func() { e.publish(filter, false) })
	e.good.next(t)
	timed(func() { e.good.unsubscribe(filter) })
	return slow
}
