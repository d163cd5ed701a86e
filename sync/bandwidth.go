package syncer

import (
	"context"
	"sync"
	"time"
)

// bandwidth shares a rate between lanes by strict priority: while a lane waits, no lower one gets
// anything. It is a token bucket that holds up to a tenth of a second, and may be overdrawn by one
// record.
type bandwidth struct {
	now func() time.Time

	mu      sync.Mutex
	rate    float64 // bytes per second; 0 is no limit
	tokens  float64
	at      time.Time // when tokens was right
	waiting [lanes]int
	changed chan struct{} // closed when a lane stops waiting, or the rate changes
}

func newBandwidth(rate int64) *bandwidth {
	return &bandwidth{rate: float64(rate), now: time.Now, at: time.Now(), changed: make(chan struct{})}
}

// set changes the rate, also for lanes that wait already.
func (b *bandwidth) set(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refillLocked()
	b.rate = float64(rate)
	if b.rate <= 0 {
		b.tokens = 0 // what was overdrawn is forgiven
	}
	b.wakeLocked()
}

func (b *bandwidth) get() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.rate)
}

// wakeLocked has every waiting lane look again.
func (b *bandwidth) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// take waits until the lane may send n bytes.
func (b *bandwidth) take(ctx context.Context, lane, n int) error {
	b.mu.Lock()
	if b.rate <= 0 {
		b.mu.Unlock()
		return nil
	}
	b.waiting[lane]++
	for {
		wait, ok := b.tryLocked(lane, n)
		if ok {
			break
		}
		changed := b.changed
		b.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		b.mu.Lock()
		if ctx.Err() != nil {
			break
		}
	}
	b.waiting[lane]--
	b.wakeLocked()
	b.mu.Unlock()
	return ctx.Err()
}

// tryLocked takes n bytes if it is the lane's turn and there are tokens, else it tells how long to wait.
func (b *bandwidth) tryLocked(lane, n int) (time.Duration, bool) {
	if b.rate <= 0 {
		return 0, true
	}
	for l := range lane {
		if b.waiting[l] > 0 {
			return time.Second, false // until changed
		}
	}
	b.refillLocked()
	if b.tokens > 0 {
		b.tokens -= float64(n)
		return 0, true
	}
	return time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Millisecond, false
}

// refillLocked adds what has come in since the last time.
func (b *bandwidth) refillLocked() {
	now := b.now()
	b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*b.rate, b.rate/10)
	b.at = now
}
