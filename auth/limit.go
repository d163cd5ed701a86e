package auth

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxLimiters bounds how many callers are distinguished. The least recently used one is removed and so starts with a
// full burst again. With that many callers only the total matters, which the HTTP server's own limits bound.
const maxLimiters = 65_536

// Per-caller limits of POST /v1/tokens: a vehicle needs one token per token lifetime, a service or operator one for
// each vehicle of a fleet.
const (
	callerRate  = 1 // per second
	callerBurst = 10
	// factorTrusted multiplies both for services, operators and addresses, which may act for many vehicles.
	factorTrusted = 100
)

// buckets holds token buckets by key, the most recently used ones. The caller must lock it.
type buckets struct {
	most  int
	byKey map[string]*list.Element
	order *list.List // of *bucket, most recent first
}

type bucket struct {
	key        string
	limit      *rate.Limiter
	suppressed int // for the caller's use
}

func newBuckets(most int) buckets {
	return buckets{most: most, byKey: make(map[string]*list.Element), order: list.New()}
}

// get returns a key's bucket. A new one is full.
func (b *buckets) get(key string, perSecond rate.Limit, burst int) *bucket {
	e, found := b.byKey[key]
	if found {
		b.order.MoveToFront(e)
		return e.Value.(*bucket)
	}
	if b.order.Len() >= b.most {
		oldest := b.order.Back()
		delete(b.byKey, oldest.Value.(*bucket).key)
		b.order.Remove(oldest)
	}
	e = b.order.PushFront(&bucket{key: key, limit: rate.NewLimiter(perSecond, burst)})
	b.byKey[key] = e
	return e.Value.(*bucket)
}

// limiters holds one token bucket per caller and one for all together.
type limiters struct {
	now func() time.Time
	all *rate.Limiter

	mu      sync.Mutex // guards below
	callers buckets
}

func newLimiters(cfg *Config) *limiters {
	return &limiters{
		now: cfg.Now, all: rate.NewLimiter(rate.Limit(cfg.IssueRate), cfg.IssueBurst), callers: newBuckets(maxLimiters),
	}
}

// set changes the limit for all.
func (l *limiters) set(cfg *Config) {
	now := l.now()
	l.all.SetLimitAt(now, rate.Limit(cfg.IssueRate))
	l.all.SetBurstAt(now, cfg.IssueBurst)
}

// allow takes one event from a caller's bucket, whose rate and burst are factor times a vehicle's.
func (l *limiters) allow(key string, factor int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.callers.get(key, rate.Limit(callerRate*factor), callerBurst*factor).limit.AllowN(l.now(), 1)
}
