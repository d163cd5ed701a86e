package cell

import (
	"context"
	"fmt"
)

// Publish puts what a gateway signs for the others under the name of its data_dir. The package does not know what it is.
func (s *Store) Publish(ctx context.Context, dir string, signed []byte) error {
	if err := s.client.HSet(ctx, s.keys.public(), dir, signed).Err(); err != nil {
		return fmt.Errorf("%w: publishing keys: %w", ErrAway, err)
	}
	return nil
}

// Published is what the gateways have published, by data_dir. Whoever can write to Redis may have written it.
func (s *Store) Published(ctx context.Context) (map[string]string, error) {
	all, err := s.client.HGetAll(ctx, s.keys.public()).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: reading keys: %w", ErrAway, err)
	}
	return all, nil
}
