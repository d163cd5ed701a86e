package cell

import (
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// doubts remembers the servers whose replicas did not confirm the last call. Calls to such a server wait only briefly.
// Once per confirmation time, one call waits in full, to find out whether the replicas confirm again.
type doubts struct {
	mu    sync.Mutex
	since map[string]time.Time // by the server's address
}

// briefly divides the confirmation time: calls wait this share of it while replicas do not confirm.
const briefly = 10

// wait returns how long a call waits for the replicas.
func (d *doubts) wait(c *redis.Client, patience time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := c.Options().Addr
	since, doubted := d.since[at]
	if !doubted {
		return patience
	}
	if now := time.Now(); now.Sub(since) >= patience {
		d.since[at] = now
		return patience
	}
	return max(patience/briefly, time.Millisecond) // WAIT 0 blocks forever
}

func (d *doubts) note(c *redis.Client, confirmed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := c.Options().Addr
	_, doubted := d.since[at]
	switch {
	case confirmed:
		delete(d.since, at)
	case !doubted:
		if d.since == nil {
			d.since = map[string]time.Time{}
		}
		d.since[at] = time.Now()
	}
}
