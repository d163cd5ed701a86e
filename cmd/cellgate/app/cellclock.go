package app

import (
	"sync"
	"time"
)

// clockDrift is how far Redis' clock and this machine's may drift apart in a second.
const clockDrift = 100 * time.Microsecond

// redisClock is the time of Redis, as its answers have shown it. This machine's own clock may be wrong. An answer that took
// long shows little: Redis may have run the script at any moment between. So the answers bound the difference
// between Redis' time and that of this process together.
type redisClock struct {
	began time.Time // monotonic

	mu sync.Mutex
	// Bounds of Redis' time at began, and when they were last narrowed, since began.
	least, most time.Time
	at          time.Duration
}

// heard records that it was now (ms) by Redis' clock at some moment between sent and received.
func (c *redisClock) heard(now int64, sent, received time.Time) {
	at := received.Sub(c.began)
	least, most := time.UnixMilli(now).Add(-at), time.UnixMilli(now+1).Add(-sent.Sub(c.began))
	c.mu.Lock()
	defer c.mu.Unlock()
	drift := time.Duration(max(0, at-c.at).Seconds() * float64(clockDrift))
	before, after := c.least.Add(-drift), c.most.Add(drift)
	c.at = max(c.at, at)
	if c.least.IsZero() || before.After(most) || after.Before(least) { // the first answer, or that clock was moved
		c.least, c.most = least, most
		return
	}
	if c.least, c.most = before, after; least.After(before) {
		c.least = least
	}
	if most.Before(after) {
		c.most = most
	}
}

// now returns Redis' time in ms; until Redis has answered, this machine's.
func (c *redisClock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.least.IsZero() {
		return time.Now().UnixMilli()
	}
	return c.least.Add(c.most.Sub(c.least) / 2).Add(time.Since(c.began)).UnixMilli()
}
