package cell

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Left is what a gateway that stops leaves for those that its vehicles go to: what its rules' operators remember of a vehicle.
type Left struct {
	VIN  string
	Data []byte
}

// leftHead is of the value in which it is kept: the boot that has left it and when, by Redis' time in ms.
const leftHead = "%s %d\n"

// LeaveOperators keeps for so long what a gateway leaves, at a time of Redis in ms.
func (s *Store) LeaveOperators(ctx context.Context, g Gateway, at int64, all []Left, keep time.Duration) error {
	head := fmt.Appendf(nil, leftHead, g.Boot, at)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range all {
			key := s.keys.operators(all[i].VIN)
			p.HSet(ctx, key, g.Node, append(bytes.Clone(head), all[i].Data...))
			p.PExpire(ctx, key, keep)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: leaving what rules remember: %w", ErrAway, err)
	}
	return nil
}

// LeftBy is what the gateway that had a connection has left of a vehicle since, and which of its boots did; nil when it has left nothing,
// or the connection is younger.
func (s *Store) LeftBy(ctx context.Context, vin string, former Connection) (data []byte, boot string, err error) {
	value, err := s.client.HGet(ctx, s.keys.operators(vin), former.Node).Bytes()
	if err == redis.Nil { //nolint:errorlint // as the client answers
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("%w: what rules remember of %s: %w", ErrAway, vin, err)
	}
	head, data, whole := bytes.Cut(value, []byte("\n"))
	var at int64
	if _, err := fmt.Sscanf(string(head), "%s %d", &boot, &at); err != nil || !whole || at < former.Epoch {
		return nil, "", nil //nolint:nilerr // of another build, or of a connection before
	}
	return data, boot, nil
}
