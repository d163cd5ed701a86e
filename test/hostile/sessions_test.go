package hostile

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/mqtt"
)

// TestSessionsLeftBehind has one service open as many sessions as it can, each subscribed to all telemetry, and abandon
// them, while vehicles publish at full rate. Commands must not be affected.
func TestSessionsLeftBehind(t *testing.T) {
	t.Parallel()
	sessions := 300
	if full() {
		sessions = 3000
	}
	var tried, left atomic.Int64
	attackUntilDone(t, attackPlan{
		commands: true,
		attack: func(ctx context.Context, t *testing.T, c *cell) {
			token := c.Cellgate("token", "issue", "--config", c.Config, "--service", "billing", "--scope", "telemetry:read")
			go publishWithoutEnd(ctx, c, "EVIL1", "v1/EVIL1/up/x")
			go publishWithoutEnd(ctx, c, "EVIL2", "v1/EVIL2/up/x")
			for i := 0; ctx.Err() == nil; i++ {
				if i >= sessions { // keeps trying: /readyz reports recent refusals
					time.Sleep(time.Second)
				}
				if leaveSession(t, c, fmt.Sprintf("billing/%d", i), token) {
					left.Add(1)
				}
				tried.Add(1)
			}
		},
		until: func(*testing.T, *cell) error {
			if n := tried.Load(); n < int64(sessions) {
				return fmt.Errorf("%d of %d sessions were tried", n, sessions)
			}
			return nil
		},
		afterwards: func(t *testing.T, c *cell) {
			t.Logf("%d of %d sessions were taken", left.Load(), tried.Load())
			if n := left.Load(); n == 0 || n > 100 {
				t.Errorf("%d sessions of one subject", n)
			}
			_, ready, err := c.Get("/readyz", "")
			if err != nil || !strings.Contains(string(ready), "subject_sessions") {
				t.Errorf("/readyz does not tell: %s %v", ready, err)
			}
			if n := metric(t, c.Gateway, "cellgate_session_queued_bytes")[""]; n == 0 || n > 32<<20 {
				t.Errorf("%.0f bytes are queued", n)
			}
		},
	})
}

// leaveSession opens a session that outlives its connection, subscribes and disconnects. It returns false if it was
// refused.
func leaveSession(t *testing.T, c *cell, id, token string) bool {
	t.Helper()
	o := login(id, token)
	o.Keep = true
	s, err := mqtt.Open(c.MQTT, o, nil)
	if err != nil {
		return false
	}
	defer s.Drop()
	if _, err := s.Subscribe(nil, mqtt.Filter("v1/+/up/#", 1)); err != nil {
		t.Error(err)
		return false
	}
	_ = s.Send(mqtt.Disconnect())
	return true
}

// publishWithoutEnd publishes 1 KiB messages as fast as the gateway permits.
func publishWithoutEnd(ctx context.Context, c *cell, vin, topic string) {
	for ctx.Err() == nil {
		s, err := mqtt.Open(c.Lab, login(vin, ""), nil)
		if err != nil {
			continue
		}
		s.Patience = 5 * time.Second
		for f := publishFrame(0, 0, topic, strings.Repeat("x", 1024)); err == nil && ctx.Err() == nil; {
			err = s.Send(f)
		}
		s.Drop()
	}
}
