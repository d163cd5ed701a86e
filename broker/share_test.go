package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
	"cellgate/test/options"
)

// levels returns a topic of n levels.
func levels(first string, n int) string {
	return first + strings.Repeat("/x", n-strings.Count(first, "/")-1)
}

// Too many levels are refused with the right reason code wherever they come in, and are not journaled.
func TestTooManyLevels(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	up := "v1/" + testVIN + "/up"
	deep := levels(up, 33)
	c := h.connect("cars", testVIN, 5, mqtt.Connect{})
	c.Send(publishFrame(5, 1, 1, deep, "x"), publishFrame(5, 2, 2, deep, "x"), publishFrame(5, 0, 0, deep, "x"), publishFrame(5, 1, 3, levels(up, 32), "x"))
	c.ExpectAck(mqtt.PUBACK, 1, frame.ReasonTopicInvalid)
	c.ExpectAck(mqtt.PUBREC, 2, frame.ReasonTopicInvalid)
	c.ExpectFrame(0x40, puback(3)...)
	old := h.connect("lab", "old", 4, mqtt.Connect{})
	old.Send(subscribeFrame(4, 1, levels("a/+", 33), 1), subscribeFrame(4, 2, "$share/g/"+levels("a", 32), 1))
	old.ExpectFrame(0x90, append(puback(1), 0x80)...)
	old.ExpectFrame(0x90, append(puback(2), 1)...)
	old.Send(publishFrame(4, 1, 1, deep, "x"))
	if reason := old.Ended().Reason; reason != 0 {
		t.Errorf("3.1.1: reason %#x", reason)
	}
	lab := h.connect("lab", "lab", 5, mqtt.Connect{})
	lab.Send(subscribeFrame(5, 1, levels("a", 33), 1))
	if p := lab.Expect(mqtt.SUBACK); p.ID != 1 || !slices.Equal(p.Codes, []byte{frame.ReasonFilterInvalid}) {
		t.Errorf("%v %x", p, p.Codes)
	}
	for version, want := range map[byte]byte{4: 5, 5: frame.ReasonTopicInvalid} {
		w := h.dial("lab")
		w.Version = version
		w.Send(connectFrame("w", version, mqtt.Connect{Will: &mqtt.Will{Topic: levels("a", 33), Payload: "x"}}))
		if code := w.Connack(); code != want {
			t.Errorf("version %d: a deep will gets %#x, want %#x", version, code, want)
		}
	}
	if last := h.journal.Last(); last != 1 {
		t.Errorf("%d records in the journal", last)
	}
	if n := h.rejected("topic_levels"); n != 4 {
		t.Errorf("%v counted", n)
	}
	h.reload(Limits{MaxTopicLevels: 8}, nil) //nolint:errcheck // no TLS
	c.Send(publishFrame(5, 1, 4, levels(up, 9), "x"))
	c.ExpectAck(mqtt.PUBACK, 4, frame.ReasonTopicInvalid)
}

// A retained message is either stored and acknowledged, or refused and not journaled.
func TestRetainedBeyondTheShare(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		setBounds(t, h.sessions, session.Bounds{MaxRetainedPerSubject: 2})
		retain := func(qos byte, id uint16, class, payload string) []byte {
			f := publishFrame(version, qos, id, "v1/"+testVIN+"/up/"+class, payload)
			f[0] |= 1
			return f
		}
		c := h.connect("cars", testVIN, version, mqtt.Connect{})
		c.Send(retain(1, 1, "a", "1"), retain(1, 2, "b", "1"), retain(1, 3, "a", "2"), retain(0, 0, "b", ""), retain(2, 4, "c", "1"))
		for id := uint16(1); id < 4; id++ {
			c.ExpectFrame(0x40, puback(id)...)
		}
		c.ExpectFrame(0x50, puback(4)...)
		c.Send(publishRel(4))
		c.ExpectFrame(0x70, puback(4)...)
		const kept = 6
		if version == 5 {
			c.Send(retain(1, 5, "d", "1"), retain(2, 6, "d", "1"), retain(0, 0, "d", "1"), retain(2, 6, "c", "2"))
			c.ExpectAck(mqtt.PUBACK, 5, frame.ReasonQuotaExceeded)
			c.ExpectAck(mqtt.PUBREC, 6, frame.ReasonQuotaExceeded)
			c.ExpectFrame(0x50, puback(6)...) // the identifier is free
		} else {
			c.Send(retain(1, 5, "d", "1"))
			c.Ended()
		}
		want := kept
		if version == 5 {
			want++
		}
		if last := h.journal.Last(); int(last) != want {
			t.Errorf("%d records in the journal, want %d", last, want)
		}
		other := h.connect("cars", "LTEST000000000002", version, mqtt.Connect{})
		f := publishFrame(version, 1, 1, "v1/LTEST000000000002/up/a", "1")
		f[0] |= 1
		other.Send(f)
		other.ExpectFrame(0x40, puback(1)...)
		lab := h.connect("lab", "lab", version, mqtt.Connect{})
		lab.Send(subscribeFrame(version, 1, "v1/+/up/#", 0))
		lab.ExpectFrame(0x90)
		var got []string
		for range 3 {
			_, body, err := lab.ReadFrame()
			check.OK(t, err)
			n := int(body[1])
			got = append(got, string(body[2:2+n]))
		}
		slices.Sort(got)
		if fmt.Sprint(got) != "[v1/"+testVIN+"/up/a v1/"+testVIN+"/up/c v1/LTEST000000000002/up/a]" {
			t.Errorf("retained are %q", got)
		}
	})
}

