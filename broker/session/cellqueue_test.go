package session

import (
	"context"
	"sync"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// oneSession is a cell that has one session.
type oneSession struct {
	noCell
	mu      sync.Mutex
	session []byte
	changed int
}

func (c *oneSession) changes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *oneSession) Claim(context.Context, string) Claim {
	return Claim{Number: 1, Known: true, Here: c.session == nil, Session: c.session}
}

func (c *oneSession) Changed(string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed++
}

// TestQueueMoves: messages that were queued for a vehicle without a connection reach it at another gateway unless they
// have expired. Those that an open connection may acknowledge stay, and those beyond the bound.
func TestQueueMoves(t *testing.T) {
	t.Parallel()
	there := &oneSession{}
	several := func(o *Options) { o.Cell = there }
	from := newEnv(t, several)
	c, _ := from.attach("v", vehicle)
	c.subscribe(sub("v1/v/sys/#", 1))
	send := func(text string, life time.Duration) {
		check.OK(t, from.m.Deliver("v", &message.Delivery{Topic: "v1/v/sys/a", Payload: []byte(text), Life: life, Durable: true}))
	}
	send("in flight", 0)
	connected, _, _ := from.m.Portable("v")
	c.detach(true)
	before := there.changes()
	send("queued", 0)
	if there.changes() == before {
		t.Error("the cell does not learn of a queued message")
	}
	send("for a second", time.Second)
	send("for an hour", time.Hour)
	command := message.Delivery{Topic: "v1/v/sys/a", Payload: []byte("kept by the cell")}
	check.OK(t, from.m.Deliver("v", &command))
	send(string(make([]byte, maxMoved)), 0)
	send("after what exceeds the bound", 0)
	moved, _, _ := from.m.Portable("v")

	later := func(o *Options) {
		several(o)
		o.Now = func() time.Time { return time.Now().Add(time.Minute) }
		o.Wall = o.Now
	}
	for name, x := range map[string]struct {
		session []byte
		want    []string
	}{
		"connected": {connected, nil},
		"moved":     {moved, []string{"v1/v/sys/a=in flight q1 #1", "v1/v/sys/a=queued q1 #2", "v1/v/sys/a=for an hour q1 #3"}},
	} {
		there.session = x.session
		to := newEnv(t, later)
		c, present := to.attach("v", vehicle)
		if !present {
			t.Errorf("%s: the session is not present", name)
		}
		c.expect(x.want...)
		to.checkpoint()
		to.kill()
		if info, _ := to.m.Get("v"); info.Queued != len(x.want) {
			t.Errorf("%s: after a kill %d messages are queued", name, info.Queued)
		}
	}
}
