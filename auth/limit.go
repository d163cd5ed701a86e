package auth

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxLimiters bounds how many callers are told apart. The one that has been quiet longest is forgotten, and
// so starts with a full burst: with that many callers the total is what matters, and the HTTP server's own
// limits bound it.
const maxLimiters = 65_536

// Per-caller limits of POST /v1/tokens: a vehicle needs one token per life of a token, a service or operator
// one for each vehicle of a fleet.
const (
	callerRate  = 1 // per second
	callerBurst = 10
	// factorTrusted multiplies both for services, operators and addresses, behind which many vehicles may be.
	factorTrusted = 100
)

// limiters holds one token bucket per caller and one for all.
type limiters struct {
	now func() time.Time
	all *rate.Limiter

	mu    sync.Mutex // guards below
	byKey map[string]*list.Element
	order *list.List // of *callerLimit, most recent first
}

type callerLimit struct {
	key   string
	limit *rate.Limiter
}

func newLimiters(cfg *Config) *limiters {
	return &limiters{
		now: cfg.Now, all: rate.NewLimiter(rate.Limit(cfg.IssueRate), cfg.IssueBurst),
		byKey: make(map[string]*list.Element), order: list.New(),
	}
}

// set changes the limit for all.
func (l *limiters) set(cfg *Config) {
	now := l.now()
	l.all.SetLimitAt(now, rate.Limit(cfg.IssueRate))
	l.all.SetBurstAt(now, cfg.IssueBurst)
}

// allowAny takes one event from the bucket of all.
func (l *limiters) allowAny() bool { return l.all.AllowN(l.now(), 1) }

// allow takes one event from a caller's bucket, whose rate and burst are factor times a vehicle's.
func (l *limiters) allow(key string, factor int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, found := l.byKey[key]
	if found {
		l.order.MoveToFront(e)
	} else {
		if l.order.Len() >= maxLimiters {
			oldest := l.order.Back()
			delete(l.byKey, oldest.Value.(*callerLimit).key)
			l.order.Remove(oldest)
		}
		e = l.order.PushFront(&callerLimit{key, rate.NewLimiter(rate.Limit(callerRate*factor), callerBurst*factor)})
		l.byKey[key] = e
	}
	return e.Value.(*callerLimit).limit.AllowN(l.now(), 1)
}
