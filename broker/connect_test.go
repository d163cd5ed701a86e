package broker

import (
	"encoding/binary"
	"net/netip"
	"slices"
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

func TestConnectRefusals(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	other := "LTEST000000000002"
	good := h.token(testVIN)
	service, _, err := h.auth.Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{"telemetry:read"}, TTL: time.Hour})
	check.OK(t, err)
	willTo := func(topic string) *mqtt.Will { return &mqtt.Will{Topic: topic, Payload: "gone"} }
	tests := []struct {
		name   string
		id     string
		o      func(version byte) mqtt.Connect
		v4, v5 byte
	}{
		{"good", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{User: testVIN, Password: good} }, 0, 0},
		{"no token", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{User: testVIN} }, 4, 0x86},
		{"no credentials", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{} }, 4, 0x86},
		{"bad token", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{User: testVIN, Password: "x.y.z"} }, 4, 0x86},
		{"truncated token", testVIN, func(byte) mqtt.Connect {
			return mqtt.Connect{User: testVIN, Password: good[:len(good)-2]}
		}, 4, 0x86},
		{"another VIN's token", other, func(byte) mqtt.Connect { return mqtt.Connect{User: other, Password: good} }, 5, 0x87},
		{"another VIN as user", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{User: other, Password: good} }, 4, 0x86},
		{"vehicle without id", "", func(byte) mqtt.Connect { return mqtt.Connect{User: testVIN, Password: good} }, 2, 0x85},
		{"service", "billing/1", func(byte) mqtt.Connect { return mqtt.Connect{User: "billing", Password: service} }, 0, 0},
		{"service as VIN", testVIN, func(byte) mqtt.Connect { return mqtt.Connect{User: testVIN, Password: service} }, 5, 0x87},
		{"service as another", "other", func(byte) mqtt.Connect { return mqtt.Connect{User: "billing", Password: service} }, 5, 0x87},
		{"own will", testVIN, func(v byte) mqtt.Connect {
			return mqtt.Connect{User: testVIN, Password: good, Will: willTo("v1/" + testVIN + "/up/gone")}
		}, 0, 0},
		{"another's will", testVIN, func(v byte) mqtt.Connect {
			return mqtt.Connect{User: testVIN, Password: good, Will: willTo("v1/" + other + "/up/gone")}
		}, 5, 0x87},
	}
	for _, tt := range tests {
		for version, want := range map[byte]byte{4: tt.v4, 5: tt.v5} {
			c := h.dial("tokens")
			c.Send(connectFrame(tt.id, version, tt.o(version)))
			if got := c.Connack(); got != want {
				t.Errorf("%s, version %d: CONNACK %#x, want %#x", tt.name, version, got, want)
			}
			if want != 0 {
				c.Ended()
			}
		}
	}
	if logs := h.logs.String(); strings.Contains(logs, good) || strings.Contains(logs, service) {
		t.Error("a token is in the log")
	}
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

func TestExpiredToken(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) {
		o.Auth = clockedAuth{o.Auth.(*auth.Authority), time.Now().Add(2 * time.Hour)}
	})
	c := h.dial("tokens")
	c.Send(connectFrame(testVIN, 5, mqtt.Connect{User: testVIN, Password: h.token(testVIN)}))
	if got := c.Connack(); got != frame.ReasonBadCredentials {
		t.Errorf("CONNACK %#x", got)
	}
}

// clockedAuth verifies tokens as of a later time.
type clockedAuth struct {
	*auth.Authority
	now time.Time
}

func (a clockedAuth) Verify(token []byte, peer auth.Peer) (auth.Identity, error) {
	id, err := a.Authority.Verify(token, peer)
	if err == nil && id.Expires.Before(a.now) {
		return id, auth.ErrExpired
	}
	return id, err
}

func TestConnackProperties(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Limits.MaxKeepalive = time.Minute; o.Limits.Window = 20 })
	c := h.dial("lab")
	c.Send(connectFrame("", 5, mqtt.Connect{Keepalive: 600}))
	first, body, err := c.ReadFrame()
	check.OK(t, err)
	if first != 0x20 || body[1] != 0 {
		t.Fatalf("%#x % x", first, body)
	}
	props := string(body[2:])
	for name, want := range map[string]string{
		"receive maximum": "\x21\x00\x14", "maximum packet": "\x27\x00\x04\x00\x00", "alias maximum": "\x22\x00\x10",
		"server keep alive": "\x13\x00\x3c", "assigned client id": "\x12\x00",
	} {
		if !strings.Contains(props, want) {
			t.Errorf("no %s in % x", name, props)
		}
	}
	c = h.dial("cars")
	c.Send(connectFrame(testVIN, 5, mqtt.Connect{Keepalive: 30, Props: [][]byte{{0x11, 0xff, 0xff, 0xff, 0xff, 0x19, 1}}}))
	_, body, err = c.ReadFrame()
	check.OK(t, err)
	props = string(body[2:])
	if strings.Contains(props, "\x13\x00") {
		t.Errorf("server keep alive although the client's is taken: % x", props)
	}
	if !strings.Contains(props, "\x11\x00\x09\x3a\x80") { // 7 days, the manager's limit
		t.Errorf("no session expiry in % x", props)
	}
	if !strings.Contains(props, "\x1a") || !strings.Contains(props, "v1/"+testVIN+"/") {
		t.Errorf("no response information in % x", props)
	}
}

