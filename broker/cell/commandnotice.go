package cell

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Notice is a hint to the other gateways that something is to be read. It may be lost.
type Notice struct {
	// What is Queued or Ended.
	What    string
	VIN, ID string
}

// What a notice tells of a command.
const (
	Queued = "queued" // whoever has the vehicle sends it
	Ended  = "ended"  // whoever waits for it, or keeps it as open, reads it
)

// TellCommands publishes notices.
func (s *Store) TellCommands(ctx context.Context, all []Notice) error {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range all {
			p.Publish(ctx, s.keys.commands(), n.What+"/"+n.VIN+"/"+n.ID) // neither holds a slash
		}
		return nil
	})
	return err
}

// ListenCommands hands on what other gateways, and this one, tell, until ctx ends. began is called whenever it begins to hear: what was
// told before has to be looked up. Errors are those of Redis; it goes on after them.
func (s *Store) ListenCommands(ctx context.Context, began func(), heard func(Notice), failed func(error) bool) {
	sub := s.client.Subscribe(ctx, s.keys.commands())
	defer sub.Close() //nolint:errcheck // nothing depends on it
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	for ctx.Err() == nil {
		got, err := sub.Receive(ctx)
		if err != nil {
			if ctx.Err() != nil || !failed(err) {
				return
			}
			continue
		}
		switch m := got.(type) {
		case *redis.Subscription:
			began()
		case *redis.Message:
			what, rest, _ := strings.Cut(m.Payload, "/")
			vin, id, _ := strings.Cut(rest, "/")
			heard(Notice{What: what, VIN: vin, ID: id})
		}
	}
}
