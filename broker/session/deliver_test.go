package session

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func TestDeliveryKeepsOrderWithinReceiveMaximum(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, present := e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 2 })
	if present {
		t.Error("session present on the first connect")
	}
	if codes := c.subscribe(sub("t/#", 1)); !bytes.Equal(codes, []byte{1}) {
		t.Fatalf("codes %x", codes)
	}
	e.say("t/1", 1, "a", "b", "c", "d")
	c.expect("t/1=a q1 #1", "t/1=b q1 #2")
	c.s.Puback(2, 0) // clients may acknowledge out of order
	c.expect("t/1=c q1 #3")
	c.s.Puback(2, 0) // no longer in flight
	c.s.Puback(99, 0)
	c.quiet()
	c.s.Puback(1, 0)
	c.expect("t/1=d q1 #4")
	c.s.Puback(3, 0)
	c.s.Puback(4, 0)
	if info, _ := e.m.Get("svc"); info.Inflight != 0 || info.Queued != 0 || info.QueuedBytes != 0 {
		t.Errorf("%+v", info)
	}
}

func TestResumeRepeatsInOrder(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*env){
		"reconnect": func(*env) {},
		"restart":   (*env).restart,
		"kill":      func(e *env) { e.checkpoint(); e.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			c, _ := e.attach("svc", v4, func(a *Attach) { a.ReceiveMaximum = 3 })
			c.subscribe(sub("t", 1))
			e.say("t", 1, "a", "b", "c", "d")
			c.expect("t=a q1 #1", "t=b q1 #2", "t=c q1 #3")
			c.s.Puback(2, 0)
			c.expect("t=d q1 #4")
			c.detach(false)
			e.say("t", 0, "gone") // QoS 0 is not queued
			e.say("t", 1, "e")
			again(e)
			c, present := e.attach("svc", v4, func(a *Attach) { a.ReceiveMaximum = 2 })
			if !present {
				t.Fatal("session not present")
			}
			c.expect("t=a q1 #1 dup", "t=c q1 #3 dup")
			c.s.Puback(1, 0)
			c.expect("t=d q1 #4 dup")
			c.s.Puback(4, 0)
			c.s.Puback(3, 0)
			c.expect("t=e q1 #5")
		})
	}
}

func TestKillLosesNothingAndRepeatsNothingUnsent(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 1 })
	c.subscribe(sub("t", 1))
	e.say("t", 1, "a", "b")
	e.checkpoint()
	e.say("t", 1, "c") // after the stored position: only in the journal
	c.expect("t=a q1 #1")
	e.kill()
	c, _ = e.attach("svc")
	c.expect("t=a q1 #1 dup", "t=b q1 #2", "t=c q1 #3")
}

func TestQoS2(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", volatile)
	c.subscribe(sub("t", 2))
	e.say("t", 2, "a", "b")
	c.expect("t=a q2 #1", "t=b q2 #2")
	c.s.Puback(1, 0) // the wrong packet
	c.s.Pubcomp(1, 0)
	c.quiet()
	c.s.Pubrec(1, 0)
	c.expect("PUBREL #1")
	c.s.Pubrec(1, 0) // again
	c.expect("PUBREL #1")
	c.s.Pubcomp(1, 0)
	c.s.Pubrec(2, frame.ReasonQuotaExceeded) // a refusal ends it
	if f := c.expect2(t, 77); f.code != frame.ReasonPacketIDNotFound {
		t.Errorf("PUBREL for an unknown identifier has reason %#x", f.code)
	}
	if info, _ := e.m.Get("svc"); info.Inflight != 0 {
		t.Errorf("%d in flight", info.Inflight)
	}
}

// expect2 sends a PUBREC for an unused identifier and returns the answer.
func (c *conn) expect2(t *testing.T, id uint16) sentFrame {
	t.Helper()
	c.s.Pubrec(id, 0)
	return c.expect(fmt.Sprintf("PUBREL #%d", id))[0]
}

