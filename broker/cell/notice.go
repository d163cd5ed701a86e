package cell

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Notify sends a gateway a notice. Delivery is best effort: nothing may depend on it. It returns whether the gateway has a
// connection to this server on which it receives notices; in a cluster a slot that has just moved may hide it.
func (s *Store) Notify(ctx context.Context, node, text string) (heard bool, err error) {
	n, err := s.client.Publish(ctx, s.keys.notices(node), text).Result()
	if err != nil {
		return false, fmt.Errorf("%w: notifying %s: %w", ErrAway, node, err)
	}
	return n > 0, nil
}

// Listen calls fn for each notice to a gateway, in order, until ctx ends. It retries while Redis is away. It calls
// listening after each subscribe, because notices may have been lost before.
func (s *Store) Listen(ctx context.Context, node string, listening func(), fn func(text string)) {
	sub := s.client.Subscribe(ctx, s.keys.notices(node))
	defer sub.Close() //nolint:errcheck // it is not used any more
	for c := sub.ChannelWithSubscriptions(); ; {
		select {
		case <-ctx.Done():
			return
		case one, more := <-c:
			if !more {
				return
			}
			switch one := one.(type) {
			case *redis.Subscription:
				listening()
			case *redis.Message:
				fn(one.Payload)
			}
		}
	}
}

// NoticeTaken is the prefix of the notice that another gateway has a vehicle.
const NoticeTaken = "taken"

// Successor is the notice to the former gateway of a vehicle: Epoch and Since of the new connection.
type Successor struct {
	VIN          string
	Epoch, Since int64
}

// ParseSuccessor reads what follows NoticeTaken.
func ParseSuccessor(text string) (Successor, error) {
	epoch, rest, _ := strings.Cut(text, " ")
	since, vin, _ := strings.Cut(rest, " ")
	t := Successor{VIN: vin}
	var err error
	if t.Epoch, err = strconv.ParseInt(epoch, 10, 64); err != nil {
		return t, fmt.Errorf("notice of a claim: epoch: %w", err)
	}
	if t.Since, err = strconv.ParseInt(since, 10, 64); err != nil {
		return t, fmt.Errorf("notice of a claim: since: %w", err)
	}
	return t, nil
}
