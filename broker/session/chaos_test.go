package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// TestChaos does everything at once on a few clients, to find races and deadlocks. At the end the accounts must agree
// with memory and the state file.
func TestChaos(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) {
		o.CommitInterval, o.MaxQueuedMessages, o.MaxInflight = 5*time.Millisecond, 20, 4
		o.Overflow = DropOldest
	})
	e.m.OnReady(func(id string) { _ = e.m.Deliver(id, &message.Delivery{Topic: "v1/" + id + "/cmd/ready/x"}) })
	e.m.OnPresence(func(Presence) {})
	rounds := 300
	if testing.Short() {
		rounds = 80
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 2))
			for range rounds {
				e.live(rnd, fmt.Sprint("c", rnd.IntN(4)))
			}
		})
	}
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(9, 9))
		for i := range rounds * 20 {
			e.publish(message.Record{
				Topic: fmt.Sprint("t/", rnd.IntN(3)), QoS: byte(rnd.IntN(3)), Retain: rnd.IntN(20) == 0,
				Payload: []byte("x"), Props: message.Properties{Expiry: uint32(rnd.IntN(2)), HasExpiry: rnd.IntN(5) == 0},
			})
			if i%500 == 0 {
				e.m.StoreIntakePosition(e.journal.Last() / 2)
			}
		}
	})
	wg.Wait()
	e.audit()
	e.restart()
	e.audit()
}

// live plays one connection of a client, with some outside interference.
func (e *env) live(rnd *rand.Rand, id string) {
	change := func(a *Attach) {
		a.Expiry = []time.Duration{0, time.Millisecond, time.Hour}[rnd.IntN(3)]
		a.CleanStart, a.ReceiveMaximum = rnd.IntN(4) == 0, uint16(rnd.IntN(4))
		if rnd.IntN(3) == 0 {
			a.Will = &Will{Topic: "t/will", Delay: time.Duration(rnd.IntN(2)) * time.Millisecond}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := e.tryAttach(ctx, id, change)
	if err != nil {
		return // purged meanwhile
	}
	c.s.Subscribe([]Subscription{sub("t/#", byte(rnd.IntN(3))), sub("v1/"+id+"/cmd/#", 1)}, 0, func([]byte) {})
	for range rnd.IntN(30) {
		switch n := uint16(1 + rnd.IntN(12)); rnd.IntN(12) {
		case 0:
			c.setRoom(rnd.IntN(3))
		case 1:
			c.setRoom(-1)
			c.s.Writable()
		case 2:
			c.s.Unsubscribe([]string{"t/#"}, func([]byte) {})
		case 3:
			_ = e.m.Deliver(id, &message.Delivery{Topic: "v1/" + id + "/cmd/1/x", Durable: true})
		case 4:
			if _, used := c.s.ReceiveQoS2(n, false, "", nil); !used {
				c.s.JournaledQoS2(n, e.journal.Last())
			}
			c.s.ReleaseQoS2(n / 2)
		case 5:
			e.m.List("", 10)
		case 6:
			if rnd.IntN(20) == 0 {
				e.m.Purge(id)
			} else {
				e.m.Disconnect(id, frame.ReasonAdministrative, "", ReasonAdmin)
			}
		case 7:
			c.s.Pubrec(n, 0)
		case 8:
			c.s.Pubcomp(n, 0)
		default:
			c.s.Puback(n, 0)
		}
	}
	c.detach(rnd.IntN(2) == 0)
}

// settle waits until no will and no session's end is due, and no gate is held.
func (e *env) settle() {
	e.t.Helper()
	check.Eventually(e.t, "no gate is taken and nothing due", func() bool {
		e.m.timers.mu.Lock()
		due := len(e.m.timers.heap) > 0 && e.m.timers.heap[0].timer.at < e.m.now()+patience.Milliseconds()
		e.m.timers.mu.Unlock()
		e.m.gates.mu.Lock()
		gates := len(e.m.gates.busy)
		e.m.gates.mu.Unlock()
		return !due && gates == 0
	})
}

// audit compares the accounts with the sessions, queues and retained messages.
func (e *env) audit() {
	e.t.Helper()
	e.settle()
	var bytes int64
	messages, connected, live := 0, 0, 0
	for _, st := range e.m.sessions.all("") {
		st.mu.Lock()
		if !st.ended {
			live++
		}
		if st.link.conn != nil {
			connected++
		}
		if f := st.flow; f != nil {
			bytes += f.bytes
			messages += f.len()
			if f.window > len(f.inflight) || f.next > len(f.inflight) || f.releases > len(f.inflight) {
				e.t.Errorf("%s: window %d, next %d, releases %d of %d in flight", st.id, f.window, f.next, f.releases, len(f.inflight))
			}
		}
		st.mu.Unlock()
	}
	if n := e.m.totalBytes.Load(); n != bytes {
		e.t.Errorf("%d bytes accounted for, %d there", n, bytes)
	}
	for name, v := range map[string][2]float64{
		"queued":    {testutil.ToFloat64(e.m.metrics.queued), float64(messages)},
		"connected": {testutil.ToFloat64(e.m.metrics.connected), float64(connected)},
		"sessions":  {testutil.ToFloat64(e.m.metrics.sessions), float64(live)},
	} {
		if v[0] != v[1] {
			e.t.Errorf("%s: %v counted, %v there", name, v[0], v[1])
		}
	}
}