// TestQoS2IsExactlyOnceAcrossKill kills at each point of the exchange. A message must not be published again after its
// PUBREL, and must be if it was not acknowledged.
func TestQoS2IsExactlyOnceAcrossKill(t *testing.T) {
	t.Parallel()
	steps := []string{"publish", "pubrec", "pubcomp"}
	for n := range steps {
		t.Run(steps[n], func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			c, _ := e.attach("svc")
			c.subscribe(sub("t", 2))
			e.say("t", 2, "a", "b")
			c.expect("t=a q2 #1", "t=b q2 #2") // so they are in the state file, with their identifiers
			want := []string{"t=a q2 #1 dup", "t=b q2 #2 dup"}
			if n >= 1 {
				c.s.Pubrec(1, 0)
				c.expect("PUBREL #1") // so it is in the state file
				want[0] = "PUBREL #1"
			}
			if n >= 2 {
				c.s.Pubcomp(1, 0) // not waited for: PUBREL may be repeated
			}
			e.kill()
			c, _ = e.attach("svc")
			c.expect(want...)
			if n == 0 {
				c.s.Pubrec(1, 0)
				c.expect("PUBREL #1")
			}
			c.s.Pubrec(2, 0)
			c.expect("PUBREL #2")
			c.s.Pubcomp(1, frame.ReasonPacketIDNotFound)
			c.s.Pubcomp(2, 0)
			e.checkpoint()
			e.kill()
			c, _ = e.attach("svc")
			c.quiet()
		})
	}
}

func TestStalledConnection(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	other, _ := e.attach("other")
	c.subscribe(sub("t", 1))
	other.subscribe(sub("t", 1))
	c.setRoom(1)
	e.say("t", 1, "a", "b", "c")
	e.say("t", 0, "zero") // no room; QoS 0 is not queued
	other.expect("t=a q1 #1", "t=b q1 #2", "t=c q1 #3", "t=zero q0")
	c.expect("t=a q1 #1")
	c.s.Puback(1, 0)
	c.quiet()
	c.setRoom(-1)
	c.s.Writable()
	c.expect("t=b q1 #2", "t=c q1 #3") // not DUP: not sent before
	if n := e.dropped(dropNoRoom); n != 1 {
		t.Errorf("%v counted as %s", n, dropNoRoom)
	}
}

func TestStalledPubrel(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", volatile)
	c.subscribe(sub("t", 2))
	e.say("t", 2, "a", "b")
	c.expect("t=a q2 #1", "t=b q2 #2")
	c.setRoom(0)
	c.s.Pubrec(1, 0)
	c.s.Pubrec(2, 0)
	c.setRoom(-1)
	c.s.Writable()
	c.expect("PUBREL #1", "PUBREL #2")
}

func TestBounds(t *testing.T) {
	t.Parallel()
	size := (&body{topic: "t", payload: []byte("x")}).size()
	for name, tc := range map[string]struct {
		o      func(*Options)
		want   string
		reason string
	}{
		"messages":     {func(o *Options) { o.MaxQueuedMessages = 3 }, "abc", dropQueueMessages},
		"bytes":        {func(o *Options) { o.MaxQueuedBytes = 3 * size }, "abc", dropQueueBytes},
		"subject":      {func(o *Options) { o.MaxQueuedBytesPerSubject = 2 * size }, "ab", dropOwnerBytes},
		"total":        {func(o *Options) { o.MaxTotalBytes = 8 * size }, "abc", dropTotalBytes}, // half of the room for subscribers
		"disk":         {func(o *Options) { o.DiskShort = func() bool { return true } }, "", dropStateFull},
		"drop oldest":  {func(o *Options) { o.MaxQueuedMessages, o.Overflow = 3, DropOldest }, "ade", dropOldest},
		"within bound": {func(o *Options) {}, "abcde", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, tc.o)
			c, _ := e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 1 })
			c.subscribe(sub("t", 1))
			e.say("t", 1, strings.Split("abcde", "")...)
			got := ""
			for id := uint16(1); id <= uint16(len(tc.want)); id++ {
				got += c.take(1)[0].payload
				c.s.Puback(id, 0)
			}
			c.quiet()
			if got != tc.want {
				t.Errorf("delivered %q, want %q", got, tc.want)
			}
			if tc.reason != "" {
				if n := e.dropped(tc.reason); int(n) != 5-len(tc.want) {
					t.Errorf("%v counted as %s", n, tc.reason)
				}
			}
			if n := e.m.totalBytes.Load(); n != 0 {
				t.Errorf("%d bytes accounted for at the end", n)
			}
		})
	}
}

func TestMaximumPacketSize(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", func(a *Attach) { a.MaxPacket = 20 })
	c.subscribe(sub("t", 2))
	for qos := range byte(3) {
		e.say("t", qos, strings.Repeat("x", 30), "fits")
	}
	for i, f := range c.expect("t=fits q0", "t=fits q1 #2", "t=fits q2 #4") {
		if f.size > 20 {
			t.Errorf("frame %d has %d bytes", i, f.size)
		}
	}
	if n := e.dropped(dropTooLarge); n != 3 {
		t.Errorf("%v counted as %s", n, dropTooLarge)
	}
}

