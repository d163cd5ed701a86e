package cell

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Server is a Redis server that owns slots; Last is the end of its range.
type Server struct {
	Name string
	Last int
}

// Servers returns the current names of the servers by the first slot of each: one server, or the primaries of a
// cluster. A changed name means a restart, promotion, flush or a move of slots; what the gateway remembers has to be
// offered again. Servers that do not answer are left out and their errors returned.
func (s *Store) Servers(ctx context.Context) (map[int]Server, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		name, err := s.called(ctx, c, 0)
		if err != nil {
			return nil, err
		}
		return map[int]Server{0: {Name: name}}, nil
	case *redis.ClusterClient:
		return s.primaries(ctx, c)
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

func (s *Store) primaries(ctx context.Context, c *redis.ClusterClient) (map[int]Server, error) {
	ranges, err := c.ClusterSlots(ctx).Result() //nolint:staticcheck // Redis 6 has no CLUSTER SHARDS
	if err != nil {
		return nil, fmt.Errorf("%w: asking for the cluster's slots: %w", ErrAway, err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	names, errs := map[int]Server{}, []error(nil)
	for _, r := range ranges {
		all.Go(func() {
			one, err := c.MasterForKey(ctx, s.keys.inSlot("mark", r.Start))
			var name string
			if err == nil {
				name, err = s.called(ctx, one, r.Start)
			}
			mu.Lock()
			defer mu.Unlock()
			if errs = append(errs, err); err == nil {
				names[r.Start] = Server{Name: name, Last: r.End}
			}
		})
	}
	all.Wait()
	return names, errors.Join(errs...)
}
