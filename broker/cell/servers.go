package cell

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a Redis server that owns slots.
type Server struct {
	Name string
	Last int   // the end of its range
	Err  error // why it has not told its name
}

// Servers returns the current names of the servers by the first slot of each: one server, or the primaries of a
// cluster. A changed name means a restart, promotion, flush or a move of slots; what the gateway remembers has to be
// offered again. Each server has limit to answer. The error means that the servers of the cluster are not known.
func (s *Store) Servers(ctx context.Context, limit time.Duration) (map[int]Server, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		name, err := s.called(ctx, c, 0)
		return map[int]Server{0: {Name: name, Err: err}}, nil
	case *redis.ClusterClient:
		return s.primaries(ctx, c, limit)
	}
	return nil, nil
}

// called asks a server for its name, as recorded in the mark of one of its slots. It fails if the server takes no
// writes (memory full, demoted).
func (s *Store) called(ctx context.Context, c *redis.Client, slot int) (string, error) {
	r, err := s.pipeline(ctx, c, call{script: "look", keys: []string{s.keys.inSlot("mark", slot), s.keys.inSlot("none", slot)}}, true)
	if err != nil {
		return "", fmt.Errorf("asking for the server's name: %w", err)
	}
	return r.server, nil
}

func (s *Store) primaries(ctx context.Context, c *redis.ClusterClient, limit time.Duration) (map[int]Server, error) {
	ranges, err := s.slotRanges(ctx, c, limit/2)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	servers := map[int]Server{}
	for _, r := range ranges {
		all.Go(func() {
			one := Server{Last: r.End}
			client, err := c.MasterForKey(ctx, s.keys.inSlot("mark", r.Start))
			if err != nil {
				one.Err = fmt.Errorf("%w: finding the server of slot %d: %w", ErrAway, r.Start, err)
			} else {
				one.Name, one.Err = s.called(ctx, client, r.Start)
			}
			mu.Lock()
			defer mu.Unlock()
			servers[r.Start] = one
		})
	}
	all.Wait()
	return servers, nil
}

// slotRanges reads the division of the slots, at any server. If that does not answer, the division is taken to be what it was.
func (s *Store) slotRanges(ctx context.Context, c *redis.ClusterClient, limit time.Duration) ([]redis.ClusterSlot, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ranges, err := c.ClusterSlots(ctx).Result() //nolint:staticcheck // Redis 6 has no CLUSTER SHARDS
	switch known := s.ranges.Load(); {
	case err == nil:
		s.ranges.Store(&ranges)
	case known != nil:
		return *known, nil
	default:
		return nil, fmt.Errorf("%w: asking for the cluster's slots: %w", ErrAway, err)
	}
	return ranges, nil
}
