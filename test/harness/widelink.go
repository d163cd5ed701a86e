package harness

import (
	"net"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
)

// wideBuffer bounds the data queued at a WideLink, as in a router; beyond it senders block.
const wideBuffer = 500 * time.Millisecond

// WideLink simulates a wide-area link: all connections share the rate of each direction, and each byte is delayed by
// half a round trip.
type WideLink struct {
	t        testing.TB
	up, down *direction
}

// direction is one direction of a WideLink. Delays are computed from its own clock, not from wake-ups, so a busy
// machine delays bytes but does not lower the rate.
type direction struct {
	rate  float64 // bytes per second
	delay time.Duration
	turn  chan struct{} // semaphore for sending, in FIFO order

	mu      sync.Mutex
	free    time.Time // when all bytes so far have been sent
	carried int64
}

// NewWideLink returns a link of rate bytes per second with a round trip of rtt.
func NewWideLink(t testing.TB, rate float64, rtt time.Duration) *WideLink {
	t.Helper()
	one := func() *direction { return &direction{rate: rate, delay: rtt / 2, turn: make(chan struct{}, 1)} }
	return &WideLink{t: t, up: one(), down: one()}
}

// To returns an address that leads over the link to the server at upstream.
func (w *WideLink) To(upstream string) string {
	w.t.Helper()
	l, err := net.Listen("tcp", FreeAddr(w.t)) //nolint:noctx // lives as long as the test
	check.OK(w.t, err)
	var mu sync.Mutex
	var conns []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", upstream) //nolint:noctx // as above
			if err != nil {
				_ = near.Close()
				continue
			}
			keep(near)
			keep(far)
			wg.Go(func() { w.up.carry(near, far) })
			wg.Go(func() { w.down.carry(far, near) })
		}
	})
	w.t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// Carried returns the number of bytes sent over the link by clients (up) and by servers (down).
func (w *WideLink) Carried() (up, down int64) { return w.up.sum(), w.down.sum() }

func (d *direction) sum() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.carried
}

// parcel is data that arrives at one time.
type parcel struct {
	bytes []byte
	at    time.Time
}

// carry copies from one connection to the other until either closes.
func (d *direction) carry(from, to net.Conn) {
	line := make(chan parcel, 1<<14)
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range line {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 {
			line <- parcel{b[:n], d.put(n)}
		}
		if err != nil {
			break
		}
	}
	close(line)
	wg.Wait()
}

// put sends n bytes and returns their arrival time.
func (d *direction) put(n int) time.Time {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		now := time.Now()
		if d.free.Before(now) {
			d.free = now
		}
		ahead := d.free.Sub(now)
		if ahead <= wideBuffer {
			break
		}
		d.mu.Unlock()
		time.Sleep(ahead - wideBuffer)
		d.mu.Lock()
	}
	d.free = d.free.Add(time.Duration(float64(n) / d.rate * float64(time.Second)))
	d.carried += int64(n)
	return d.free.Add(d.delay)
}
