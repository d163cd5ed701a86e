package kafkaclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"cellgate/broker/shared/remote"
)

// Claim says who reads a partition. It is committed beside the offset, and whoever sees a later one than its own stops:
// so a reader that was taken for dead notices that it has a successor.
type Claim struct {
	Number int64  `json:"claim,omitempty"` // one more than the claim before it
	Owner  string `json:"owner,omitempty"`
}

// After reports whether the claim is the later one.
func (c Claim) After(o Claim) bool {
	return cmp.Or(cmp.Compare(c.Number, o.Number), cmp.Compare(c.Owner, o.Owner)) > 0
}

// Claim is the partition's own since Committed.
func (p *Assignment) Claim() Claim { return p.known().Claim }

// Committed is what the group has committed: Next is negative when that is nothing. What this consumer commits from then
// on claims the partition. It tries until ctx ends, whose error is the only one.
func (p *Assignment) Committed(ctx context.Context) (Mark, error) {
	for try := 1; ; try++ {
		next, m, err := p.committed(ctx)
		if ctx.Err() != nil {
			return Mark{}, ctx.Err()
		}
		p.c.health.Set(p, err)
		if err == nil {
			if m.Owner != p.c.o.Owner {
				m.Claim = Claim{m.Number + 1, p.c.o.Owner}
			}
			p.remember(m)
			return Mark{next, m.Topic, m.Gap}, nil
		}
		select {
		case <-time.After(remote.Backoff(try, 50*time.Millisecond, 2*time.Second)):
		case <-ctx.Done():
			return Mark{}, ctx.Err()
		}
	}
}

func (p *Assignment) committed(ctx context.Context) (next int64, m memo, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.c.o.RequestTimeout)
	defer cancel()
	next = -1
	all, err := p.c.offsets(ctx, map[string][]int{p.Topic: {p.ID}})
	if err == nil {
		for _, o := range all[p.Topic] {
			err, next, m = o.Error, o.CommittedOffset, memoOf(o.Metadata)
		}
	}
	if err != nil {
		return 0, memo{}, fmt.Errorf("committed offset of %s/%d: %w", p.Topic, p.ID, err)
	}
	return next, m, nil
}

// offsets are those that the group has committed. A group that nobody has committed to has none.
func (c *Consumer) offsets(ctx context.Context, partitions map[string][]int) (map[string][]kafka.OffsetFetchPartition, error) {
	res, err := c.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: c.o.Group, Topics: partitions})
	if err == nil {
		err = res.Error
	}
	if errors.Is(err, kafka.GroupIdNotFound) {
		all := map[string][]kafka.OffsetFetchPartition{}
		for topic, ids := range partitions {
			for _, id := range ids {
				all[topic] = append(all[topic], kafka.OffsetFetchPartition{Partition: id, CommittedOffset: -1})
			}
		}
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	return res.Topics, nil
}

// memoOf reads what was committed beside an offset; of somebody else's it is empty.
func memoOf(metadata string) memo {
	var m memo
	if json.Unmarshal([]byte(metadata), &m) != nil {
		return memo{}
	}
	return m
}

// OffsetAt is the offset of the first record that is not older than at, or the partition's end.
func (p *Assignment) OffsetAt(ctx context.Context, at time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, p.c.o.RequestTimeout)
	defer cancel()
	res, err := p.c.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{p.Topic: {kafka.TimeOffsetOf(p.ID, at), kafka.LastOffsetOf(p.ID)}},
	})
	if err != nil {
		return 0, fmt.Errorf("offset of %s/%d at %s: %w", p.Topic, p.ID, at.UTC().Format(time.RFC3339), err)
	}
	for _, o := range res.Topics[p.Topic] {
		if o.Partition != p.ID {
			continue
		}
		for offset := range o.Offsets {
			if offset >= 0 {
				return offset, o.Error
			}
		}
		return o.LastOffset, o.Error
	}
	return 0, fmt.Errorf("offset of %s/%d at %s: no answer", p.Topic, p.ID, at.UTC().Format(time.RFC3339))
}