func TestConnectViolations(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	legal := connectFrame("x", 4, mqtt.Connect{})
	tests := []struct {
		name   string
		send   []byte
		answer []byte // nil: closed without an answer
	}{
		{"publish first", publishFrame(4, 0, 0, "a", "x"), nil},
		{"ping first", []byte{0xC0, 0}, nil},
		{"http", []byte("GET / HTTP/1.1\r\n\r\n"), nil},
		{"reserved flags", append([]byte{0x11}, legal[1:]...), nil},
		{"version 3", mqtt.Frame(0x10, slices.Concat(mqtt.Text("MQIsdp"), []byte{3, 2, 0, 0}, mqtt.Text("x"))), []byte{0, 1}},
		{"version 6", mqtt.Frame(0x10, slices.Concat(mqtt.Text("MQTT"), []byte{6, 2, 0, 0}, mqtt.Text("x"))), []byte{0, 1}},
		{"other protocol", mqtt.Frame(0x10, slices.Concat(mqtt.Text("MQTX"), []byte{4, 2, 0, 0}, mqtt.Text("x"))), nil},
		{"reserved connect flag", mqtt.Frame(0x10, slices.Concat(mqtt.Text("MQTT"), []byte{4, 3, 0, 0}, mqtt.Text("x"))), nil},
		{"reserved connect flag on 5", mqtt.Frame(0x10, slices.Concat(mqtt.Text("MQTT"), []byte{5, 3, 0, 0, 0}, mqtt.Text("x"))), []byte{0, 0x81}},
		{"unknown method", connectFrame("x", 5, mqtt.Connect{Props: authProps("SCRAM", "x")}), []byte{0, 0x8C}},
		{"empty id, session kept", connectFrame("", 4, mqtt.Connect{Keep: true}), []byte{0, 2}},
		{"17 KiB", []byte{0x10, 0x80, 0x88, 0x01}, nil},
		{"256 MiB", []byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}, nil},
		{"length of five bytes", []byte{0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, nil},
	}
	for _, tt := range tests {
		c := h.dial("lab")
		c.Send(tt.send)
		first, body, err := c.ReadFrame()
		switch {
		case tt.answer == nil && err == nil:
			t.Errorf("%s: answered %#x % x", tt.name, first, body)
		case tt.answer != nil && (err != nil || !slices.Equal(body[:2], tt.answer)):
			t.Errorf("%s: answered % x, %v, want % x", tt.name, body, err, tt.answer)
		}
		if err == nil {
			c.Ended()
		}
	}
}

func TestNothingAfterDisconnect(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	c := h.connect("cars", testVIN, 4, mqtt.Connect{})
	topic := "v1/" + testVIN + "/up/telemetry"
	c.Send(publishFrame(4, 1, 1, topic, "x"), []byte{0xE0, 0}, publishFrame(4, 1, 2, topic, "y"))
	c.ExpectFrame(0x40, puback(1)...)
	c.Ended()
	if last := h.journal.Last(); last != 1 {
		t.Errorf("%d records, want 1", last)
	}
}

func TestEnhancedAuthentication(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	c := h.connect("tokens", testVIN, 5, mqtt.Connect{Props: authProps("CELL-JWT", h.token(testVIN))})
	fresh := slices.Concat([]byte{0x19}, mqtt.Properties(authProps("CELL-JWT", h.token(testVIN))...))
	c.Send(mqtt.Frame(0xF0, fresh))
	c.ExpectFrame(0xF0, slices.Concat([]byte{0, 11, 0x15}, mqtt.Text("CELL-JWT"))...)
	other := slices.Concat([]byte{0x19}, mqtt.Properties(authProps("CELL-JWT", h.token("LTEST000000000002"))...))
	c.Send(mqtt.Frame(0xF0, other))
	if reason := c.Ended().Reason; reason != frame.ReasonNotAuthorized {
		t.Errorf("another's token: reason %#x", reason)
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
		h := newHarness(t, func(o *Options) { o.Limits.ExpiringNotice = time.Minute })
		token, id, err := h.auth.Issue(auth.IssueRequest{Subject: testVIN, Role: auth.RoleVehicle, TTL: 4 * time.Second})
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

func TestRevoked(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	c := vehicle(h, 5)
	_, err := h.auth.Revoke(auth.Revocation{Subject: testVIN}, auth.Caller{})
	check.OK(t, err)
	if reason := c.Ended().Reason; reason != frame.ReasonNotAuthorized {
		t.Errorf("reason %#x", reason)
	}
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
