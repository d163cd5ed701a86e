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

// Claim identifies the reader of a partition. It is committed with the offset, and a reader that sees a later claim
// than its own stops: so a reader that was taken for dead notices its successor.
type Claim struct {
	Number int64  `json:"claim,omitempty"` // one more than the previous claim
	Owner  string `json:"owner,omitempty"`
}

// After reports whether c is later than o.
func (c Claim) After(o Claim) bool {
	return cmp.Or(cmp.Compare(c.Number, o.Number), cmp.Compare(c.Owner, o.Owner)) > 0
}

// Claim returns this reader's claim; it is set by Committed.
func (p *Assignment) Claim() Claim { return p.known().Claim }

// Committed returns the position that the group has committed; Next is negative if there is none. Later commits of this
// consumer claim the partition. It retries until ctx ends; ctx's error is the only one.
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
		if !remote.Pause(ctx, remote.Backoff(try, 50*time.Millisecond, 2*time.Second)) {
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

// offsets returns the committed offsets, none for a group without commits.
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

// memoOf parses the metadata of a committed offset; metadata of other programs gives an empty memo.
func memoOf(metadata string) memo {
	var m memo
	if json.Unmarshal([]byte(metadata), &m) != nil {
		return memo{}
	}
	return m
}

// OffsetAt returns the offset of the first record at or after a time, or the partition's end.
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
