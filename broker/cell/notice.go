package cell

import (
	"context"
	"fmt"
)

// Tell sends a gateway a notice, if it listens: nothing may depend on its arrival.
func (s *Store) Tell(ctx context.Context, node, text string) error {
	if err := s.client.Publish(ctx, s.keys.notices(node), text).Err(); err != nil {
		return fmt.Errorf("%w: telling %s: %w", ErrAway, node, err)
	}
	return nil
}

// Listen gives each notice for a gateway to fn, one after the other, until ctx ends. While Redis is away it tries again.
func (s *Store) Listen(ctx context.Context, node string, fn func(text string)) {
	sub := s.client.Subscribe(ctx, s.keys.notices(node))
	defer sub.Close() //nolint:errcheck // it is not used any more
	for c := sub.Channel(); ; {
		select {
		case <-ctx.Done():
			return
		case m, more := <-c:
			if !more {
				return
			}
			fn(m.Payload)
		}
	}
}
