package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/session"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// kickAtConnect ends the first connection as soon as it has its session, like a takeover that waited for it.
func (h *harness) kickAtConnect(ended func()) {
	first := true
	h.sessions.OnPresence(func(p session.Presence) {
		if first && p.Connected {
			first = false
			h.sessions.Disconnect(p.Key, frame.ReasonTakenOver, "", session.ReasonTakeover)
			ended()
		}
	})
}

// A connection that ends between Attach and CONNACK releases its session immediately.
func TestKickedBeforeConnack(t *testing.T) {
	t.Parallel()
	h := newHarness(t, tlsListener(newTestCA(t)), func(o *Options) { o.Limits.ConnectTimeout = 3 * time.Second })
	ended := make(chan struct{})
	h.kickAtConnect(func() { close(ended) })
	kicked, err := h.dialTLS(&tls.Config{})
	check.OK(t, err)
	kicked.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
	<-ended
	fresh, err := h.dialTLS(&tls.Config{})
	check.OK(t, err)
	fresh.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
	if code := fresh.Connack(); code != 0 {
		t.Errorf("CONNACK %#x: the kicked connection still holds the session", code)
	}
	if _, _, err := kicked.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("kicked: %v", err)
	}
}

// A WebSocket that is closed between Attach and CONNACK is removed.
func TestKickedWebSocketIsForgotten(t *testing.T) {
	t.Parallel()
	h := newHarness(t, webSocketListener)
	closed := make(chan struct{})
	h.kickAtConnect(func() { <-closed })
	c, err := h.dialWebSocket(nil, nil)
	check.OK(t, err)
	c.Send(connectFrame(testVIN, 4, mqtt.Connect{}))
	if _, _, err := c.ReadFrame(); err == nil {
		t.Error("answered")
	}
	close(closed)
	check.Eventually(t, "the session is free", func() bool { return !h.sessions.Connected(testVIN) })
	check.Eventually(t, "nobody is connected", func() bool { return h.b.Connections() == 0 })
}