func publishRel(id uint16) []byte { return []byte{0x62, 2, byte(id >> 8), byte(id)} }

// setBounds applies bounds, with the gateway's defaults for missing values.
func setBounds(t *testing.T, m *session.Manager, b session.Bounds) {
	t.Helper()
	options.Fill(&b, sessionOptions(nil, nil, nil).Bounds)
	check.OK(t, m.SetBounds(b))
}

func TestSubjectsSessions(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	setBounds(t, h.sessions, session.Bounds{MaxPerSubject: 1, MaxSubscriptionsPerSubject: 1})
	token, _, err := h.auth.Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{"telemetry:read"}})
	check.OK(t, err)
	o := mqtt.Connect{User: "billing", Password: token}
	first := h.connect("tokens", "billing/1", 5, o)
	for version, want := range map[byte]byte{4: 3, 5: frame.ReasonQuotaExceeded} {
		c := h.dial("tokens")
		c.Version = version
		c.Send(connectFrame("billing/2", version, o))
		if code := c.Connack(); code != want {
			t.Errorf("version %d: CONNACK %#x, want %#x", version, code, want)
		}
	}
	first.Send(subscribeFrame(5, 1, "v1/+/up/a", 1), subscribeFrame(5, 2, "v1/+/up/b", 1))
	first.ExpectFrame(0x90, append(puback(1), 0, 1)...)
	if p := first.Expect(mqtt.SUBACK); p.ID != 2 || !slices.Equal(p.Codes, []byte{frame.ReasonQuotaExceeded}) {
		t.Errorf("%v %x", p, p.Codes)
	}
}

// A client that subscribes while retained messages change ends with the last message of every topic, and never gets an
// older one after a newer one.
func TestSubscribeWhileRetainedChange(t *testing.T) {
	t.Parallel()
	f := newFanEnv(t)
	f.run()
	const topics = 3000
	publish := func(n, version int) uint64 {
		last, err := f.journal.Append([]message.Record{{
			Kind: message.KindPublish, Client: "V", Topic: "t/" + strconv.Itoa(n%37) + "/" + strconv.Itoa(n), Retain: true,
			Payload: []byte(strconv.Itoa(version)),
		}}, nil)
		check.OK(f.t, err)
		return last
	}
	var last uint64
	for n := range topics {
		last = publish(n, 1)
	}
	check.OK(f.t, f.journal.WaitDurable(t.Context(), last))
	check.Eventually(f.t, "the fan-out", func() bool { return f.sessions.Position() == last })
	c := f.attach("svc")
	var wg sync.WaitGroup
	wg.Go(func() {
		for round := 2; round < 5; round++ {
			for n := range topics {
				last = publish(n, round)
			}
		}
	})
	c.subscribe("t/#")
	wg.Wait()
	seen := map[string]int{}
	for done := 0; done < topics; {
		topic, version, _ := strings.Cut(c.next(t), "=")
		v, err := strconv.Atoi(version)
		check.OK(f.t, err)
		if v < seen[topic] {
			t.Fatalf("%s: version %d after %d", topic, v, seen[topic])
		}
		if v == 4 && seen[topic] != 4 {
			done++
		}
		seen[topic] = v
	}
}

