package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func TestSubscribeCodes(t *testing.T) {
	t.Parallel()
	var rejected []string
	e := newEnv(t, func(o *Options) {
		o.MaxSubscriptions = 3
		o.Rejected = func(reason string) { rejected = append(rejected, reason) }
	})
	c, _ := e.attach("svc", func(a *Attach) { a.Perm = perms{subscribe: []string{"secret"}} })
	got := c.subscribe(sub("a", 0), sub("b", 1), sub("c", 2), sub("secret", 1), sub("d", 1), sub("a", 2), sub("x#", 1))
	want := []byte{0, 1, 2, frame.ReasonNotAuthorized, frame.ReasonQuotaExceeded, 2, frame.ReasonFilterInvalid}
	if !bytes.Equal(got, want) {
		t.Errorf("SUBACK %x, want %x", got, want)
	}
	if want := []string{"subscribe_not_permitted", "subscriptions"}; !slices.Equal(rejected, want) {
		t.Errorf("rejected %q, want %q", rejected, want)
	}
	if got, want := c.unsubscribe("b", "nothing"), []byte{0, frame.ReasonNoSubscription}; !bytes.Equal(got, want) {
		t.Errorf("UNSUBACK %x, want %x", got, want)
	}
	e.say("b", 1, "x")
	e.say("a", 2, "x")
	c.expect("a=x q2 #1")
}

func TestFiltersAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", volatile)
	granted := 0
	for i := range 8 {
		filter := fmt.Sprintf("%d/%s", i, bytes.Repeat([]byte{'x'}, 60_000))
		if c.subscribe(sub(filter, 0))[0] == 0 {
			granted++
		}
	}
	if granted != 4 {
		t.Errorf("%d filters of 60 kB accepted", granted)
	}
}

func TestSubscriptionsSurvive(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	full := Subscription{Filter: "+/x", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}
	c.subscribeID(9, full, sub("gone", 1))
	c.unsubscribe("gone")
	v, _ := e.attach("V", vehicle)
	v.subscribe(sub("v1/V/cmd/#", 1))
	e.kill() // no checkpoint: the SUBACK alone promised durability
	c, present := e.attach("svc")
	full.ID = 9
	if info, _ := e.m.Get("svc"); !present || len(info.Subscriptions) != 1 || info.Subscriptions[0] != full {
		t.Errorf("%+v", info)
	}
	e.publish(message.Record{Topic: "a/x", QoS: 1, Retain: true, Payload: []byte("y")})
	if f := c.expect("a/x=y q1 #1 retain")[0]; *f.props.SubscriptionIdentifier != 9 {
		t.Errorf("%+v", f.props)
	}
	e.publish(message.Record{Client: "svc", Topic: "a/x", QoS: 1}) // no local
	c.quiet()
	if info, _ := e.m.Get("V"); info.Connected || len(info.Subscriptions) != 1 || e.index.Count() != 1 {
		t.Errorf("%+v, %d in the index", info, e.index.Count())
	}
}

func TestSharedSubscriptions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.index.connected = e.m.Connected
	a, _ := e.attach("a")
	b, _ := e.attach("b")
	for _, c := range []*conn{a, b} {
		c.subscribe(sub("$share/g/t", 1))
	}
	b.subscribe(sub("t", 0))
	e.say("t", 1, "1")
	a.expect("t=1 q1 #1")
	b.expect("t=1 q0")
	a.detach(true)
	e.say("t", 1, "2") // the other member gets it, merged with its own subscription
	b.expect("t=2 q1 #1")
}

// When a session ends, its unacknowledged shared messages go to another member with that member's options, also over a
// restart; except a QoS 2 message that was sent.
func TestSharedMessagesMoveOn(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.index.connected = func(client string) bool { return e.m != nil && e.m.Connected(client) }
	a, _ := e.attach("a", func(a *Attach) { a.ReceiveMaximum = 2 })
	a.subscribe(sub("$share/g/t/+", 2), sub("own", 1))
	e.say("t/1", 1, "sent")
	e.say("t/2", 2, "may be there")
	e.say("t/3", 2, "waiting")
	e.say("t/0", 0, "not kept")
	e.say("own", 1, "its own")
	a.take(2)
	e.checkpoint()
	e.kill()
	b, _ := e.attach("b")
	b.subscribeID(5, sub("$share/g/t/+", 1))
	b.quiet()
	if !e.m.Purge("a") {
		t.Fatal("no session to purge")
	}
	for _, f := range b.expect("t/1=sent q1 #1", "t/3=waiting q1 #2") {
		if *f.props.SubscriptionIdentifier != 5 {
			t.Errorf("%s: %+v", f, f.props)
		}
	}
	b.quiet()
	if n := e.dropped(dropSessionEnded); n != 2 {
		t.Errorf("%v dropped", n)
	}
	if !e.m.Purge("b") || e.dropped(dropSessionEnded) != 4 { // no member is left
		t.Errorf("%v dropped", e.dropped(dropSessionEnded))
	}
}

