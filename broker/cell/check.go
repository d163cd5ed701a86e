package cell

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// ErrUnfit means that Redis is not set up to keep a cell's state. The message says what to change.
var ErrUnfit = errors.New("redis is not configured to keep a cell's commands")

// Check verifies that every primary keeps what it stores: no eviction, as many replicas as must confirm, and without
// replicas a disk write before each answer. An error other than ErrUnfit means that the check failed to run.
func (s *Store) Check(ctx context.Context) error {
	switch c := s.client.(type) {
	case *redis.Client:
		return s.checkServer(ctx, c)
	case *redis.ClusterClient:
		var mu sync.Mutex
		var all []error
		if err := c.ForEachMaster(ctx, func(ctx context.Context, one *redis.Client) error {
			err := s.checkServer(ctx, one)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, err)
			return nil
		}); err != nil {
			return fmt.Errorf("checking Redis: %w", err)
		}
		return errors.Join(all...)
	}
	return nil
}

func (s *Store) checkServer(ctx context.Context, c *redis.Client) error {
	at := c.Options().Addr
	policy, err := setting(ctx, c, "maxmemory-policy")
	if err != nil {
		return err
	}
	if policy != "noeviction" {
		return fmt.Errorf("%w: %s: maxmemory-policy is %s: set it to noeviction", ErrUnfit, at, policy)
	}
	info, err := c.Info(ctx, "replication").Result()
	if err != nil {
		return fmt.Errorf("asking Redis %s for its replicas: %w", at, err)
	}
	switch replicas := infoNumber(info, "connected_slaves"); {
	case replicas > s.confirm.Replicas:
		return fmt.Errorf("%w: %s has %d replicas, and %d have to confirm: any of them may be promoted, so make it %d",
			ErrUnfit, at, replicas, s.confirm.Replicas, replicas)
	case s.confirm.Replicas > 0:
		return nil // too few may be a passing fault: commands answer 503 meanwhile
	}
	sync, err := setting(ctx, c, "appendfsync")
	if err != nil {
		return err
	}
	if on, err := setting(ctx, c, "appendonly"); err != nil || on != "yes" || sync != "always" {
		return errors.Join(err, fmt.Errorf("%w: %s has no replicas, appendonly is %s and appendfsync %s: set appendonly yes and appendfsync always, or add replicas",
			ErrUnfit, at, on, sync))
	}
	return nil
}

func setting(ctx context.Context, c *redis.Client, name string) (string, error) {
	v, err := c.ConfigGet(ctx, name).Result()
	if err != nil {
		return "", fmt.Errorf("asking Redis %s for %s (it must permit CONFIG GET): %w", c.Options().Addr, name, err)
	}
	return v[name], nil
}

func infoNumber(info, name string) int {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, _ := strconv.Atoi(v)
			return n
		}
	}
	return 0
}
