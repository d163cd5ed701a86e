package broker

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

func TestTakeover(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		old := h.connect("cars", testVIN, version, mqtt.Connect{Keep: true})
		topic := "v1/" + testVIN + "/up/telemetry"
		old.Send(publishFrame(version, 1, 1, topic, "old"))
		old.ExpectFrame(0x40, puback(1)...)
		fresh := h.connect("cars", testVIN, version, mqtt.Connect{Keep: true})
		want := byte(0)
		if version == 5 {
			want = frame.ReasonTakenOver
		}
		if reason := old.Ended().Reason; reason != want {
			t.Errorf("old connection: reason %#x", reason)
		}
		fresh.Send(publishFrame(version, 1, 2, topic, "new"))
		fresh.ExpectFrame(0x40, puback(2)...)
		if n := h.b.Connections(); n > 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// stall connects a client that sends requests and never reads an answer. It returns when the server cannot write to it.
func stall(h *harness, keepalive uint16) {
	h.t.Helper()
	c := h.connect("cars", testVIN, 4, mqtt.Connect{Keepalive: keepalive})
	for _, served := range h.b.wheel.all(nil) {
		check.OK(h.t, served.t.Conn.(*net.TCPConn).SetWriteBuffer(4<<10))
	}
	go func() {
		ping := slices.Repeat([]byte{0xC0, 0}, 32<<10)
		for {
			if _, err := c.Conn.Write(ping); err != nil {
				return
			}
		}
	}()
	check.Eventually(h.t, "the server cannot write any more", func() bool {
		for _, c := range h.b.wheel.all(nil) {
			c.mu.Lock()
			stuck := c.writer.since != 0 && c.writer.out != nil && len(c.writer.out.b) > h.b.limits.Load().OutboundBytes
			c.mu.Unlock()
			if stuck {
				return true
			}
		}
		return false
	})
}

// A client that never reads its acknowledgements delays neither its successor nor other clients.
func TestTakeoverOfStalledClient(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.WriteTimeout = time.Hour })
	stall(h, 0)
	other := h.connect("cars", "LTEST000000000002", 4, mqtt.Connect{})
	other.Send(publishFrame(4, 1, 1, "v1/LTEST000000000002/up/x", "x"))
	other.ExpectFrame(0x40, puback(1)...)
	fresh := h.connect("cars", testVIN, 4, mqtt.Connect{})
	fresh.Send(publishFrame(4, 1, 1, "v1/"+testVIN+"/up/x", "x"))
	fresh.ExpectFrame(0x40, puback(1)...)
	for _, c := range h.b.wheel.all(nil) {
		if c.shared.stopping.Load() {
			c.close(false) // as the write timeout does
		}
	}
}

// Token end and keep alive also end a client that reads slowly.
func TestSlowReaderIsHeldToItsLimits(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.WriteTimeout = time.Hour })
	for _, due := range []func(c *conn){
		func(c *conn) { c.shared.endAt.Store(1) },
		func(c *conn) { c.shared.lastRead.Store(c.b.wheel.clock.Load() - c.keepalive) },
	} {
		h.connect("cars", testVIN, 5, mqtt.Connect{Keepalive: 1000})
		c := h.b.wheel.all(nil)[0]
		c.mu.Lock()
		c.writer.since = h.b.wheel.clock.Load() // as during a write
		c.mu.Unlock()
		due(c)
		c.check(h.b.wheel.clock.Load())
		if !c.shared.stopping.Load() {
			t.Error("the connection goes on")
		}
		c.close(false)
		check.Eventually(t, "it is gone", func() bool { return h.b.Connections() == 0 && !h.sessions.Connected(testVIN) })
	}
}

func TestStalledClientIsClosed(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) {
		o.Limits.WriteTimeout, o.Limits.OutboundBytes = time.Hour, 64<<10
	})
	stall(h, 1)
	limits := *h.b.limits.Load()
	limits.WriteTimeout = 300 * time.Millisecond
	h.b.limits.Store(&limits)
	check.Eventually(t, "the connection is closed", func() bool { return h.b.Connections() == 0 })
	if h.rejected("slow_reader") != 1 {
		t.Error("not counted")
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := h.connect("cars", testVIN, version, mqtt.Connect{})
		silent := h.dial("cars")
		var burst []byte
		for id := uint16(1); id <= 50; id++ {
			burst = append(burst, publishFrame(version, 1, id, "v1/"+testVIN+"/up/telemetry", "x")...)
		}
		c.Send(burst)
		check.Eventually(t, "50 records", func() bool { return h.journal.Last() == 50 })
		ctx, cancel := context.WithTimeout(t.Context(), testPatience)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- h.b.Stop(ctx, frame.ReasonUseAnotherServer, "gw-2.example:8883") }()
		for id := uint16(1); id <= 50; id++ {
			c.ExpectFrame(0x40, puback(id)...)
		}
		if version == 5 {
			p := c.Expect(mqtt.DISCONNECT)
			if ref, _ := p.Prop(mqtt.ServerReference); p.Reason != frame.ReasonUseAnotherServer || ref.Value != "gw-2.example:8883" {
				t.Errorf("%v %q", p, ref.Value)
			}
		}
		c.Ended()
		silent.Ended()
		check.OK(t, <-done)
		if _, err := net.DialTimeout("tcp", h.b.Addrs()["cars"].String(), time.Second); err == nil {
			t.Error("the port is still open")
		}
	})
}