// Each step through the retained messages is bounded, and continues where the last one stopped.
func TestRetainedInSteps(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	for n := range 1000 {
		x.Retain(&message.Record{Topic: fmt.Sprintf("v1/%d/up/%d", n%50, n), Payload: []byte("x"), Seq: 1})
	}
	var at session.RetainedAt
	seen := map[string]int{}
	steps := 0
	for more := true; more; steps++ {
		looked := 0
		more = x.Retained("v1/+/up/#", &at, 64, func(r *message.Record) { looked++; seen[r.Topic] += int(r.Seq) })
		if looked > 64 {
			t.Fatalf("%d in one step", looked)
		}
		// Messages may come and go between steps; the fan-out delivers those.
		x.Retain(&message.Record{Topic: fmt.Sprintf("v1/%d/up/%d", 100+steps, steps), Payload: []byte("x")})
		x.Retain(&message.Record{Topic: fmt.Sprintf("v1/%d/up/%d", 99+steps, steps-1)})
	}
	if len(seen) < 1000 || steps < 1000/64 {
		t.Errorf("%d topics in %d steps", len(seen), steps)
	}
	for topic, n := range seen {
		if n > 1 {
			t.Errorf("%s came %d times", topic, n)
		}
	}
}

// A retained message is stored while a subscriber is in the middle of a step: the fan-out, which stores it, waits for no
// reader.
func TestRetainWaitsForNoReader(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	retain := func(vin, n int) {
		x.Retain(&message.Record{Topic: fmt.Sprintf("v1/%d/up/%d", vin, n), Payload: []byte("x"), Seq: 1})
	}
	for n := range 10 {
		retain(n, 0)
	}
	var at session.RetainedAt
	found := 0
	x.Retained("v1/+/up/#", &at, 1000, func(*message.Record) {
		if found++; found > 10 {
			return
		}
		stored := make(chan struct{})
		go func() {
			for n := range 100 {
				retain(found-1, 1+n) // in a branch that is read
				retain(100*found+n, 0)
			}
			close(stored)
		}()
		select {
		case <-stored:
		case <-time.After(testPatience):
			t.Fatal("the retained message waits for the reader")
		}
	})
	if found < 10 {
		t.Errorf("%d of 10 messages", found)
	}
	at, found = session.RetainedAt{}, 0
	for more := true; more; {
		more = x.Retained("v1/+/up/#", &at, 64, func(*message.Record) { found++ })
	}
	if found < 10+10*200 {
		t.Errorf("%d messages afterwards", found)
	}
}

// Deep topics are looked up only to the depth of the filters.
func TestDeepTopicsInTheIndex(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	for _, f := range []string{"a/b", "a/b/#", "a/b/c", "#", "+/+/+", "a/+/#"} {
		x.Subscribe(f, session.Subscription{Filter: f}, 0)
	}
	for n, want := range map[int]int{2: 4, 3: 5, 4: 3, 60_000: 3} {
		topic := "a/b"
		if n > 2 {
			topic = levels("a/b/c", n)
		}
		if got := clients(x, topic); len(got) != want {
			t.Errorf("%d levels: %q", n, got)
		}
	}
	x.Subscribe("late", session.Subscription{Filter: "a/b"}, 5)
	got := 0
	for seq := uint64(4); seq < 8; seq++ {
		x.Match(&message.Record{Topic: "a/b", Seq: seq}, func(client string, _ session.Matched) {
			if client == "late" {
				got++
			}
		})
	}
	if got != 2 {
		t.Errorf("a subscription that begins after record 5 gets %d of the records 4 to 7", got)
	}
}

// aheadJournal claims to have records that the fan-out never reaches.
type aheadJournal struct{ Journal }

func (j aheadJournal) Last() uint64 { return j.Journal.Last() + 1000 }

// While the fan-out lags, one SUBSCRIBE waits in full; the others wait only briefly.
func TestSubscribeWhileTheFanoutLags(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Journal = aheadJournal{o.Journal} })
	c := h.connect("lab", "a", 5, mqtt.Connect{})
	if wait := h.b.fanoutWait(); wait != maxFanoutWait {
		t.Errorf("the first waits for up to %v", wait)
	}
	for id := uint16(1); id < 4; id++ {
		c.Send(subscribeFrame(5, id, "a/"+strconv.Itoa(int(id)), 1))
		c.ExpectFrame(0x90, append(puback(id), 0, 1)...)
		if wait := h.b.fanoutWait(); wait != lateFanoutWait {
			t.Errorf("the next one waits for up to %v", wait)
		}
	}
	h.b.fanoutLate.Add(-fanoutLateFor.Milliseconds())
	if wait := h.b.fanoutWait(); wait != maxFanoutWait {
		t.Errorf("later, one waits for up to %v", wait)
	}
}
