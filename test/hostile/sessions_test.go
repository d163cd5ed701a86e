package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSessionsLeftBehind has one service open as many sessions as it can, subscribe each to all telemetry, and leave them
// behind, while vehicles publish as fast as they may: commands go on.
func TestSessionsLeftBehind(t *testing.T) {
	t.Parallel()
	sessions := 300
	if full() {
		sessions = 3000
	}
	var tried, left atomic.Int64
	besiege(t, siege{
		commands: true,
		attack: func(ctx context.Context, t *testing.T, c *cell) {
			token := c.Cellgate("token", "issue", "--config", c.Config, "--service", "billing", "--scope", "telemetry:read")
			go publishWithoutEnd(ctx, c, "EVIL1", "v1/EVIL1/up/x")
			go publishWithoutEnd(ctx, c, "EVIL2", "v1/EVIL2/up/x")
			for i := 0; i < sessions && ctx.Err() == nil; i++ {
				if leaveSession(ctx, t, c, fmt.Sprintf("billing/%d", i), token) {
					left.Add(1)
				}
				tried.Add(1)
			}
			<-ctx.Done()
		},
		until: func() error {
			if n := tried.Load(); n < int64(sessions) {
				return fmt.Errorf("%d of %d sessions were tried", n, sessions)
			}
			return nil
		},
		afterwards: func(t *testing.T, c *cell) {
			t.Logf("%d of %d sessions were taken", left.Load(), sessions)
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

// leaveSession opens a session that outlives its connection, subscribes, and goes away. False: it was refused.
func leaveSession(ctx context.Context, t *testing.T, c *cell, id, token string) bool {
	t.Helper()
	s, err := openRaw(ctx, c.MQTT, keptConnectFrame(id, token))
	if err != nil {
		return false
	}
	defer hangUp(s.Conn)
	_, _ = s.Write(subscribeFrame(1, "v1/+/up/#"))
	if first, _, err := s.frame(); err != nil || first>>4 != 9 {
		t.Errorf("no SUBACK but %#x, %v", first, err)
		return false
	}
	_, _ = s.Write([]byte{0xE0, 0})
	return true
}

// publishWithoutEnd has a vehicle publish a kilobyte as often as the gateway lets it.
func publishWithoutEnd(ctx context.Context, c *cell, vin, topic string) {
	for ctx.Err() == nil {
		s, err := openRaw(ctx, c.Lab, connectFrame(vin, ""))
		if err != nil {
			continue
		}
		for f := publishFrame(0, 0, topic, strings.Repeat("x", 1024)); err == nil && ctx.Err() == nil; {
			_ = s.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = s.Write(f)
		}
		hangUp(s.Conn)
	}
}

// raw is a connection on which frames are written and read as they are.
type raw struct{ net.Conn }

// openRaw connects and awaits CONNACK 0.
func openRaw(ctx context.Context, addr string, connect []byte) (raw, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return raw{}, err
	}
	s := raw{c}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err = c.Write(connect); err == nil {
		var first byte
		var body []byte
		if first, body, err = s.frame(); err == nil && (first != 0x20 || body[1] != 0) {
			err = fmt.Errorf("CONNECT is answered %#x % x", first, body)
		}
	}
	if err != nil {
		hangUp(c)
	}
	return s, err
}

// frame reads one.
func (s raw) frame() (first byte, body []byte, err error) {
	var head [1]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return 0, nil, err
	}
	first, length := head[0], 0
	for shift := 0; ; shift += 7 {
		if _, err := io.ReadFull(s, head[:]); err != nil {
			return 0, nil, err
		}
		length |= int(head[0]&0x7f) << shift
		if head[0] < 0x80 {
			break
		}
	}
	body = make([]byte, length)
	_, err = io.ReadFull(s, body)
	return first, body, err
}

// keptConnectFrame is connectFrame for a session that outlives its connection.
func keptConnectFrame(id, token string) []byte {
	f := connectFrame(id, token)
	at := bytes.Index(f, text("MQTT")) + len(text("MQTT")) + 1
	f[at] &^= 2
	return f
}
