package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func owned(owner string) func(*Attach) { return func(a *Attach) { a.Owner = Owner(owner) } }

// leave connects a client, subscribes and disconnects.
func (e *env) leave(id string, subs ...Subscription) {
	e.t.Helper()
	c, _ := e.attach(id)
	c.subscribe(subs...)
	c.detach(false)
}

// Whoever scrapes sees how near the nearest subject is to each of its bounds.
func TestSubjectUse(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxPerSubject, o.MaxSubscriptionsPerSubject, o.MaxRetainedPerSubject = 4, 10, 5 })
	e.attach("V", vehicle)
	for _, id := range []string{"a/1", "a/2", "a/3", "b/1"} {
		c, _ := e.attach(id, owned(strings.Split(id, "/")[0]))
		c.subscribe(sub("v1/+/up/#", 1))
	}
	rec := message.Record{Kind: message.KindPublish, Topic: "status", Payload: []byte("x"), Client: "b/1", Retain: true}
	claimed, err := e.m.ClaimRetained(&rec)
	check.OK(t, err)
	if !claimed {
		t.Fatal("not claimed")
	}
	defer e.m.CancelRetained(rec.Topic)
	want := map[string]float64{"sessions": 0.75, "subscriptions": 0.3, "queued_bytes": 0, "retained": 0.2}
	if got := e.m.SubjectUse(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A command reaches its vehicle however much is queued for subscribers.
func TestCommandsHaveRoomOfTheirOwn(t *testing.T) {
	t.Parallel()
	size := (&body{topic: "v1/V/up/t", payload: make([]byte, 100)}).size()
	for name, change := range map[string]func(*Options){
		"all queues are full": func(o *Options) { o.MaxTotalBytes, o.MaxQueuedBytesPerSubject = 400*size, math.MaxInt64 },
		"the disk is full":    func(o *Options) { o.DiskShort = func() bool { return true } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stood := func(o *Options) { o.Now = func() time.Time { return time.Now().Add(-time.Hour) } } // the gateway has stood still for an hour
			e := newEnv(t, change, stood)
			v, _ := e.attach("V", vehicle)
			v.subscribe(sub("v1/V/cmd/#", 1))
			for i := range 50 { // of as many subjects
				e.leave(fmt.Sprintf("svc%d", i), sub("v1/+/up/#", 1))
			}
			for range 20 {
				e.say("v1/V/up/t", 1, string(make([]byte, 100)))
			}
			if got := e.m.totalBytes.Load(); got > 300*size {
				t.Errorf("copies for subscribers take %d bytes of %d", got, 400*size)
			}
			for id := range uint16(50) {
				check.OK(t, e.m.Deliver("V", &message.Delivery{Topic: "v1/V/cmd/1/x", Payload: make([]byte, 100)}))
				v.take(1)
				v.s.Puback(id+1, 0)
			}
			if len(e.m.Shortages()) != 1 {
				t.Errorf("shortages %+v", e.m.Shortages())
			}
		})
	}
}

// A subject's queued bytes are limited to its share, and to what is left for all others.
func TestQueuedBytesPerSubject(t *testing.T) {
	t.Parallel()
	size := (&body{topic: "t", payload: []byte("x")}).size()
	e := newEnv(t, func(o *Options) { o.MaxTotalBytes, o.MaxQueuedBytesPerSubject = 40*size, 12*size }) // 30 for subscribers
	for i := range 3 {
		e.leave(fmt.Sprintf("a/%d", i), sub("t", 1))
	}
	say := func(n int) {
		for range n {
			e.say("t", 1, "x")
		}
	}
	held := func(owner Owner) int64 {
		e.m.shares.mu.Lock()
		defer e.m.shares.mu.Unlock()
		return e.m.shares.byOwner[owner].bytes.Load() / size
	}
	say(10)
	if got := held("a"); got != 12 || e.dropped(dropOwnerBytes) != 18 {
		t.Errorf("a subject holds %d messages, %v dropped", got, e.dropped(dropOwnerBytes))
	}
	for i, want := range []int64{9, 5, 2} {
		owner := string(rune('b' + i))
		e.leave(owner, sub("t", 1))
		say(20)
		if got := held(Owner(owner)); got != want {
			t.Errorf("subject %s holds %d messages, want %d", owner, got, want)
		}
	}
	e.checkpoint()
	e.kill()
	if got := held("a"); got != 12 || held("c") != 5 {
		t.Errorf("after a restart a holds %d messages, c %d", got, held("c"))
	}
	c, _ := e.attach("a/0")
	for id := range uint16(4) {
		c.take(1)
		c.s.Puback(id+1, 0)
	}
	if got := held("a"); got != 8 {
		t.Errorf("%d messages are counted after four were acknowledged", got)
	}
}

