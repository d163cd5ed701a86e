package cell

import (
	"context"
	"fmt"
)

// Publish stores signed bytes for the other gateways under the name of the data_dir. The package does not interpret
// them.
func (s *Store) Publish(ctx context.Context, dir string, signed []byte) error {
	if err := s.client.HSet(ctx, s.keys.public(), dir, signed).Err(); err != nil {
		return fmt.Errorf("%w: publishing keys: %w", ErrAway, err)
	}
	return nil
}

// Published returns what the gateways have published, by data_dir. Anyone who can write to Redis may have written it.
func (s *Store) Published(ctx context.Context) (map[string]string, error) {
	all, err := s.client.HGetAll(ctx, s.keys.public()).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: reading keys: %w", ErrAway, err)
	}
	return all, nil
}
