package kafkaclient

import "time"

// bucket counts bytes against a rate. It holds what comes in in a tenth of a second, and may be overdrawn by whoever has
// found something in it.
type bucket struct {
	rate   float64 // bytes per second; 0 is no limit
	tokens float64
	at     time.Time // when tokens was right
}

// set changes the rate. What was overdrawn is forgiven when there is no limit any more.
func (b *bucket) set(rate int64, now time.Time) {
	b.refill(now)
	if b.rate = float64(rate); rate == 0 {
		b.tokens = 0
	}
}

func (b *bucket) refill(now time.Time) {
	b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*b.rate, b.rate/10)
	b.at = now
}

// wait is how long there is nothing in it; 0 when something may be taken. ahead is how many seconds' worth may be taken in
// advance.
func (b *bucket) wait(now time.Time, ahead float64) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.refill(now)
	if lack := -b.tokens - ahead*b.rate; lack >= 0 {
		return time.Duration((lack+1)/b.rate*float64(time.Second)) + time.Millisecond
	}
	return 0
}

func (b *bucket) take(n int) {
	if b.rate > 0 {
		b.tokens -= float64(n)
	}
}
