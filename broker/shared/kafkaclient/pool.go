package kafkaclient

import (
	"sync"

	"github.com/segmentio/kafka-go"
)

// pool lends a client to requests and can replace it at any time. A replaced client is closed when its last request
// ends, not before: kafka-go reopens a closed pool for the next request, and nothing would close that one.
type pool struct {
	mu      sync.Mutex
	current *lease // nil once closed
}

// lease is a client and the number of its users. The pool guards both fields.
type lease struct {
	*kafka.Client
	pool  *pool
	users int
}

func newPool(c *kafka.Client) *pool {
	p := &pool{}
	p.current = &lease{Client: c, pool: p}
	return p
}

// take borrows the current client until release. It must not be called after close.
func (p *pool) take() *lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.users++
	return p.current
}

func (l *lease) release() {
	l.pool.mu.Lock()
	l.users--
	unused := l.users == 0 && l.pool.current != l
	l.pool.mu.Unlock()
	if unused {
		closeIdle(l.Client)
	}
}

// replace makes c the client of later requests.
func (p *pool) replace(c *kafka.Client) { p.swap(&lease{Client: c, pool: p}) }

func (p *pool) swap(next *lease) {
	p.mu.Lock()
	old := p.current
	p.current = next
	unused := old != nil && old.users == 0
	p.mu.Unlock()
	if unused {
		closeIdle(old.Client)
	}
}
