package command

import (
	"context"
	"encoding/json"
	"fmt"

	"cellgate/broker/shared/statefile"
)

// Response is a command's outcome for the response topic that its sender named.
type Response struct {
	Topic       string `json:"topic"`
	Correlation []byte `json:"correlation,omitempty"`
	// Correlated distinguishes an empty Correlation from none.
	Correlated bool `json:"correlated,omitempty"`
	// Value is the same JSON object as in vehicle.command-results.
	Value json.RawMessage `json:"value"`
}

// respond queues the record's current state for its response topic if it is an outcome: a vehicle's report or an end.
// Beyond the bound of events it is dropped and counted.
func (b *batch) respond(rec *record, v *eventValue) error {
	if !rec.Respond || b.s.o.Respond == nil || !rec.State.Final() && rec.State != Accepted {
		return nil
	}
	if b.s.answers+b.answers >= b.s.o.MaxEvents {
		b.after = append(b.after, func() { b.s.metrics.dropped.WithLabelValues("responses_full").Inc() })
		return nil
	}
	p, err := b.t.properties(rec)
	if b.broken(err) != nil {
		return err
	}
	value, err := json.Marshal(v)
	if b.broken(err) != nil {
		return err
	}
	data, err := json.Marshal(Response{Topic: p.ResponseTopic, Correlation: p.Correlation, Correlated: p.Correlated, Value: value})
	if b.broken(err) != nil {
		return err
	}
	n, err := b.t.answers().NextSequence()
	if b.broken(err) != nil {
		return err
	}
	b.answers++
	return b.broken(b.t.answers().Put(key(n), data))
}

// respondSome publishes the oldest outcomes and removes them.
func (s *Service) respondSome(ctx context.Context) (int, error) {
	var responses []Response
	var keys [][]byte
	err := s.o.DB.View(func(tx *statefile.Tx) error {
		c, size := tx.Bucket(bucketAnswers).Cursor(), 0
		for k, v := c.First(); k != nil && len(keys) < publishEvents && size < publishBytes; k, v = c.Next() {
			var r Response
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("outcome %d: %w", number(k), err)
			}
			responses, keys = append(responses, r), append(keys, key(number(k)))
			size += len(v)
		}
		return nil
	})
	if err != nil || len(responses) == 0 {
		return 0, err
	}
	if err := s.o.Respond(ctx, responses); err != nil {
		return 0, err
	}
	return len(responses), s.submit(ctx, true, func(b *batch) error {
		for _, k := range keys {
			if err := b.broken(b.t.answers().Delete(k)); err != nil {
				return err
			}
			b.answers--
		}
		return nil
	})
}
