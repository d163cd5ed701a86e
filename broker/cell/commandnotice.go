package cell

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Notice tells other gateways that there is something to read, or Redis that an end is on this gateway's disk. It may be
// lost.
type Notice struct {
	// What is Queued, Ended or NoticePublished.
	What    string
	VIN, ID string
}

// Values of Notice.What.
const (
	Queued          = "queued" // the vehicle's gateway sends it
	Ended           = "ended"  // gateways that wait for it or keep it as open read it
	NoticePublished = "told"   // no other gateway needs to publish the end
)

// NotifyCommands publishes notices.
func (s *Store) NotifyCommands(ctx context.Context, all []Notice) error {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range all {
			if n.What == NoticePublished {
				vehicle := s.keys.vehicle(n.VIN)
				keys := []string{s.keys.slotted("mark", vehicle), s.keys.command(n.VIN, n.ID), s.keys.slotted("due", vehicle)}
				p.Eval(ctx, s.scripts["published"].text, keys, n.VIN+"/"+n.ID)
				continue
			}
			p.Publish(ctx, s.keys.commands(), n.What+"/"+n.VIN+"/"+n.ID) // neither contains a slash
		}
		return nil
	})
	return err
}

// ListenCommands passes on the notices of all gateways, this one included, until ctx ends. It calls began whenever it
// has subscribed: earlier notices may be lost, so the caller looks up what it missed. It continues after errors of
// Redis.
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
