package kafkaclient

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Tail reads the ends of a topic's partitions, for whoever wants to know what was written last.
type Tail struct{ c *Consumer }

// NewTail makes one. It does not connect; Close ends it.
func NewTail(config Config, topic string, log *slog.Logger, m *Metrics) (*Tail, error) {
	c, err := NewConsumer(ConsumerOptions{Config: config, Name: "tail", Group: "-", Owner: "-", Topics: []string{topic}, Log: log, Metrics: m})
	if err != nil {
		return nil, err
	}
	return &Tail{c}, nil
}

// Close closes the connections.
func (t *Tail) Close() { t.c.Close() }

// Ends are a partition's first offset that is not older than a time, and the one after its last.
func (t *Tail) Ends(ctx context.Context, id int, since time.Time) (from, end int64, err error) {
	p := &Assignment{Topic: t.c.o.Topics[0], ID: id, c: t.c}
	first, end, err := p.ends(ctx)
	if err != nil {
		return 0, 0, err
	}
	if from, err = p.OffsetAt(ctx, since); err != nil {
		return 0, 0, err
	}
	return max(first, from), end, nil
}

// tailBytes is how much is read at a time.
const tailBytes = 1 << 20

// Read gives take the records of a partition from one offset to another. What is gone in between is passed over.
func (t *Tail) Read(ctx context.Context, id int, from, to int64, take func(*Fetched)) error {
	p := &Assignment{Topic: t.c.o.Topics[0], ID: id, c: t.c, next: from}
	for p.next < to {
		recs, _, err := p.Fetch(ctx, tailBytes, 0)
		var gap *GapError
		if errors.As(err, &gap) && !gap.Anew && gap.To > p.next {
			p.next, p.hole = gap.To, nil
			continue
		}
		if err != nil {
			return err
		}
		for i := range recs {
			if recs[i].Offset < to {
				take(&recs[i])
			}
		}
	}
	return nil
}