func TestSetBounds(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	c.subscribe(sub("a", 1), sub("b", 1))
	less := e.o.Bounds
	less.MaxSubscriptions, less.MaxQueuedMessages = 2, 1
	check.OK(t, e.m.SetBounds(less))
	if codes := c.subscribe(sub("c", 1), sub("a", 0)); codes[0] != frame.ReasonQuotaExceeded || codes[1] != 0 {
		t.Errorf("codes % x", codes)
	}
	c.detach(false)
	e.say("b", 1, "kept", "too many")
	c, _ = e.attach("svc")
	c.expect("b=kept q1 #1")
	c.quiet()
}

// A retained message may have a topic longer than a key of the state file.
func TestRetainedOnLongTopics(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	long := strings.Repeat("x", message.MaxTopicBytes-1)
	for _, last := range []string{"a", "b", "c"} {
		e.publish(message.Record{Topic: long + last, QoS: 1, Retain: true, Payload: []byte(last)})
	}
	e.checkpoint()
	e.publish(message.Record{Topic: long + "b", QoS: 1, Retain: true})
	e.checkpoint()
	e.kill()
	c, _ := e.attach("svc")
	for last, want := range map[string]bool{"a": true, "b": false, "c": true} {
		c.subscribe(sub(long+last, 1))
		if want && c.take(1)[0].payload != last {
			t.Errorf("%s is not there", last)
		}
	}
	c.quiet()
}

func TestRetained(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxRetainedMessages = 2 })
	retain := func(topic, text string) {
		e.publish(message.Record{Topic: topic, QoS: 1, Retain: true, Payload: []byte(text)})
	}
	retain("r/1", "old")
	retain("r/1", "one")
	retain("r/2", "two")
	retain("r/2", "")
	retain("r/3", "three")
	retain("r/4", "too many")
	e.checkpoint()
	retain("r/5", "also")
	e.kill()
	if n := e.dropped(dropRetained); n != 1 { // r/5, fanned out again
		t.Errorf("%v counted as %s", n, dropRetained)
	}
	c, _ := e.attach("svc")
	got := func() []string {
		var out []string
		for _, f := range c.take(2) {
			out = append(out, f.topic+"="+f.payload)
			if !f.retain {
				t.Errorf("%s without RETAIN", f)
			}
		}
		slices.Sort(out)
		c.quiet()
		return out
	}
	c.subscribe(sub("r/#", 1))
	if got, want := got(), []string{"r/1=one", "r/3=three"}; !slices.Equal(got, want) {
		t.Errorf("retained %q, want %q", got, want)
	}
	for i, tc := range []struct {
		sub  Subscription
		want bool
	}{
		{Subscription{Filter: "r/#", QoS: 1, RetainHandling: 1}, false}, // not new
		{Subscription{Filter: "r/#", QoS: 1, RetainHandling: 2}, false},
		{Subscription{Filter: "r/+", QoS: 1, RetainHandling: 1}, true},
		{Subscription{Filter: "$share/g/r/#", QoS: 1}, false},
		{Subscription{Filter: "r/#", QoS: 0}, true},
	} {
		c.subscribe(tc.sub)
		if tc.want {
			got()
		}
		c.quiet()
		if t.Failed() {
			t.Fatalf("case %d", i)
		}
	}
}

