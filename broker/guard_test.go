package broker

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/test/check"
)

// accepted accepts all connections and sends the sockets to the channel.
func accepted(t *testing.T, ln net.Listener) <-chan *Socket {
	t.Helper()
	out := make(chan *Socket, 100)
	go func() {
		defer close(out)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			out <- c.(*Socket) //nolint:forcetypeassert // the listener accepts nothing else
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		for s := range out {
			_ = s.Close()
		}
	})
	return out
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	return ln
}

func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	check.OK(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testPatience))
	return c
}

func awaitClosed(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("still open: %v", err)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error) //nolint:errorlint // as the socket returned it
	return ok && ne.Timeout()
}

// The oldest idle socket of a bounded listener gives way, never a busy one.
func TestBoundGivesWayToNewSockets(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	var evicted atomic.Int64
	bound := Bound(ln, 2, "full", func(reason string) {
		if reason == "full" {
			evicted.Add(1)
		}
	})
	sockets := accepted(t, bound)
	worked := dial(t, ln)
	first := <-sockets
	first.Begin()
	first.Begin()
	first.End() // ends one of two requests
	idle := dial(t, ln)
	<-sockets
	third := dial(t, ln)
	awaitClosed(t, idle)
	s := <-sockets
	if evicted.Load() != 1 {
		t.Fatalf("%d gave way", evicted.Load())
	}
	_, err := first.Write([]byte("x"))
	check.OK(t, err)
	if _, err := io.ReadFull(worked, make([]byte, 1)); err != nil {
		t.Fatal("the socket that is worked for was closed:", err)
	}
	first.End()
	_ = s.Close()
	awaitClosed(t, third)
	dial(t, ln) // a place is free: no eviction
	<-sockets
	if evicted.Load() != 1 {
		t.Fatalf("%d gave way", evicted.Load())
	}
}

// A guarded listener that lacks descriptors closes its oldest socket, and counts that as such.
func TestGuardedListenerLacksDescriptors(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ln := listen(t)
	broken := &exhausted{Listener: ln}
	guarded := h.b.Guard(broken)
	c := dial(t, ln)
	first, err := guarded.Accept()
	check.OK(t, err)
	t.Cleanup(func() { _ = first.Close() })
	broken.failures.Store(1)
	dial(t, ln)
	second, err := guarded.Accept()
	check.OK(t, err)
	check.OK(t, second.Close())
	awaitClosed(t, c)
	if h.rejected("descriptors") != 1 || h.rejected("handshakes") != 0 {
		t.Errorf("%v for descriptors, %v at the limit", h.rejected("descriptors"), h.rejected("handshakes"))
	}
}

// Sockets of a guarded listener share one bound with sockets before CONNECT or upgrade.
func TestSocketsOfAllListenersShareABound(t *testing.T) {
	t.Parallel()
	const most = 5
	h := newHarness(t, func(o *Options) {
		o.Limits.Handshakes = most
		o.Listeners = append(o.Listeners, Listener{Name: "web", Address: "127.0.0.1:0", Protocol: protocolWebSocket})
	})
	ln := listen(t)
	accepted(t, h.b.Guard(ln))
	var open []net.Conn
	for range 4 {
		open = append(open, dial(t, ln))
		for _, addr := range h.b.Addrs() {
			c, err := net.Dial("tcp", addr.String())
			check.OK(t, err)
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(testPatience))
			open = append(open, c)
		}
	}
	closed := make(chan struct{}, len(open))
	for _, c := range open {
		go func() {
			if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
				closed <- struct{}{}
			}
		}()
	}
	for range len(open) - most {
		select {
		case <-closed:
		case <-time.After(testPatience):
			t.Fatal("more are open than may be")
		}
	}
	if n := testutil.ToFloat64(h.metrics.handshakes); n > most {
		t.Errorf("%v sockets in the handshake, %d are allowed", n, most)
	}
}
