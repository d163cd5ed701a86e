package command

import (
	"context"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
)

// Event is a change of a command's state, for the Kafka topic vehicle.command-results.
type Event struct {
	// N is the event's number: rising, and the same on retries. Epoch is that of the start in which the event was made:
	// numbers begin at 1 in a new state file and go on from a copy's in one that is put back. Both together can serve as a
	// message id.
	N     uint64
	Epoch uint64
	// VIN is the record's key.
	VIN string
	// Value is the record's value, {id, vin, name, state, at, cause, result, by, origin}.
	Value []byte
}

// Bounds of one call of Options.Publish.
const (
	publishEvents = 500
	publishBytes  = 512 << 10
)

// deliverAll empties an outbox, with retries. some delivers the oldest entries, removes them and returns their number;
// what names the outbox in the log.
func (s *Service) deliverAll(ctx context.Context, what string, more <-chan struct{}, some func(context.Context) (int, error)) {
	failed := 0
	for {
		n, err := some(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if failed++; failed == 1 {
				s.o.Log.Warn("command events not published, trying again", "what", what, "err", err)
			}
			if !again(ctx, failed, longestBackoff) {
				return
			}
			continue
		case failed > 0:
			s.o.Log.Info("command events published again", "what", what)
			failed = 0
		}
		if n > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// publishSome publishes the oldest events and removes them.
func (s *Service) publishSome(ctx context.Context) (int, error) {
	events, err := s.oldest()
	if err != nil || len(events) == 0 {
		return 0, err
	}
	if err := s.o.Publish(ctx, events); err != nil {
		return 0, err
	}
	ns := make([]uint64, len(events))
	for i, e := range events {
		ns[i] = e.N
	}
	return len(events), s.submit(ctx, true, func(b *batch) error { return b.published(ns) })
}

func (s *Service) oldest() ([]Event, error) {
	var events []Event
	err := s.o.DB.View(func(tx *statefile.Tx) error {
		c := tx.Bucket(bucketEvents).Cursor()
		size := 0
		for k, v := c.First(); k != nil && len(events) < publishEvents && size < publishBytes; k, v = c.Next() {
			if len(v) == 0 || len(v) <= int(v[0]) {
				continue // no version writes this
			}
			vin, body := int(v[0]), append([]byte(nil), v[1:]...)
			events = append(events, Event{N: number(k), Epoch: epochOf(tx, number(k)), VIN: string(body[:vin]), Value: body[vin:]})
			size += len(v)
		}
		return nil
	})
	return events, err
}

// Pauses between tries.
const (
	firstBackoff   = 100 * time.Millisecond
	longestBackoff = 10 * time.Second
)

// again pauses before try n; false if ctx ended.
func again(ctx context.Context, n int, longest time.Duration) bool {
	return remote.Pause(ctx, remote.Backoff(n, firstBackoff, longest))
}
