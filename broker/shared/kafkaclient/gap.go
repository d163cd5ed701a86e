package kafkaclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// GapError means that a partition has permanently lost the record to be read next. Reading continues only after Skip.
type GapError struct {
	Topic string
	ID    int   // of the partition
	From  int64 // the record to be read next
	To    int64 // the first existing record from there on; of another log, its first one
	End   int64 // after the last record
	// Recreated means that the log was replaced: the topic was recreated, or its end was cut off. The loss is then unknown,
	// and To may be before From.
	Recreated bool
}

// Error implements error.
func (g *GapError) Error() string {
	if g.Recreated {
		return fmt.Sprintf("%s/%d is not what was read up to record %d: it was recreated or truncated, and holds %s", g.Topic, g.ID, g.From-1, g.holds())
	}
	return fmt.Sprintf("%s/%d: records %d to %d are gone: they were removed before they were read; it holds %s", g.Topic, g.ID, g.From, g.To-1, g.holds())
}

func (g *GapError) holds() string {
	if g.End <= g.To {
		return "no record"
	}
	return fmt.Sprintf("records %d to %d", g.To, g.End-1)
}

// Lost returns how many records are lost; false if that is unknown.
func (g *GapError) Lost() (int64, bool) { return max(0, g.To-g.From), !g.Recreated }

// memo is the metadata of a committed offset: which log the offset belongs to, and who reads the partition.
type memo struct {
	Topic string `json:"topic,omitempty"` // its id
	Gap   bool   `json:"gap,omitempty"`   // the log was replaced; no operator has decided where to continue
	Claim
}

func (p *Assignment) known() memo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memo
}

func (p *Assignment) remember(m memo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memo = m
}

// identify compares the log with the one that p.next belongs to. Without topic ids it assumes the same.
func (p *Assignment) identify(ctx context.Context) {
	m, id := p.known(), p.c.topicID(ctx, p.Topic)
	if m.Topic == "" {
		m.Topic = id
	}
	m.Gap = m.Gap || (id != "" && id != m.Topic)
	if m.Gap {
		p.batches, p.hole = nil, nil
	}
	p.remember(m)
}

// look reads the partition's bounds and returns a GapError unless the record to be read next exists or is still to
// come.
func (p *Assignment) look(ctx context.Context) error {
	first, end, err := p.ends(ctx)
	if err != nil {
		return err
	}
	m := p.known()
	g := &GapError{Topic: p.Topic, ID: p.ID, From: p.next, To: first, End: end, Recreated: m.Gap}
	switch {
	case m.Gap, p.next < first:
		return g
	case p.next <= end:
		return nil
	}
	if !p.short { // a new leader may not know the end yet
		p.short = true
		return fmt.Errorf("%s/%d ends at %d, before record %d: %w", p.Topic, p.ID, end, p.next, kafka.OffsetOutOfRange)
	}
	m.Gap, g.Recreated = true, true
	p.remember(m)
	return g
}

// ends returns the partition's first offset and the offset after its last record.
func (p *Assignment) ends(ctx context.Context) (first, end int64, err error) {
	res, err := p.c.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{p.Topic: {kafka.FirstOffsetOf(p.ID), kafka.LastOffsetOf(p.ID)}},
	})
	if err != nil {
		return 0, 0, fmt.Errorf("offsets of %s/%d: %w", p.Topic, p.ID, err)
	}
	for _, o := range res.Topics[p.Topic] {
		if o.Partition == p.ID {
			return o.FirstOffset, o.LastOffset, o.Error
		}
	}
	return 0, 0, fmt.Errorf("offsets of %s/%d: %w", p.Topic, p.ID, protocol.ErrNoPartition)
}

// Skip continues after the gap that Fetch has reported, as it is now, once the group has committed the new offset. It
// returns nil if nothing is missing any more.
func (p *Assignment) Skip(ctx context.Context) (*GapError, error) {
	return p.skip(ctx, func(g *GapError) error { return p.Commit(g.To) })
}

// Pass is Skip without a commit, for a reader whose group only shows its position.
func (p *Assignment) Pass(ctx context.Context) (*GapError, error) {
	return p.skip(ctx, func(*GapError) error { return nil })
}

func (p *Assignment) skip(ctx context.Context, record func(*GapError) error) (*GapError, error) {
	rctx, cancel := context.WithTimeout(ctx, p.c.o.RequestTimeout)
	defer cancel()
	g := p.hole
	if g == nil {
		if err := p.look(rctx); err == nil || !errors.As(err, &g) {
			return nil, err
		}
	}
	was := p.known()
	p.remember(memo{Topic: p.c.topicID(rctx, p.Topic), Claim: was.Claim})
	if err := record(g); err != nil {
		p.remember(was)
		return nil, err
	}
	p.next, p.hole, p.short = g.To, nil, false
	if n, known := g.Lost(); known {
		p.c.o.Metrics.Skipped.WithLabelValues(p.c.o.Name).Add(float64(n))
	}
	return g, nil
}