func TestAliasOfUnsentFrameIsUnknown(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", func(a *Attach) { a.AliasMaximum = 2 })
	c.subscribe(sub("#", 1))
	c.setRoom(0)
	e.say("a", 1, "x")
	c.setRoom(-1)
	c.s.Writable()
	if f := c.take(1)[0]; f.topic != "a" || *f.props.TopicAlias != 1 {
		t.Errorf("%+v", f)
	}
}

func TestPropertiesAndExpiry(t *testing.T) {
	t.Parallel()
	var clock testClock
	e := newEnv(t, func(o *Options) { o.Now, o.Wall = clock.now, clock.now })
	c, _ := e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 1 })
	c.subscribe(sub("t", 1))
	c.detach(false)
	props := message.Properties{
		ContentType: "text/plain", ResponseTopic: "r", Correlation: []byte{1}, UTF8Payload: true,
		User: []message.UserProperty{{Name: "n", Value: "v"}},
	}
	for _, seconds := range []uint32{10, 200, 3600} {
		p := props
		p.Expiry, p.HasExpiry = seconds, true
		e.publish(message.Record{Topic: "t", QoS: 1, Payload: fmt.Appendf(nil, "%d", seconds), Props: p})
	}
	clock.advance(15 * time.Second)
	e.restart()
	c, _ = e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 1 })
	f := c.expect("t=200 q1 #1")[0]
	if left := *f.props.MessageExpiry; left < 100 || left > 186 { // the test itself takes time
		t.Errorf("%d s left of 200 after 15", left)
	}
	if f.props.ContentType != "text/plain" || f.props.ResponseTopic != "r" || f.props.CorrelationData[0] != 1 ||
		*f.props.PayloadFormat != 1 || f.props.User[0].Value != "v" {
		t.Errorf("properties %+v", f.props)
	}
	c.s.Puback(1, 0)
	c.expect("t=3600 q1 #2")
	if n := e.dropped(dropExpired); n != 1 {
		t.Errorf("%v counted as %s", n, dropExpired)
	}
}

func TestExpiredMessagesMakeRoom(t *testing.T) {
	t.Parallel()
	var clock testClock
	e := newEnv(t, func(o *Options) { o.Now, o.Wall, o.MaxQueuedMessages = clock.now, clock.now, 2 })
	c, _ := e.attach("svc")
	c.subscribe(sub("t", 1))
	c.detach(false)
	e.publish(message.Record{Topic: "t", QoS: 1, Payload: []byte("short"), Props: message.Properties{Expiry: 5, HasExpiry: true}})
	e.say("t", 1, "long")
	clock.advance(10 * time.Second)
	e.say("t", 1, "new")
	c, _ = e.attach("svc")
	c.expect("t=long q1 #1", "t=new q1 #2")
}