func TestRejectedByAdmit(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) {
		o.Admit = func(id *auth.Identity, _ string) (byte, string) {
			if id.Subject == testVIN {
				return frame.ReasonServerMoved, "gw-9:8883"
			}
			return 0, ""
		}
	})
	c := h.dial("cars")
	c.Version = 5
	c.Send(connectFrame(testVIN, 5, mqtt.Connect{}))
	p := c.Expect(mqtt.CONNACK)
	if ref, _ := p.Prop(mqtt.ServerReference); p.Reason != frame.ReasonServerMoved || ref.Value != "gw-9:8883" {
		t.Errorf("%v %q", p, ref.Value)
	}
	c = h.dial("cars")
	c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
	c.ExpectFrame(0x20, 0, 3)
	h.connect("cars", "LTEST000000000002", 4, mqtt.Connect{})
}

func TestCaps(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.MaxConnections = 2 })
	h.connect("cars", testVIN, 5, mqtt.Connect{})
	h.connect("cars", "LTEST000000000002", 5, mqtt.Connect{})
	c := h.dial("cars")
	c.Send(connectFrame("LTEST000000000003", 5, mqtt.Connect{}))
	if code := c.Connack(); code != frame.ReasonQuotaExceeded {
		t.Errorf("CONNACK %#x", code)
	}
	h.connect("cars", testVIN, 5, mqtt.Connect{}) // a connected client may reconnect
	h = newHarness(t, func(o *Options) { o.Limits.ConnectionsPerAddress = 1 })
	h.connect("cars", testVIN, 4, mqtt.Connect{}).Send([]byte{0xE0, 0})
	connects := func() bool {
		c, err := net.Dial("tcp", h.b.Addrs()["cars"].String())
		if err != nil {
			return false
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = c.Write(connectFrame("LTEST000000000002", 4, mqtt.Connect{}))
		_ = c.SetReadDeadline(time.Now().Add(testPatience))
		_, err = c.Read(make([]byte, 4))
		return err == nil
	}
	check.Eventually(t, "the address is free again", connects)
	if connects() {
		t.Error("a second connection of the address")
	}
	if h.rejected("connections_per_address") == 0 {
		t.Error("not counted")
	}
	h = newHarness(t, func(o *Options) { o.Limits.ConnectRate = 2 })
	for range 10 {
		_, _ = net.Dial("tcp", h.b.Addrs()["cars"].String())
	}
	check.Eventually(t, "connections over the rate are refused", func() bool { return h.rejected("connect_rate") >= 7 })
}

// Silent sockets give way to new ones, and never exceed the limit.
func TestHandshakeEviction(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.Handshakes = 5 })
	for range 8 {
		h.dial("cars")
	}
	h.connect("cars", testVIN, 4, mqtt.Connect{})
	if n := testutil.ToFloat64(h.metrics.handshakes); n > 5 {
		t.Errorf("%v handshakes", n)
	}
	if h.rejected("handshakes") == 0 {
		t.Error("nobody was evicted")
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.ConnectTimeout = 100 * time.Millisecond })
	c := h.dial("cars")
	c.Send([]byte{0x10})
	c.Ended()
	if h.rejected("connect_timeout") != 1 {
		t.Error("not counted")
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.MessagesPerSecond = 20 })
	c := h.connect("cars", testVIN, 4, mqtt.Connect{Keepalive: 1})
	start := time.Now()
	var burst []byte
	for id := uint16(1); id <= 60; id++ {
		burst = append(burst, publishFrame(4, 1, id, "v1/"+testVIN+"/up/x", "x")...)
	}
	c.Send(burst)
	for id := uint16(1); id <= 60; id++ {
		c.ExpectFrame(0x40, puback(id)...)
	}
	c.Send(publishFrame(4, 1, 61, "v1/"+testVIN+"/up/x", "x"))
	c.ExpectFrame(0x40, puback(61)...)
	if took := time.Since(start); took < 1800*time.Millisecond {
		t.Errorf("61 messages at 20 per second, with a burst of 20, in %v", took)
	}
}