// TestSubackComesFirst holds the writer's commit open: nothing, retained messages included, may be sent before the
// SUBACK.
func TestSubackComesFirst(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish(message.Record{Topic: "t", Retain: true, Payload: []byte("kept")})
	c, _ := e.attach("svc")
	e.checkpoint()
	release := hold(t, e.db) // the writer waits for this
	done := make(chan struct{})
	c.s.Subscribe([]Subscription{sub("t", 1)}, 0, func([]byte) { c.Enqueue([]byte{frame.TypeSuback << 4}); close(done) })
	e.say("t", 0, "live")
	e.say("t", 1, "live1")
	c.quiet()
	release()
	<-done
	c.mu.Lock()
	first := c.frames[0]
	c.frames = c.frames[1:]
	c.mu.Unlock()
	if first[0]>>4 != frame.TypeSuback {
		t.Errorf("first frame %x", first)
	}
	c.expect("t=kept q0 retain", "t=live q0", "t=live1 q1 #1")
}

func TestCleanStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	c.subscribe(sub("t", 1))
	e.say("t", 1, "a")
	c.take(1)
	c.detach(true)
	e.checkpoint()
	c, present := e.attach("svc", clean)
	e.say("t", 1, "b")
	c.quiet()
	e.kill() // the discard was durable before the client was told
	c, again := e.attach("svc")
	if c.quiet(); present || !again {
		t.Errorf("present %v, then %v", present, again)
	}
	if info, _ := e.m.Get("svc"); len(info.Subscriptions) != 0 {
		t.Errorf("%+v", info)
	}
}

func TestSessionWithoutExpiryCostsNoDisk(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	before := e.db.Stats()
	c, _ := e.attach("svc", volatile)
	c.subscribe(sub("t", 2))
	c.s.ReceiveQoS2(1, false, "", nil)
	e.m.Advance(0)
	for i := range 10 {
		e.m.Fanout(&message.Record{Kind: message.KindPublish, Seq: uint64(i) + 1, Topic: "t", QoS: 2})
	}
	c.take(10)
	c.detach(false)
	if after := e.db.Stats(); after.TxStats.GetWrite() != before.TxStats.GetWrite() {
		t.Errorf("%d writes", after.TxStats.GetWrite()-before.TxStats.GetWrite())
	}
	if _, ok := e.m.Get("svc"); ok || len(e.m.sessions.all("")) != 0 || e.index.Count() != 0 || e.m.totalBytes.Load() != 0 {
		t.Error("the session has left something behind")
	}
	if _, present := e.attach("svc", volatile); present {
		t.Error("session present")
	}
}

func TestDisconnectChangesExpiry(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.MaxExpiry = 2 * time.Hour })
	c, _ := e.attach("svc", func(a *Attach) { a.Expiry = MaxExpiry })
	if d := c.s.Expiry(); d != 2*time.Hour {
		t.Errorf("expiry %v", d)
	}
	c.subscribe(sub("t", 1))
	hour := time.Hour
	c.s.Detach(true, ReasonClient, &hour)
	if info, _ := e.m.Get("svc"); info.Expiry != time.Hour || info.EndsAt.Sub(info.Since) != time.Hour {
		t.Errorf("%+v", info)
	}
	c, _ = e.attach("svc")
	none := time.Duration(0)
	c.s.Detach(true, ReasonClient, &none)
	e.checkpoint()
	e.kill()
	if _, ok := e.m.Get("svc"); ok {
		t.Error("still there")
	}
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	old, _ := e.attach("V", vehicle)
	old.keep = true
	old.subscribe(sub("v1/V/cmd/#", 1))
	check.OK(t, e.m.Deliver("V", &message.Delivery{Topic: "v1/V/cmd/1/a"}))
	old.take(1)

	// Nobody gets the session before the old connection has ended.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := e.tryAttach(ctx, "V", vehicle); !errors.Is(err, ErrTakeover) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if !bytes.Equal(old.kicked, []byte{frame.ReasonTakenOver}) {
		t.Errorf("kicked with %x", old.kicked)
	}
	got := make(chan *conn)
	go func() {
		c, _ := e.attach("V", vehicle)
		got <- c
	}()
	old.s.ReceiveQoS2(5, false, "", nil) // the old one is still reading
	old.s.JournaledQoS2(5, 1)
	old.detach(false)
	c := <-got
	c.expect("v1/V/cmd/1/a= q1 #1 dup")
	if seq, used := c.s.ReceiveQoS2(5, false, "", nil); !used || seq != 1 {
		t.Errorf("the identifier that the old connection took: in use %v, record %d", used, seq)
	}
	// The old handle is void.
	old.s.Puback(1, 0)
	old.s.Detach(false, ReasonLost, nil)
	old.s.Subscribe([]Subscription{sub("x", 1)}, 0, func([]byte) { t.Error("subscribed by the old connection") })
	if info, _ := e.m.Get("V"); !info.Connected || info.Inflight != 1 {
		t.Errorf("%+v", info)
	}
}

