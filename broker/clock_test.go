package broker

import (
	"sync"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// wallClock is a wall clock that the test sets.
type wallClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (w *wallClock) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

func (w *wallClock) step(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

// clockHarness returns a harness whose broker and authority use a wallClock, with a leeway of 2 s.
func clockHarness(t *testing.T) (*harness, *wallClock, *auth.Authority) {
	t.Helper()
	w := &wallClock{}
	c := authConfig(t.TempDir())
	c.Now, c.Leeway = w.Now, 2*time.Second
	a, err := auth.Open(c)
	check.OK(t, err)
	h := newHarness(t, func(o *Options) { o.Auth, o.Now = a, w.Now })
	t.Cleanup(func() {
		h.stop()
		check.Ended(t, a.Close)
	})
	return h, w, a
}

func issueVehicle(t *testing.T, a *auth.Authority, vin string, ttl time.Duration) string {
	t.Helper()
	token, _, err := a.Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle, TTL: ttl})
	check.OK(t, err)
	return token
}

// TestClockAnHourAhead checks that a clock that jumps an hour ahead immediately ends the connections with tokens that
// are then expired, and no others: keep alive and quotas do not follow the wall clock. After it is set right, both
// clients can connect.
func TestClockAnHourAhead(t *testing.T) {
	t.Parallel()
	h, w, a := clockHarness(t)
	short, long := issueVehicle(t, a, testVIN, 30*time.Minute), issueVehicle(t, a, "LTEST000000000002", 3*time.Hour)
	overtaken := h.connect("tokens", testVIN, 5, mqtt.Connect{Password: short, Keepalive: 30})
	stays := h.connect("tokens", "LTEST000000000002", 5, mqtt.Connect{Password: long, Keepalive: 30})

	w.step(time.Hour)
	if reason := overtaken.Ended().Reason; reason != frame.ReasonNotAuthorized {
		t.Errorf("reason %#x", reason)
	}
	stays.Send(publishFrame(5, 1, 1, "v1/LTEST000000000002/up/telemetry", "x"))
	stays.ExpectFrame(0x40, puback(1)...)
	again := h.dial("tokens")
	again.Version = 5
	again.Send(connectFrame(testVIN, 5, mqtt.Connect{Password: short}))
	if code := again.Connack(); code != frame.ReasonBadCredentials {
		t.Errorf("expired token: CONNACK %#x", code)
	}

	w.step(-time.Hour)
	stays.Send(publishFrame(5, 1, 2, "v1/LTEST000000000002/up/telemetry", "x"))
	stays.ExpectFrame(0x40, puback(2)...)
	h.connect("tokens", testVIN, 5, mqtt.Connect{Password: short})
}

// TestClockAnHourBehind checks that a clock that falls back neither stalls connections nor suspends keep alive. A token
// that becomes valid later than the leeway is refused. When the clock is set right, tokens that expired meanwhile end
// their connections.
func TestClockAnHourBehind(t *testing.T) {
	t.Parallel()
	h, w, a := clockHarness(t)
	token := issueVehicle(t, a, testVIN, 10*time.Minute)
	c := h.connect("tokens", testVIN, 5, mqtt.Connect{Password: token, Keepalive: 30})
	silent := h.connect("tokens", "LTEST000000000002", 5, mqtt.Connect{Password: issueVehicle(t, a, "LTEST000000000002", time.Hour), Keepalive: 1})

	w.step(-time.Hour)
	c.Send(publishFrame(5, 1, 1, "v1/"+testVIN+"/up/telemetry", "x"))
	c.ExpectFrame(0x40, puback(1)...)
	if reason := silent.Ended().Reason; reason != frame.ReasonKeepaliveTimeout {
		t.Errorf("silent client: reason %#x", reason)
	}
	early := h.dial("tokens")
	early.Version = 5
	early.Send(connectFrame("LTEST000000000003", 5, mqtt.Connect{Password: h.tokenAt(t, a, w, time.Hour)}))
	if code := early.Connack(); code != frame.ReasonBadCredentials {
		t.Errorf("token of the future: CONNACK %#x", code)
	}

	w.step(time.Hour + 11*time.Minute)
	if reason := c.Ended().Reason; reason != frame.ReasonNotAuthorized {
		t.Errorf("reason %#x", reason)
	}
}

// tokenAt issues a token for the third vehicle with the clock set ahead.
func (h *harness) tokenAt(t *testing.T, a *auth.Authority, w *wallClock, ahead time.Duration) string {
	t.Helper()
	w.step(ahead)
	defer w.step(-ahead)
	return issueVehicle(t, a, "LTEST000000000003", time.Hour)
}

// TestAssignedClientID checks that a role with AssignedClientID also works with a token, and that the role cannot
// connect under a VIN.
func TestAssignedClientID(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	token, _, err := h.auth.Issue(auth.IssueRequest{Subject: "bench", Role: "lab"})
	check.OK(t, err)
	for _, listener := range []string{"tokens", "lab"} {
		h.connect(listener, "", 5, mqtt.Connect{User: "anything", Password: token})
		c := h.dial(listener)
		c.Version = 5
		c.Send(connectFrame("1M8GDM9AXKP042788", 5, mqtt.Connect{Password: token}))
		if code := c.Connack(); code == 0 {
			t.Errorf("%s: the role lab was let in under a VIN", listener)
		}
	}
}
