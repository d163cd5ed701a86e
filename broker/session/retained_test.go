package session

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// A retained message that expired before its fan-out still replaces the older one.
func TestExpiredRetainedReplaces(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish(message.Record{Topic: "r", QoS: 1, Retain: true, Payload: []byte("old")})
	e.publish(message.Record{
		Topic: "r", QoS: 1, Retain: true, Payload: []byte("new"), Props: message.Properties{HasExpiry: true},
	})
	e.publish(message.Record{Topic: "s", QoS: 1, Retain: true, Payload: []byte("other")})
	c, _ := e.attach("svc")
	c.subscribe(sub("#", 1))
	c.expect("s=other q1 #1 retain")
	c.quiet()
}

// claim does what a connection does before it journals a retained message.
func (e *env) claim(client, topic, payload string) error {
	e.t.Helper()
	_, err := e.m.ClaimRetained(&message.Record{Client: client, Topic: topic, Payload: []byte(payload)})
	return err
}

// keep claims, journals and fans out.
func (e *env) keep(client, topic, payload string) error {
	e.t.Helper()
	claimed, err := e.m.ClaimRetained(&message.Record{Client: client, Topic: topic, Payload: []byte(payload)})
	if err != nil {
		return err
	}
	e.publish(message.Record{Client: client, Topic: topic, QoS: 1, Retain: true, Payload: []byte(payload)})
	if claimed {
		e.m.JournaledRetained(topic, e.journal.Last())
	}
	return nil
}

func (e *env) retained() (topics int, bytes int64) {
	r := &e.m.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count, r.bytes
}

// A publisher cannot exceed its share, and can always remove or replace its own messages.
func TestRetainedShare(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxRetainedMessages, o.MaxRetainedPerSubject = 8, 3 })
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, errRetained) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, topic := range []string{"v1/A/up/1", "v1/A/up/2", "v1/A/up/3"} {
		check.OK(t, e.keep("A", topic, "x"))
	}
	refused("a fourth topic", e.keep("A", "v1/A/up/4", "x"))
	check.OK(t, e.keep("A", "v1/A/up/1", "y"))
	check.OK(t, e.keep("A", "v1/A/up/9", "")) // nothing to remove
	check.OK(t, e.keep("A", "v1/A/up/2", ""))
	check.OK(t, e.keep("A", "v1/A/up/4", "x"))
	for _, client := range []string{"svc/1", "svc/2", "svc"} {
		check.OK(t, e.keep(client, "x/"+client, "x"))
	}
	refused("a fourth of the same subject", e.keep("svc/4", "x/4", "x"))
	check.OK(t, e.keep("B", "v1/B/up/1", "x"))
	check.OK(t, e.keep("C", "v1/C/up/1", "x"))
	refused("a ninth in the cell", e.keep("D", "v1/D/up/1", "x"))
	check.OK(t, e.keep("B", "v1/B/up/1", "y")) // also in a full cell
	e.checkpoint()
	e.kill()
	if n, _ := e.retained(); n != 8 {
		t.Errorf("%d retained messages after a restart", n)
	}
	refused("a fourth topic after a restart", e.keep("A", "v1/A/up/5", "x"))
	if n := e.dropped(dropRetained); n != 0 {
		t.Errorf("%v were dropped that had been let in", n)
	}
	for _, topic := range []string{"v1/A/up/1", "v1/A/up/3", "v1/A/up/4"} {
		check.OK(t, e.keep("A", topic, ""))
	}
	if len(e.m.retained.publishers) != 3 {
		t.Errorf("%d publishers are known", len(e.m.retained.publishers))
	}
}