// TestTakeoversAreSerialised lets many connections compete for one client identifier. No two of them may hold the
// session at a time.
func TestTakeoversAreSerialised(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var holders, most atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				c, _ := e.attach("V", vehicle, func(a *Attach) { a.Conn.(*conn).keep = true })
				n := holders.Add(1)
				if n > 1 {
					most.Store(n)
				}
				holders.Add(-1)
				c.detach(false)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > 1 {
		t.Errorf("%d connections at once", n)
	}
	if len(e.m.gates.busy) != 0 {
		t.Error("a gate is left")
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var mu sync.Mutex
	var log []string
	e.m.OnPresence(func(p Presence) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf("%v %d %s", p.Connected, p.Epoch, p.Reason))
	})
	c, _ := e.attach("V", vehicle)
	c.detach(true)
	e.attach("V", vehicle)
	c, _ = e.attach("V", vehicle) // takes over
	c.keep = true
	e.m.Disconnect("V", 0x98, "", ReasonMoved)
	c.detach(false)
	want := []string{
		"true 1 ", "false 1 client", "true 2 ", "false 2 takeover", "true 3 ", "false 3 moved",
	}
	if !slices.Equal(log, want) {
		t.Errorf("presence %q, want %q", log, want)
	}
}

func TestListAndPurge(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, id := range []string{"b", "a", "d", "c"} {
		e.attach(id)
	}
	var ids []string
	for _, info := range e.m.List("a", 2) {
		ids = append(ids, info.Key)
	}
	if want := []string{"b", "c"}; !slices.Equal(ids, want) {
		t.Errorf("listed %q, want %q", ids, want)
	}
	c, _ := e.attach("e", func(a *Attach) { a.Will = &Will{Topic: "will"} })
	c.keep = true
	c.subscribe(sub("t", 1))
	e.checkpoint()
	if !e.m.Purge("e") || e.m.Purge("e") || e.m.Purge("unknown") {
		t.Error("purge says the wrong thing")
	}
	if _, ok := e.m.Get("e"); ok || !bytes.Equal(c.kicked, []byte{0x98, 0x98}) {
		t.Errorf("kicked with %x", c.kicked)
	}
	e.say("t", 1, "x")
	c.quiet()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := e.tryAttach(ctx, "e"); !errors.Is(err, ErrTakeover) {
		t.Errorf("attached before the purged connection had ended: %v", err)
	}
	c.detach(false)
	if _, present := e.attach("e"); present {
		t.Error("session present after the purge")
	}
	if got := e.journal.topics(1); slices.Contains(got, "will") {
		t.Error("the will was sent")
	}
}

func TestOpenRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(put func(bucket bucket, key, value string)){
		"format":   func(put func(bucket, string, string)) { put(bucketMeta, "format", "\x07") },
		"session":  func(put func(bucket, string, string)) { put(bucketSessions, "svc", "\x02\x05") },
		"empty":    func(put func(bucket, string, string)) { put(bucketSessions, "other", "") },
		"queue":    func(put func(bucket, string, string)) { put(bucketQueue, "svc\x0012345678", "\x01") },
		"orphan":   func(put func(bucket, string, string)) { put(bucketQueue, "other\x0012345678", "\x01") },
		"incoming": func(put func(bucket, string, string)) { put(bucketIncoming, "svc", "\x01") },
		"retained": func(put func(bucket, string, string)) { put(bucketRetained, "t", "\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newEnv(t)
			c.attach("svc")
			c.checkpoint()
			damage(func(b bucket, key, value string) { putRaw(t, c.db, b, key, value) })
			o := c.o
			if m, err := Open(o); !errors.Is(err, errFormat) {
				t.Errorf("error %v", err)
				if m != nil {
					_ = m.Close(t.Context())
				}
			}
		})
	}
}
