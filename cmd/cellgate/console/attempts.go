package console

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of logins: an address may try a few at once and then one every few seconds; all together, tryAll a second.
const (
	tryBurst   = 10
	tryEvery   = 6 * time.Second
	tryAll     = 50
	maxCallers = 4096 // addresses with a bucket each; while all are in use, further ones share one bucket
)

// attempts bounds how often tokens are tried.
type attempts struct {
	now func() time.Time
	all *rate.Limiter

	mu        sync.Mutex // guards below
	byAddress map[string]*rate.Limiter
	others    *rate.Limiter
	swept     time.Time // when idle addresses were last removed
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, all: rate.NewLimiter(tryAll, tryAll), byAddress: make(map[string]*rate.Limiter), others: newBucket()}
}

func newBucket() *rate.Limiter { return rate.NewLimiter(rate.Every(tryEvery), tryBurst) }

// allow takes one try from an address's budget.
func (a *attempts) allow(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	own := a.byAddress[host]
	if own == nil && len(a.byAddress) >= maxCallers && now.Sub(a.swept) >= tryEvery {
		a.swept = now
		for h, l := range a.byAddress {
			if l.TokensAt(now) >= tryBurst {
				delete(a.byAddress, h)
			}
		}
	}
	switch {
	case own != nil:
	case len(a.byAddress) < maxCallers:
		own = newBucket()
		a.byAddress[host] = own
	default:
		own = a.others
	}
	return own.AllowN(now, 1) && a.all.AllowN(now, 1)
}
