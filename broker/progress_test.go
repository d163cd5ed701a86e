package broker

import (
	"testing"
	"time"

	"cellgate/broker/frame"
	"cellgate/test/mqtt"
)

// Bytes of a packet that never ends are not a sign of life.
func TestDribblingIsNoSignOfLife(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := h.connect("cars", testVIN, version, mqtt.Connect{Keepalive: 1})
		c.Send([]byte{0x32, 0xC0, 0x9A, 0x0C}) // a PUBLISH of 200,000 bytes
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			for _, err := c.Conn.Write([]byte{0}); err == nil; _, err = c.Conn.Write([]byte{0}) {
				time.Sleep(100 * time.Millisecond) // the client's pace; nothing is awaited
			}
		}()
		want := byte(0)
		if version == frame.Version5 {
			want = frame.ReasonKeepaliveTimeout
		}
		if reason := c.Ended().Reason; reason != want {
			t.Errorf("reason %#x", reason)
		}
		_ = c.Conn.Close()
		<-closed
	})
}

func TestProgressThatCounts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		keepalive  time.Duration
		reads      []int // bytes
		whole      bool
		progressed bool
	}{
		{"a byte", 2 * time.Second, []int{1}, false, false},
		{"bytes now and then", 2 * time.Second, []int{1, 1, 1, 1, 1, 1}, false, false},
		{"64 bytes a second", 2 * time.Second, []int{64, 64, 64, 16}, false, true},
		{"at once", 2 * time.Second, []int{1400}, false, true},
		{"a whole packet", 2 * time.Second, []int{2}, true, true},
		{"a slow network", 5 * time.Minute, []int{1400, 1400, 1400}, false, true},
		{"less than 4 KiB in minutes", 5 * time.Minute, []int{1400, 1400}, false, false},
	} {
		c := &conn{b: &Broker{}, keepalive: (tc.keepalive + tc.keepalive/2 + wheelTick).Milliseconds()}
		c.b.wheel.clock.Store(7)
		for _, n := range tc.reads {
			c.reader.partial, c.reader.whole = c.reader.partial+n, tc.whole
			c.progressed()
		}
		if got := c.shared.lastRead.Load() == 7; got != tc.progressed {
			t.Errorf("%s: a sign of life: %v, want %v", tc.name, got, tc.progressed)
		}
	}
}
