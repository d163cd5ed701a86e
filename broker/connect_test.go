package broker

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

func authProps(method, data string) [][]byte {
	return [][]byte{mqtt.String(mqtt.AuthMethod, method), mqtt.String(mqtt.AuthData, data)}
}

// After a refresh the connection is checked when the notice about the new token's end is due, not only at its end or when
// the wheel has gone round.
func TestRefreshSchedulesTheNotice(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.connect("tokens", testVIN, 5, mqtt.Connect{User: testVIN, Password: h.token(testVIN)})
	_, id, err := h.auth.Issue(auth.IssueRequest{Subject: testVIN, Role: auth.RoleVehicle, TTL: time.Minute})
	check.OK(t, err)
	served := h.b.wheel.all(nil)[0]
	h.b.wheel.mu.Lock()
	h.b.wheel.unlinkLocked(served)
	h.b.wheel.addLocked(served, (wheelSlots-1)*wheelTick)
	h.b.wheel.mu.Unlock()
	served.assume(id)
	h.b.wheel.mu.Lock()
	defer h.b.wheel.mu.Unlock()
	left := (served.place.slot - h.b.wheel.at + wheelSlots) % wheelSlots
	if due := time.Duration(left) * wheelTick; served.shared.noticeAt.Load() != 0 && due > time.Second+wheelTick {
		t.Errorf("checked only in %v, the notice is due within a second", due)
	}
}

func TestTokenRefresh(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := vehicle(h, version)
		topic := "v1/" + testVIN + "/token"
		c.Send(publishFrame(version, 1, 1, topic, h.token(testVIN)))
		c.ExpectFrame(0x40, puback(1)...)
		c.Send(publishFrame(version, 2, 2, topic, h.token(testVIN)))
		c.ExpectFrame(0x50, puback(2)...)
		c.Send(frame.AppendAck(nil, frame.TypePubrel, 2, 0, version))
		c.ExpectFrame(0x70, puback(2)...)
		c.Send(publishFrame(version, 1, 3, topic, "nonsense"))
		if version == 5 {
			c.ExpectAck(mqtt.PUBACK, 3, 0x87)
			c.Send(publishFrame(version, 1, 4, topic, h.token("LTEST000000000002")))
			if reason := c.Ended().Reason; reason != frame.ReasonNotAuthorized {
				t.Errorf("another's token: reason %#x", reason)
			}
		} else {
			c.Ended()
		}
		for _, r := range h.records(1) {
			if r.Kind == message.KindPublish {
				t.Errorf("a token was journaled: %s", r.Topic)
			}
		}
	})
}

func TestTokenEnd(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t, func(o *Options) { o.Limits.ExpiringNotice = 2 * time.Second })
		token, id, err := h.auth.Issue(auth.IssueRequest{Subject: testVIN, Role: auth.RoleVehicle, TTL: 10 * time.Second}) // time to subscribe
		check.OK(t, err)
		c := h.connect("tokens", testVIN, version, mqtt.Connect{User: testVIN, Password: token})
		if end := time.UnixMilli(h.b.wheel.all(nil)[0].shared.endAt.Load()); end.After(id.Expires.Add(-wheelTick)) {
			t.Errorf("the connection ends at %v: looked at once a tick, it outlives its token, which ends at %v", end, id.Expires)
		}
		c.Send(subscribeFrame(version, 1, "v1/"+testVIN+"/sys/#", 1))
		c.ExpectFrame(0x90)
		first, body, err := c.ReadFrame()
		if err != nil || first>>4 != 3 || !strings.Contains(string(body), "sys/token-expiring") {
			t.Errorf("no notice but %#x % x, %v", first, body, err)
		}
		want := byte(0)
		if version == 5 {
			want = frame.ReasonNotAuthorized
		}
		if reason := c.Ended().Reason; reason != want {
			t.Errorf("reason %#x", reason)
		}
	})
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := &Broker{now: func() time.Time { return now }}
	b.limits.Store(&Limits{ExpiringNotice: time.Minute, ExpiryJitter: 30 * time.Second})
	for _, left := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour} {
		for range 100 {
			end, notice := b.schedule(now.Add(left))
			if end > now.Add(left).UnixMilli() || end < now.Add(left-left/jitterShare-wheelTick-time.Millisecond).UnixMilli() {
				t.Fatalf("token with %v left ends in %v", left, time.UnixMilli(end).Sub(now))
			}
			if notice > end && left > time.Second {
				t.Fatalf("notice after the end for %v", left)
			}
		}
	}
	if end, notice := b.schedule(time.Time{}); end != 0 || notice != 0 {
		t.Error("an end for a token without")
	}
}

func TestReceiveMaximum(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHarness(t, func(o *Options) { o.Limits.Window = 8; o.Journal = stuckJournal{o.Journal, gate} })
	topic := "v1/" + testVIN + "/up/telemetry"
	burst := func(version byte) (b []byte) {
		for id := uint16(1); id <= 9; id++ {
			b = append(b, publishFrame(version, 1, id, topic, "x")...)
		}
		return b
	}
	c := h.connect("cars", testVIN, 5, mqtt.Connect{})
	c.Send(burst(5))
	if reason := c.Ended().Reason; reason != frame.ReasonReceiveMaximum {
		t.Errorf("on 5: reason %#x", reason)
	}
	c = h.connect("cars", testVIN, 4, mqtt.Connect{})
	c.Send(burst(4), []byte{0xC0, 0})
	check.Eventually(t, "8 records of the 3.1.1 client", func() bool { return h.journal.Last() == 16 })
	close(gate)
	for id := uint16(1); id <= 9; id++ {
		for {
			first, body, err := c.ReadFrame()
			check.OK(t, err)
			if first == 0x40 {
				if got := binary.BigEndian.Uint16(body); got != id {
					t.Fatalf("PUBACK %d, want %d", got, id)
				}
				break
			}
		}
	}
}

// A flood from one address leaves others their share of the connect rate.
func TestFloodLeavesRoom(t *testing.T) {
	t.Parallel()
	a, limits := newAdmission(nil), &Limits{ConnectRate: 100}
	flood, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	now := time.Unix(1_700_000_000, 0)
	taken := map[netip.Addr]int{}
	try := func(addr netip.Addr) {
		if a.admit(addr, limits, now) == "" {
			taken[addr]++
		}
	}
	for tick := range 1000 { // 10 s: 1,000 a second from one address, 20 from the other
		now = now.Add(10 * time.Millisecond)
		for range 10 {
			try(flood)
		}
		if tick%5 == 0 {
			try(other)
		}
	}
	if taken[other] != 200 {
		t.Errorf("%d of 200 others were taken", taken[other])
	}
	if n := taken[flood] + taken[other]; n < 950 || n > 1100 {
		t.Errorf("%d were taken at 100 a second for 10 s", n)
	}
}
