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

// limiters holds one token bucket per caller.
type limiters struct {
	rate  rate.Limit
	burst int
	now   func() time.Time

	mu    sync.Mutex // guards below
	byKey map[string]*list.Element
	order *list.List // of *callerLimit, most recent first
}

type callerLimit struct {
	key   string
	limit *rate.Limiter
}

func newLimiters(perSecond float64, burst int, now func() time.Time) *limiters {
	return &limiters{
		rate: rate.Limit(perSecond), burst: burst, now: now,
		byKey: make(map[string]*list.Element), order: list.New(),
	}
}

// allow takes one event from a caller's bucket, whose rate and burst are factor times the configured ones.
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
		e = l.order.PushFront(&callerLimit{key, rate.NewLimiter(l.rate*rate.Limit(factor), l.burst*factor)})
		l.byKey[key] = e
	}
	return e.Value.(*callerLimit).limit.AllowN(l.now(), 1)
}
