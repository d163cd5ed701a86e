package kafkaclient

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Tail reads the ends of a topic's partitions, to find what was written last.
type Tail struct{ c *Consumer }

// NewTail returns a Tail. It does not connect; Close releases it.
func NewTail(config Config, topic string, log *slog.Logger, m *Metrics) (*Tail, error) {
	c, err := NewConsumer(ConsumerOptions{Config: config, Name: "tail", Group: "-", Owner: "-", Topics: []string{topic}, Log: log, Metrics: m})
	if err != nil {
		return nil, err
	}
	return &Tail{c}, nil
}

// Close closes the connections.
func (t *Tail) Close() { t.c.Close() }

// Ends returns a partition's first offset at or after a time, and the offset after its last record.
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

// tailBytes is the size of one read.
const tailBytes = 1 << 20

// Read calls take for the records of a partition from one offset up to another. It skips what is lost in between.
func (t *Tail) Read(ctx context.Context, id int, from, to int64, take func(*Fetched)) error {
	p := &Assignment{Topic: t.c.o.Topics[0], ID: id, c: t.c, next: from}
	for p.next < to {
		recs, _, err := p.Fetch(ctx, tailBytes, 0)
		var gap *GapError
		if errors.As(err, &gap) && !gap.Recreated && gap.To > p.next {
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