func TestPermissionsAreCheckedAtDelivery(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	c.subscribe(sub("a", 1), sub("b", 1), sub("c", 2))
	e.say("a", 1, "sent")
	e.say("c", 2, "sent")
	c.expect("a=sent q1 #1", "c=sent q2 #2")
	c.detach(false)
	e.say("a", 1, "queued")
	e.say("b", 1, "queued")
	// On resume the client may no longer receive a and c, nor subscribe to c.
	c, _ = e.attach("svc", func(a *Attach) { a.Perm = perms{receive: []string{"a", "c"}, subscribe: []string{"c"}} })
	// A QoS 2 exchange in flight is finished without its content.
	c.expect("PUBREL #2", "b=queued q1 #3")
	info, _ := e.m.Get("svc")
	if len(info.Subscriptions) != 2 {
		t.Errorf("subscriptions %+v", info.Subscriptions)
	}
	// A refreshed token no longer allows b.
	c.s.SetPermissions(perms{receive: []string{"b"}}, time.Time{})
	e.say("b", 0, "x")
	e.say("b", 1, "x")
	e.say("a", 1, "x")
	c.expect("a=x q1 #4")
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	const vin = "LTEST000000000001"
	e := newEnv(t, func(o *Options) { o.MaxQueuedMessages = 2 })
	var log []string
	d := func(id string) *message.Delivery {
		return &message.Delivery{
			Topic: "v1/" + vin + "/cmd/" + id + "/lock", Payload: []byte(id),
			Sent:   func() { log = append(log, id+" sent") },
			Acked:  func(code byte) { log = append(log, fmt.Sprintf("%s acked %d", id, code)) },
			Failed: func(err error) { log = append(log, fmt.Sprintf("%s failed: %v", id, err)) },
		}
	}
	var ready []string
	e.m.OnReady(func(id string) { ready = append(ready, id) })
	if err := e.m.Deliver(vin, d("c0")); !errors.Is(err, errNoSession) {
		t.Errorf("without a session: %v", err)
	}
	c, _ := e.attach(vin, vehicle, v4)
	if err := e.m.Deliver(vin, d("c0")); !errors.Is(err, ErrNotSubscribed) {
		t.Errorf("without a subscription: %v", err)
	}
	if codes := c.subscribe(sub("v1/"+vin+"/cmd/#", 2), sub("v1/"+vin+"/sys/+", 0)); !bytes.Equal(codes, []byte{1, 0}) {
		t.Errorf("codes %x: a vehicle gets QoS 1 at most", codes)
	}
	if n := e.index.Count(); n != 0 {
		t.Errorf("%d of a vehicle's own subscriptions are in the index", n)
	}
	for _, id := range []string{"c1", "c2"} {
		check.OK(t, e.m.Deliver(vin, d(id)))
	}
	if err := e.m.Deliver(vin, d("c3")); !errors.Is(err, errQueueFull) {
		t.Errorf("into a full queue: %v", err)
	}
	c.expect("v1/"+vin+"/cmd/c1/lock=c1 q1 #1", "v1/"+vin+"/cmd/c2/lock=c2 q1 #2")
	c.s.Puback(1, 0)
	c.detach(false)
	if err := e.m.Deliver(vin, &message.Delivery{Topic: "v1/" + vin + "/sys/reconnect"}); !errors.Is(err, errNotConnected) {
		t.Errorf("QoS 0 to a client that is away: %v", err)
	}
	late := d("c4")
	late.Life = -time.Second
	if err := e.m.Deliver(vin, late); !errors.Is(err, errExpired) {
		t.Errorf("expired: %v", err)
	}
	check.OK(t, e.m.Deliver(vin, d("c5")))
	c, _ = e.attach(vin, vehicle, v4)
	c.expect("v1/"+vin+"/cmd/c2/lock=c2 q1 #2 dup", "v1/"+vin+"/cmd/c5/lock=c5 q1 #3")
	c.s.Puback(2, 0x10)
	if !e.m.Purge(vin) {
		t.Error("no session to purge")
	}
	want := []string{"c1 sent", "c2 sent", "c1 acked 0", "c2 sent", "c5 sent", "c2 acked 16", "c5 failed: session ended"}
	if !slices.Equal(log, want) {
		t.Errorf("callbacks %q, want %q", log, want)
	}
	if want := []string{vin, vin}; !slices.Equal(ready, want) {
		t.Errorf("ready %q, want %q", ready, want)
	}
}

func TestDurableDeliverySurvivesRestart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V", vehicle)
	c.subscribe(sub("v1/V/cmd/#", 1))
	c.detach(false)
	for _, d := range []*message.Delivery{
		{Topic: "v1/V/cmd/1/a", Payload: []byte("kept"), Durable: true, Life: time.Hour},
		{Topic: "v1/V/cmd/2/a", Payload: []byte("lost")},
	} {
		check.OK(t, e.m.Deliver("V", d))
	}
	e.checkpoint()
	e.kill()
	c, _ = e.attach("V", vehicle)
	if f := c.expect("v1/V/cmd/1/a=kept q1 #1")[0]; f.props.MessageExpiry == nil {
		t.Error("no message expiry")
	}
}

func TestNothingIsSentBeforeStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	c.subscribe(sub("t", 1))
	c.detach(false)
	e.say("t", 1, "a")
	c = &conn{t: t, version: 5, drained: make(chan struct{}), attached: make(chan struct{}), room: -1, change: make(chan struct{})}
	s, _, err := e.m.Attach(t.Context(), Attach{Key: "svc", Version: 5, Expiry: time.Hour, Perm: perms{}, Conn: c})
	check.OK(t, err)
	c.s = s
	close(c.attached)
	e.say("t", 1, "b")
	e.say("t", 0, "c")
	s.Writable()
	c.quiet()
	s.Start()
	c.expect("t=a q1 #1", "t=b q1 #2")
}