func TestSessionsPerSubject(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxPerSubject = 3 })
	full := func(what string) {
		t.Helper()
		if _, _, err := e.tryAttach(context.Background(), "a/new", owned("a")); !errors.Is(err, ErrSessions) {
			t.Errorf("%s: a fourth session: %v", what, err)
		}
		if _, known := e.m.Get("a/new"); known {
			t.Errorf("%s: there is a session that was refused", what)
		}
	}
	conns := map[string]*conn{}
	for i, id := range []string{"a", "a/1", "a/2"} {
		conns[id], _ = e.attach(id, owned("a"), func(a *Attach) {
			if i == 2 {
				a.Expiry = 0
			}
		})
	}
	full("connected")
	e.attach("b", owned("b"))
	for i := range 5 {
		e.attach(fmt.Sprintf("V%d", i), vehicle, owned("a")) // a vehicle has one session only
	}
	conns["a"].detach(false)
	full("one is away")
	if c, present := e.attach("a", owned("a")); !present {
		t.Error("a session of the subject's own is not resumed")
	} else {
		c.detach(true)
	}
	if _, present := e.attach("a", owned("a"), clean); present {
		t.Error("clean start")
	}
	full("replaced")
	e.checkpoint()
	e.kill()
	c, _ := e.attach("a/2", owned("a"))
	full("after a restart")
	e.m.Purge("a/1")
	c.detach(false)
	if _, _, err := e.tryAttach(context.Background(), "a/new", owned("a")); err != nil {
		t.Errorf("a place is free: %v", err)
	}
	for _, id := range []string{"a", "a/2", "a/new", "b"} {
		e.m.Purge(id)
	}
	e.settle()
	if n := len(e.m.shares.byOwner); n != 0 {
		t.Errorf("%d subjects are left", n)
	}
}

// A session resumed by another owner counts as theirs.
func TestSessionChangesItsOwner(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.leave("x", sub("t", 1), sub("u", 1))
	e.say("t", 1, "x")
	e.attach("x", owned("y"))
	sh := e.m.shares.byOwner["y"]
	if len(e.m.shares.byOwner) != 1 || sh == nil || sh.sessions != 1 || sh.subs.Load() != 2 || sh.bytes.Load() != e.m.totalBytes.Load() {
		t.Errorf("%+v of %d", sh, len(e.m.shares.byOwner))
	}
	e.attach("x", vehicle)
	if len(e.m.shares.byOwner) != 0 {
		t.Error("a vehicle has a share")
	}
}

// A deep filter takes more of its subject's places, since matching it costs more.
func TestDeepFiltersTakeMorePlaces(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxSubscriptionsPerSubject = 5 })
	c, _ := e.attach("a")
	deep := "$share/g/" + strings.Repeat("x/", 16) + "#" // 17 levels
	if got := c.subscribe(sub(deep, 1), sub(deep+"/", 1), sub("x/"+deep[len("$share/g/"):], 1), sub(strings.Repeat("x/", 8)+"#", 1)); string(got) != "\x01\x8f\x97\x01" {
		t.Errorf("codes %x", got)
	}
	if got := c.subscribe(sub("x", 1)); got[0] != 0x97 {
		t.Errorf("code %x", got)
	}
	c.unsubscribe(deep)
	if got := c.subscribe(sub("x", 1), sub("y", 1), sub("z", 1), sub("zz", 1)); string(got) != "\x01\x01\x01\x97" {
		t.Errorf("codes %x", got)
	}
}

