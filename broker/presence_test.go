package broker

import (
	"sync"
	"testing"

	"cellgate/broker/frame"
	"cellgate/broker/session"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// Presence reports the true reason for every end of a session.
func TestReasonOfAnEnd(t *testing.T) {
	t.Parallel()
	for want, end := range map[session.Reason]func(h *harness, c *client){
		session.ReasonClient:    func(_ *harness, c *client) { c.Send(mqtt.Disconnect()) },
		session.ReasonLost:      func(_ *harness, c *client) { c.Drop() },
		session.ReasonKeepalive: func(*harness, *client) {}, // sends nothing
		session.ReasonTakeover:  func(h *harness, _ *client) { h.connect("cars", testVIN, 5, mqtt.Connect{}) },
		session.ReasonRefused:   func(_ *harness, c *client) { c.Send(mqtt.Frame(mqtt.PUBREL<<4, mqtt.Uint16(1))) }, // reserved flags
		session.ReasonShutdown:  func(h *harness, _ *client) { h.stop() },
		session.ReasonDrain: func(h *harness, _ *client) {
			h.sessions.Disconnect(testVIN, frame.ReasonUseAnotherServer, "", session.ReasonDrain)
		},
		session.ReasonMoved: func(h *harness, _ *client) {
			h.sessions.Disconnect(testVIN, frame.ReasonUseAnotherServer, "elsewhere:8883", session.ReasonMoved)
		},
		session.ReasonAdmin: func(h *harness, _ *client) { h.sessions.Purge(testVIN) },
	} {
		t.Run(string(want), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			var mu sync.Mutex
			var got []session.Reason
			h.sessions.OnPresence(func(p session.Presence) {
				mu.Lock()
				defer mu.Unlock()
				if !p.Connected {
					got = append(got, p.Reason)
				}
			})
			keepalive := uint16(60)
			if want == session.ReasonKeepalive {
				keepalive = 1
			}
			end(h, h.connect("cars", testVIN, 5, mqtt.Connect{Keepalive: keepalive}))
			check.Eventually(t, "the end is told", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(got) > 0
			})
			mu.Lock()
			defer mu.Unlock()
			if got[0] != want {
				t.Errorf("%s, want %s", got[0], want)
			}
		})
	}
}