// Room is taken when a message is accepted, not when it is fanned out.
func TestRetainedClaims(t *testing.T) {
	t.Parallel()
	const overhead = entryOverhead + 1
	e := newEnv(t, func(o *Options) { o.MaxRetainedPerSubject, o.MaxRetainedBytes = 2, 64*(2*overhead+20) })
	claim := func(topic string, bytes int) error { return e.claim("A", topic, strings.Repeat("x", bytes)) }
	for _, topic := range []string{"a", "b"} {
		check.OK(t, claim(topic, 5))
	}
	if claim("c", 5) == nil {
		t.Error("two are on their way, and a third has room")
	}
	e.m.CancelRetained("a")
	if err := claim("c", 10); err != nil {
		t.Errorf("a claim was given up: %v", err)
	}
	if claim("b", 11) == nil {
		t.Error("a larger one fits beyond the share of bytes")
	}
	if err := claim("b", 10); err != nil {
		t.Errorf("a larger one within the share: %v", err)
	}
	if err := claim("b", 0); err != nil {
		t.Errorf("one's own may always be removed: %v", err)
	}
	// The fan-out takes c before the claim on it ends.
	e.publish(message.Record{Client: "A", Topic: "c", Retain: true, Payload: make([]byte, 10)})
	e.m.JournaledRetained("c", 1)
	e.m.CancelRetained("b")
	e.m.JournaledRetained("b", 2)
	e.m.JournaledRetained("b", 3)
	if n, bytes := e.retained(); n != 1 || bytes != overhead+10 || len(e.m.retained.topics) != 2 {
		t.Errorf("%d topics, %d bytes while the end of one is on its way", n, bytes)
	}
	e.publish(message.Record{Client: "A", Topic: "b", Retain: true, Payload: make([]byte, 10)})
	e.publish(message.Record{Client: "A", Topic: "b", Retain: true})
	if n, bytes := e.retained(); n != 1 || bytes != overhead+10 {
		t.Errorf("%d topics, %d bytes when all is fanned out", n, bytes)
	}
	e.publish(message.Record{Client: "A", Topic: "c", Retain: true})
	if n, bytes := e.retained(); n != 0 || bytes != 0 || len(e.m.retained.publishers) != 0 || len(e.m.retained.topics) != 0 {
		t.Errorf("%d topics, %d bytes at the end", n, bytes)
	}
}

// Expired messages are removed automatically.
func TestRetainedExpire(t *testing.T) {
	t.Parallel()
	clock := &testClock{}
	e := newEnv(t, func(o *Options) { o.Now, o.Wall = clock.now, clock.now })
	for i := range 200 {
		e.publish(message.Record{
			Topic: "r/" + strconv.Itoa(i), QoS: 1, Retain: true, Payload: []byte("x"),
			Props: message.Properties{HasExpiry: i%2 == 0, Expiry: uint32(100 + i)},
		})
	}
	e.checkpoint()
	clock.advance(250 * time.Second)
	for range 3 {
		e.checkpoint()
	}
	if n, _ := e.retained(); n != 124 {
		t.Errorf("%d are left, want 100 and the 24 that have not expired", n)
	}
	clock.advance(time.Hour)
	e.kill()
	if n, bytes := e.retained(); n != 100 || len(e.m.retained.expiring) != 0 || bytes == 0 {
		t.Errorf("%d are left after a restart", n)
	}
}

// A will that exceeds the publisher's share is sent to current subscribers and not retained.
func TestWillBeyondTheShareIsNotRetained(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxRetainedPerSubject = 1 })
	will := func(topic string) {
		c, _ := e.attach("A", vehicle, func(a *Attach) {
			a.Will = &Will{Topic: topic, Payload: []byte("gone"), QoS: 1, Retain: true}
		})
		c.detach(false)
		e.settle()
	}
	will("v1/A/up/1")
	will("v1/A/up/2")
	recs := e.journal.from(1)
	if len(recs) != 2 || !recs[0].Retain || recs[1].Retain {
		t.Errorf("%+v", recs)
	}
	for i := range recs {
		e.m.Fanout(&recs[i])
	}
	if n, _ := e.retained(); n != 1 {
		t.Errorf("%d are retained", n)
	}
}