func TestQuotaTake(t *testing.T) {
	t.Parallel()
	var q quota
	const now = int64(1e18)
	if wait := q.take(now, 10, 0, nanosPer(10), 0); wait != 0 {
		t.Errorf("a burst of one second waits %v", wait)
	}
	if wait := q.take(now, 5, 0, nanosPer(10), 0); wait != 500*time.Millisecond {
		t.Errorf("half a second more waits %v", wait)
	}
	if wait := q.take(now+2*int64(time.Second), 1, 100, nanosPer(10), nanosPer(10)); wait != 9*time.Second {
		t.Errorf("100 bytes at 10 per second wait %v", wait)
	}
	if wait := q.take(now, 1000, 1000, nanosPer(0), nanosPer(0)); wait != 0 {
		t.Errorf("without limits %v", wait)
	}
}

// fullJournal is full until it is opened.
type fullJournal struct {
	Journal
	open chan struct{}
}

func (j fullJournal) Append(recs []message.Record, w journal.Waiter) (uint64, error) {
	select {
	case <-j.open:
		return j.Journal.Append(recs, w)
	default:
		return 0, journal.ErrFull
	}
}

func (j fullJournal) WaitRoom(ctx context.Context) error {
	select {
	case <-j.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// While the journal is full, nothing is acknowledged, QoS 0 is dropped and counted, and no client times out.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		open := make(chan struct{})
		h := newHarness(t, func(o *Options) { o.Journal = fullJournal{o.Journal, open} })
		topic := "v1/" + testVIN + "/up/x"
		c := h.connect("cars", testVIN, version, mqtt.Connect{Keepalive: 1})
		c.Send(publishFrame(version, 0, 0, topic, "a"), publishFrame(version, 1, 1, topic, "b"), publishFrame(version, 0, 0, topic, "c"),
			publishFrame(version, 2, 2, topic, "d"), publishFrame(version, 1, 3, "v1/other/up/x", "e"))
		check.Eventually(t, "QoS 0 is dropped", func() bool { return h.rejected("journal_full_qos0") == 2 })
		c.Quiet(2500 * time.Millisecond) // longer than the keep alive
		close(open)
		c.ExpectFrame(0x40, puback(1)...)
		c.ExpectFrame(0x50, puback(2)...)
		if recs := h.records(2); string(recs[0].Payload) != "b" || string(recs[1].Payload) != "d" {
			t.Errorf("%+v", recs)
		}
		if version == 5 {
			c.ExpectAck(mqtt.PUBACK, 3, 0x87)
		}
	})
}

// While room is short, QoS 0 is dropped and counted; everything else continues.
func TestShed(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		var short atomic.Bool
		h := newHarness(t, func(o *Options) { o.Shed = short.Load })
		topic := "v1/" + testVIN + "/up/x"
		c := h.connect("cars", testVIN, version, mqtt.Connect{})
		c.Send(publishFrame(version, 0, 0, topic, "a"), publishFrame(version, 1, 1, topic, "b"))
		c.ExpectFrame(0x40, puback(1)...)
		short.Store(true)
		c.Send(publishFrame(version, 0, 0, topic, "c"), publishFrame(version, 1, 2, topic, "d"), publishFrame(version, 0, 0, topic, "e"),
			publishFrame(version, 2, 3, topic, "f"))
		c.ExpectFrame(0x40, puback(2)...)
		c.ExpectFrame(0x50, puback(3)...)
		short.Store(false)
		c.Send(publishFrame(version, 0, 0, topic, "g"), publishFrame(version, 1, 4, topic, "h"))
		c.ExpectFrame(0x40, puback(4)...)
		kept := ""
		for _, r := range h.records(6) {
			kept += string(r.Payload)
		}
		if n := h.rejected("journal_full_qos0"); n != 2 || h.b.DroppedQoS0() != 2 || kept != "abdfgh" {
			t.Errorf("%v counted, %d told, kept %q", n, h.b.DroppedQoS0(), kept)
		}
		if n := testutil.ToFloat64(h.metrics.received.WithLabelValues("other", "0")); n != 2 {
			t.Errorf("%v messages of QoS 0 counted as received", n)
		}
	})
}

// brokenJournal fails every append.
type brokenJournal struct{ Journal }

func (brokenJournal) Append([]message.Record, journal.Waiter) (uint64, error) {
	return 0, errors.New("disk on fire")
}

// No error path acknowledges, and a message that was not journaled does not count as repeated later.
func TestBrokenJournal(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		for _, qos := range []byte{1, 2} {
			h := newHarness(t, func(o *Options) { o.Journal = brokenJournal{o.Journal} })
			c := h.connect("cars", testVIN, version, mqtt.Connect{})
			c.Send(publishFrame(version, qos, 1, "v1/"+testVIN+"/up/x", "x"))
			first, body, err := c.ReadFrame()
			if err == nil && (version == 4 || first != 0xE0 || body[0] != frame.ReasonServerUnavailable) {
				t.Errorf("QoS %d: answered %#x % x", qos, first, body)
			}
			c.Ended()
		}
	})
}

