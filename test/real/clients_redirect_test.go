//go:build real

package real

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

const (
	serverUnavailable = 0x88
	useAnother        = 0x9C
)

// redirect drains gateway a while every client is connected there as a vehicle and as a service, and then stops it.
// Clients on MQTT 5 are redirected, those on 3.1.1 lose the connection; the vehicles continue at b.
func redirect(t *testing.T, c *cell) {
	vehicles, services, vins := map[string]*running{}, map[string]*running{}, map[string]string{}
	for _, l := range libraries() {
		k := &caller{c, l}
		j := k.vehicle(t)
		vins[l.String()] = j.ClientID
		j.Stay, j.Second, j.Publish = true, c.b.MQTTS, up(j.ClientID, "telemetry", 1, 0, 1)
		j.Subscribe = []subscription{{"v1/" + j.ClientID + "/cmd/#", 1}}
		vehicles[l.String()] = l.start(t, j)
		w := k.watcher()
		w.Stay, w.Subscribe = true, []subscription{{"v1/" + j.ClientID + "/up/#", 1}}
		if !l.silent {
			services[l.String()] = l.start(t, w)
		}
	}
	c.each(t, "connected", "redirect", func(t *testing.T, k *caller) {
		vehicles[k.String()].next(t, "connected")
		vehicles[k.String()].next(t, "published")
		vehicles[k.String()].next(t, "subscribed")
		if !k.silent {
			services[k.String()].next(t, "subscribed")
		}
	})
	status, body, err := c.a.Do(http.MethodPost, "/v1/drain", c.operator, map[string]any{"rate": 100, "endpoint": c.b.MQTTS})
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("drain: %d %s %v", status, body, err)
	}
	c.each(t, "sent away", "redirect", func(t *testing.T, k *caller) { goesOn(t, k, vehicles[k.String()], vins[k.String()]) })
	c.each(t, "newcomer", "redirect", turnedAway)
	check.Within(t, patience, "everything delivered", func() error { return c.a.Settled(c.operator) })
	if err := c.a.Stop(time.Minute); err != nil {
		t.Errorf("gateway a: %v", err)
	}
	c.each(t, "stopped", "stop", func(t *testing.T, k *caller) {
		if k.silent {
			t.Skip("the client says nothing when its server has gone")
		}
		isRedirected(t, k, services[k.String()].next(t, "ended"))
		services[k.String()].rest(t, "ended")
	})
}

// each runs a test for all libraries in parallel and records the results in a column of the table.
func (c *cell) each(t *testing.T, name, column string, test func(*testing.T, *caller)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, l := range libraries() {
			t.Run(l.String(), func(t *testing.T) {
				t.Parallel()
				t.Cleanup(func() {
					if !t.Skipped() {
						c.note(l, column, t.Failed())
					}
				})
				test(t, &caller{c, l})
			})
		}
	})
}

// isRedirected checks a client's report of the server's DISCONNECT.
func isRedirected(t *testing.T, c *caller, e event) {
	t.Helper()
	code, reference := 0, ""
	if c.version == 5 {
		code = useAnother
	}
	if c.reference {
		reference = c.b.MQTTS
	}
	if e.Code != code || e.Reference != reference {
		t.Errorf("ended with 0x%02X and reference %q, want 0x%02X and %q", e.Code, e.Reference, code, reference)
	}
}

// goesOn checks a vehicle that was sent to b: it connects there, publishes, and gets a command.
func goesOn(t *testing.T, c *caller, r *running, vin string) {
	isRedirected(t, c, r.next(t, "ended"))
	if e := r.next(t, "connected"); e.Address != c.b.MQTTS {
		t.Errorf("connected to %s, want %s", e.Address, c.b.MQTTS)
	}
	r.next(t, "published")
	r.next(t, "subscribed")
	id := c.command(t, c.b, vin, "honk")
	c.isCommand(t, r.next(t, "message"), vin, id, "honk")
	c.delivered(t, c.b, vin, id)
	r.done(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved = append(c.moved, vin)
}

// turnedAway connects a vehicle to a draining gateway.
func turnedAway(t *testing.T, c *caller) {
	j := c.vehicle(t)
	j.Subscribe = []subscription{{"v1/" + j.ClientID + "/sys/#", 1}}
	code, reference := 3, ""
	switch {
	case c.version == 5:
		code = useAnother
	case c.codes5:
		code = serverUnavailable
	}
	if c.refusedTo {
		reference = c.b.MQTTS
	}
	r := c.start(t, j)
	if e := r.next(t, "refused"); e.Code != code || e.Reference != reference {
		t.Errorf("refused with 0x%02X and reference %q, want 0x%02X and %q", e.Code, e.Reference, code, reference)
	}
	r.rest(t, "refused")
}

// auditMoved expects one message from each gateway of a vehicle that was redirected.
func (c *cell) auditMoved(t *testing.T, records map[delivery][]harness.Record) {
	t.Helper()
	for _, vin := range c.moved {
		var nodes []string
		for _, r := range records[delivery{"vehicle.telemetry", vin}] {
			nodes = append(nodes, strings.Join(strings.Split(r.Headers["msg-id"], "-")[:2], "-"))
		}
		if got := strings.Join(nodes, " "); got != "gw-a gw-b" {
			t.Errorf("%s went through %q, want one message through each gateway", vin, got)
		}
	}
}
