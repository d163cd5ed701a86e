package kafkaclient

import "time"

// bucket is a token bucket for bytes. It holds a tenth of a second's worth. A request may overdraw it, if it is not
// empty.
type bucket struct {
	rate   float64 // bytes per second; 0 means no limit
	tokens float64
	at     time.Time // when tokens was updated
}

// set changes the rate. Removing the limit clears an overdraft.
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

// wait returns how long until bytes may be taken; 0 means now. ahead is how many seconds' worth may be overdrawn.
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
