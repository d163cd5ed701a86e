package cell

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// places limits the calls that wait for a server's replicas to three quarters of the connections to it. The others stay
// free for claims, which CONNECTs wait for, and for notices: these wait for no replica.
type places struct {
	mu  sync.Mutex
	all map[string]chan struct{} // by the server's address
}

// enter waits for a place until ctx ends. The caller calls leave after its call.
func (p *places) enter(ctx context.Context, client *redis.Client) (leave func(), err error) {
	o := client.Options()
	p.mu.Lock()
	at := p.all[o.Addr]
	if at == nil {
		if p.all == nil {
			p.all = map[string]chan struct{}{}
		}
		at = make(chan struct{}, max(1, o.PoolSize*3/4))
		p.all[o.Addr] = at
	}
	p.mu.Unlock()
	select {
	case at <- struct{}{}:
		return func() { <-at }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting until the replicas confirm earlier calls: %w", ErrAway, ctx.Err())
	}
}