func TestPanicCostsOneConnection(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) {
		o.Ack = func(rec *message.Record) AckMode {
			if string(rec.Payload) == "boom" {
				panic("boom")
			}
			return AckMemory
		}
	})
	other := h.connect("cars", "LTEST000000000002", 4, mqtt.Connect{})
	c := h.connect("cars", testVIN, 5, mqtt.Connect{})
	c.Send(publishFrame(5, 1, 1, "v1/"+testVIN+"/up/x", "boom"))
	if reason := c.Ended().Reason; reason != frame.ReasonUnspecified {
		t.Errorf("reason %#x", reason)
	}
	other.Send(publishFrame(4, 1, 1, "v1/LTEST000000000002/up/x", "x"))
	other.ExpectFrame(0x40, puback(1)...)
	if n := testutil.ToFloat64(h.metrics.panics); n != 1 {
		t.Errorf("%v panics counted", n)
	}
	check.Eventually(t, "one connection is left", func() bool { return h.b.Connections() == 1 })
	h.connect("cars", testVIN, 5, mqtt.Connect{})
}

// settlement is a Settlement that the test drives: records in missing are not in Kafka.
type settlement struct {
	asked chan SettlementWaiter

	mu      sync.Mutex
	missing map[uint64]bool
}

func newSettlement(missing ...uint64) *settlement {
	s := &settlement{asked: make(chan SettlementWaiter, 10), missing: map[uint64]bool{}}
	for _, seq := range missing {
		s.missing[seq] = true
	}
	return s
}

func (s *settlement) Settled(seq uint64, w SettlementWaiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing[seq] {
		s.asked <- w
	}
	return !s.missing[seq]
}

func (s *settlement) settle(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.missing, seq)
}

// waits checks that nothing arrives before the answer to a PINGREQ.
func waits(c *client) {
	c.Send(mqtt.Pingreq())
	c.ExpectFrame(0xD0)
}

func TestAckModes(t *testing.T) {
	t.Parallel()
	gate, kafka := make(chan struct{}), newSettlement(2)
	h := newHarness(t, func(o *Options) {
		o.Journal, o.Settlement = stuckJournal{o.Journal, gate}, kafka
		o.Ack = func(rec *message.Record) AckMode { return AckMode(rec.Payload[0] - '0') }
	})
	topic := "v1/" + testVIN + "/up/x"
	c := h.connect("cars", testVIN, 4, mqtt.Connect{})
	c.Send(publishFrame(4, 1, 1, topic, "2")) // acknowledged on receipt
	c.ExpectFrame(0x40, puback(1)...)
	c.Send(publishFrame(4, 1, 2, topic, "1"), publishFrame(4, 1, 3, topic, "2")) // acknowledged by Kafka, then on receipt
	waits(c)
	close(gate)
	w := <-kafka.asked
	waits(c)
	w.Settled() // the connection asks again
	<-kafka.asked
	waits(c)
	kafka.settle(2)
	w.Settled()
	c.ExpectFrame(0x40, puback(2)...)
	c.ExpectFrame(0x40, puback(3)...)
}

// A QoS 2 PUBLISH that is repeated before Kafka has its message waits for that message, even if Kafka has later ones.
func TestRepeatWaitsForKafka(t *testing.T) {
	t.Parallel()
	kafka := newSettlement(1)
	h := newHarness(t, func(o *Options) {
		o.Settlement, o.Ack = kafka, func(*message.Record) AckMode { return AckKafka }
	})
	topic := "v1/" + testVIN + "/up/x"
	c := h.connect("cars", testVIN, 4, mqtt.Connect{Keep: true})
	c.Send(publishFrame(4, 2, 7, topic, "x"))
	<-kafka.asked
	_ = c.Conn.Close()
	check.Eventually(t, "the connection is gone", func() bool { return h.b.Connections() == 0 })
	other := h.connect("cars", "LTEST000000000002", 4, mqtt.Connect{})
	other.Send(publishFrame(4, 1, 1, "v1/LTEST000000000002/up/x", "x"))
	other.ExpectFrame(0x40, puback(1)...)
	c = h.connect("cars", testVIN, 4, mqtt.Connect{Keep: true})
	again := publishFrame(4, 2, 7, topic, "x")
	again[0] |= 8 // DUP
	c.Send(again)
	w := <-kafka.asked
	waits(c)
	kafka.settle(1)
	w.Settled()
	c.ExpectFrame(0x50, puback(7)...)
	if n := h.journal.Last(); n != 2 {
		t.Errorf("%d records", n)
	}
}
