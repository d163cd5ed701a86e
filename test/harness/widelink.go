package harness

import (
	"net"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
)

// wideBuffer is what waits before a WideLink at most, as in a router: beyond it senders wait.
const wideBuffer = 500 * time.Millisecond

// WideLink is a line between two places: whatever passes shares its rate, each direction for itself, byte after byte, and
// takes half a round trip beside that.
type WideLink struct {
	t        testing.TB
	up, down *direction
}

// direction is one of a WideLink's. Its clock is what counts, not when somebody wakes up: on a busy machine bytes come late,
// but the line carries no fewer.
type direction struct {
	rate  float64 // bytes per second
	delay time.Duration
	turn  chan struct{} // whoever may put bytes on the line; taken in the order of asking

	mu      sync.Mutex
	free    time.Time // when it has carried all that it was given
	carried int64
}

// NewWideLink makes a line of rate bytes per second with a round trip of rtt.
func NewWideLink(t testing.TB, rate float64, rtt time.Duration) *WideLink {
	t.Helper()
	one := func() *direction { return &direction{rate: rate, delay: rtt / 2, turn: make(chan struct{}, 1)} }
	return &WideLink{t: t, up: one(), down: one()}
}

// To is an address that leads over the line to the server at upstream.
func (w *WideLink) To(upstream string) string {
	w.t.Helper()
	l, err := net.Listen("tcp", FreeAddr(w.t)) //nolint:noctx // for as long as the test lasts
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

// Carried is how many bytes have been put on the line, those that clients sent and those that servers did.
func (w *WideLink) Carried() (up, down int64) { return w.up.sum(), w.down.sum() }

func (d *direction) sum() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.carried
}

// parcel is what arrives at a time.
type parcel struct {
	bytes []byte
	at    time.Time
}

// carry takes what one end sends to the other until either closes.
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

// put puts n bytes on the line, and returns when they arrive.
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