func TestSubscriptionsPerSubject(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxSubscriptionsPerSubject = 3 })
	a, _ := e.attach("a/1")
	b, _ := e.attach("a/2")
	other, _ := e.attach("b")
	codes := func(c *conn, want string, filters ...string) {
		t.Helper()
		var subs []Subscription
		for _, f := range filters {
			subs = append(subs, sub(f, 1))
		}
		if got := fmt.Sprintf("%x", c.subscribe(subs...)); got != want {
			t.Errorf("%s: %q get %s, want %s", c.s.st.id, filters, got, want)
		}
	}
	codes(a, "0101", "t/1", "t/2")
	codes(b, "0197", "t/1", "t/2")
	codes(a, "01", "t/1") // not a new one
	codes(other, "010101", "t/1", "t/2", "t/3")
	a.unsubscribe("t/1")
	codes(b, "0197", "t/2", "t/3")
	a.detach(false)
	e.checkpoint()
	e.kill()
	b, _ = e.attach("a/2")
	codes(b, "97", "t/3")
	e.m.Purge("a/1")
	codes(b, "0197", "t/3", "t/4")
	b.detach(false)
	b, _ = e.attach("a/2", func(a *Attach) { a.Perm = perms{subscribe: []string{"t/1", "t/2"}} })
	codes(b, "010197", "t/4", "t/5", "t/6")
}

// Topics and filters with too many levels are refused when received, and dropped when loaded.
func TestLevels(t *testing.T) {
	t.Parallel()
	const deep, deepest = "a/b/c/d", "a/b/c"
	e := newEnv(t, func(o *Options) { o.MaxTopicLevels = 4 })
	c, _ := e.attach("svc")
	if got := c.subscribe(sub(deep, 1), sub(deep+"/#", 1), sub("$share/g/"+deepest, 1), sub("$share/g/"+deep, 1), sub("+/+/+/+/+", 1)); string(got) != "\x01\x8f\x01\x01\x8f" {
		t.Errorf("codes %x", got)
	}
	will := func(topic string) func(*Attach) { return func(a *Attach) { a.Will = &Will{Topic: topic} } }
	if _, _, err := e.tryAttach(context.Background(), "w", will(deep+"/e")); !errors.Is(err, ErrWillTopic) {
		t.Errorf("will: %v", err)
	}
	if _, _, err := e.tryAttach(context.Background(), "w", will(deep)); err != nil {
		t.Error(err)
	}
	c.detach(false)
	e.checkpoint()
	e.o.MaxTopicLevels = 3
	e.kill()
	if n := e.index.Count(); n != 1 {
		t.Errorf("%d subscriptions are left", n)
	}
	if sh := e.m.shares.byOwner["svc"]; sh.subs.Load() != 1 {
		t.Errorf("%d subscriptions are counted", sh.subs.Load())
	}
	e.checkpoint()
	e.o.MaxTopicLevels = 32
	e.kill()
	if info, _ := e.m.Get("svc"); len(info.Subscriptions) != 1 || info.Subscriptions[0].Filter != "$share/g/"+deepest {
		t.Errorf("%+v", info.Subscriptions)
	}
	c, _ = e.attach("svc")
	c.subscribe(sub("a/b/c/d/e", 1))
	less := e.o.Bounds
	less.MaxTopicLevels = 4
	check.OK(t, e.m.SetBounds(less))
	c.detach(false)
	if _, present := e.attach("svc"); !present || e.index.Count() != 1 {
		t.Errorf("%d subscriptions after the bound was lowered", e.index.Count())
	}
}

// A vehicle's SUBSCRIBE to its own topics does not wait for the fan-out.
func TestOwnTopicsDoNotWaitForTheFanout(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	v, _ := e.attach("V", vehicle, volatile)
	e.m.fan.mu.Lock()
	defer e.m.fan.mu.Unlock()
	v.subscribe(sub("v1/V/cmd/#", 1))
	if err := e.m.Deliver("V", &message.Delivery{Topic: "v1/V/cmd/1/x"}); err != nil {
		t.Error(err)
	}
	v.expect("v1/V/cmd/1/x= q1 #1")
}
