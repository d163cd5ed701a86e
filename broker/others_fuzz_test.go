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

// allowed is how long a client may wait because of another client's work, beyond twice what a client without that neighbour
// waits on the same machine. The defects in question take many seconds.
const allowed = 2 * time.Second

// mostOps bounds the operations of one input, so that the fuzzer tries many inputs.
const mostOps = 16

// FuzzOthersWait has one client subscribe, retain and publish as the fuzzer says, and measures how long another
// client's SUBSCRIBE, message and UNSUBSCRIBE take meanwhile. Times count while fuzzing and with HOSTILE=full;
// otherwise the other client must only be served.
func FuzzOthersWait(f *testing.F) {
	f.Add([]byte{0, 4, 255, 1, 1, 4, 255, 0})
	f.Add([]byte{0, 0, 31, 0, 4, 4, 255, 1, 2, 0, 200, 2, 3, 0, 0, 3})
	f.Add([]byte{2, 4, 255, 2, 3, 0, 0, 3, 3, 0, 0, 3, 5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		e, stop := newOthers(t), make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() { e.rounds(t, stop) })
		if os.Getenv("HOSTILE") == "full" || strings.Contains(strings.Join(os.Args, " "), "-test.fuzz=") {
			alone := newOthers(t) // its client measures how busy the machine is
			all.Go(func() { alone.rounds(t, stop) })
			all.Go(func() { judge(&e.waits, &alone.waits, stop) })
		}
		e.hostile(ops[:min(len(ops), 4*mostOps)])
		close(stop)
		all.Wait()
	})
}

// judge compares the waits until stop is closed. It panics, because a client that is held up for minutes would be
// reported after the fuzzer's time.
func judge(beside, alone *waitTimes, stop <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-stop:
			ended = true
		}
		if slow, quiet := beside.max(), alone.max(); slow > allowed+2*quiet {
			panic(fmt.Sprintf("a client waits for %v because of another, one that is alone for %v", slow, quiet))
		}
	}
}

// waitTimes are those of an honest client.
type waitTimes struct {
	mu      sync.Mutex
	begun   time.Time // of the current one; zero if there is none
	longest time.Duration
}

func (w *waitTimes) timed(do func()) {
	w.set(time.Now())
	do()
	w.set(time.Time{})
}

func (w *waitTimes) set(begun time.Time) {
	longest := w.max()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.longest = begun, longest
}

// max returns the longest wait, the current one included.
func (w *waitTimes) max() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun.IsZero() {
		return w.longest
	}
	return max(w.longest, time.Since(w.begun))
}

// rounds runs the honest client's rounds until stop is closed, at least one.
func (e *others) rounds(t *testing.T, stop <-chan struct{}) {
	for round := 0; ; round++ {
		e.honest(t, round)
		select {
		case <-stop:
			return
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
	waits    waitTimes
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

// hostile executes ops of four bytes: operation, magnitude and digits of a count, text.
func (e *others) hostile(ops []byte) {
	var filters []string
	for ; len(ops) >= 4; ops = ops[4:] {
		n, level := int(ops[2])<<(2*(ops[1]%5)), string("x+r#y"[ops[3]%5])
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

// honest runs one round of an honest client.
func (e *others) honest(t *testing.T, round int) {
	filter := fmt.Sprintf("honest/%d", round)
	e.waits.timed(func() { e.good.subscribe(filter) })
	e.waits.timed(func() { e.publish(filter, false) })
	e.good.next(t)
	e.waits.timed(func() { e.good.unsubscribe(filter) })
}
