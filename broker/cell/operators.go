package cell

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Left is a vehicle's operator state that a stopping gateway leaves for the vehicle's next gateway.
type Left struct {
	VIN  string
	Data []byte
}

// leftHead is the header of the stored value: the boot that left it, and when, in ms of Redis' clock.
const leftHead = "%s %d\n"

// LeaveOperators stores for the duration keep what a gateway leaves; at is Redis' time in ms.
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
		return fmt.Errorf("%w: storing operators' state: %w", ErrAway, err)
	}
	return nil
}

// LeftBy returns the operator state that the gateway of a former connection left after that connection began, and the
// boot that left it. It returns nil if there is none.
func (s *Store) LeftBy(ctx context.Context, vin string, former Connection) (data []byte, boot string, err error) {
	value, err := s.client.HGet(ctx, s.keys.operators(vin), former.Node).Bytes()
	if err == redis.Nil { //nolint:errorlint // the client returns it unwrapped
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("%w: operators' state of %s: %w", ErrAway, vin, err)
	}
	head, data, whole := bytes.Cut(value, []byte("\n"))
	var at int64
	if _, err := fmt.Sscanf(string(head), "%s %d", &boot, &at); err != nil || !whole || at < former.Epoch {
		return nil, "", nil //nolint:nilerr // from another build or an earlier connection
	}
	return data, boot, nil
}
