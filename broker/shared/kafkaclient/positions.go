package kafkaclient

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// Position is the group's progress in a partition.
type Position struct {
	Topic      string
	ID         int
	First, End int64 // of the partition; End is after the last record
	Committed  int64 // by the group; negative: none
	Claim      Claim // of the reader that committed
}

// Positions returns the position of every partition of the consumer's topics, assigned or not. Partitions that cannot
// be queried now are left out.
func (c *Consumer) Positions(ctx context.Context) ([]Position, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	m, err := c.client.Metadata(ctx, &kafka.MetadataRequest{Topics: c.o.Topics})
	if err != nil {
		return nil, fmt.Errorf("partitions: %w", err)
	}
	ends, ids := map[string][]kafka.OffsetRequest{}, map[string][]int{}
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			ends[t.Name] = append(ends[t.Name], kafka.FirstOffsetOf(p.ID), kafka.LastOffsetOf(p.ID))
			ids[t.Name] = append(ids[t.Name], p.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	offsets, err := c.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: ends})
	if err != nil {
		return nil, fmt.Errorf("offsets: %w", err)
	}
	group, err := c.offsets(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("committed offsets: %w", err)
	}
	return joinPositions(offsets, group), nil
}

func joinPositions(offsets *kafka.ListOffsetsResponse, group map[string][]kafka.OffsetFetchPartition) []Position {
	var all []Position
	for topic, parts := range group {
		for _, g := range parts {
			for _, o := range offsets.Topics[topic] {
				if o.Partition == g.Partition && o.Error == nil && g.Error == nil {
					all = append(all, Position{topic, o.Partition, o.FirstOffset, o.LastOffset, g.CommittedOffset, memoOf(g.Metadata).Claim})
				}
			}
		}
	}
	return all
}

// TimeAt returns the time of the record at an existing offset, or of an earlier record in its batch.
func (c *Consumer) TimeAt(ctx context.Context, topic string, partition int, offset int64) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	p := &Assignment{Topic: topic, ID: partition, c: c, next: offset}
	res, err := p.ask(ctx, 1, 0)
	if err == nil && res.code != 0 {
		err = res.code
	}
	const magic, attributes, first, last = 16, 21, 27, 35
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("time of %s/%d at %d: %w", topic, partition, offset, err)
	case len(res.batches) < batchHeader || res.batches[magic] < 2:
		return time.Time{}, fmt.Errorf("time of %s/%d at %d: %w", topic, partition, offset, errAnswer)
	}
	at := first
	if binary.BigEndian.Uint16(res.batches[attributes:])&8 != 0 { // log append time, stored once per batch
		at = last
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(res.batches[at:]))), nil
}

// Retention returns how long the consumer's topics keep records. Topics with unlimited or unknown retention are left
// out.
func (c *Consumer) Retention(ctx context.Context) (map[string]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	req := &kafka.DescribeConfigsRequest{}
	for _, topic := range c.o.Topics {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{"retention.ms"},
		})
	}
	res, err := c.client.DescribeConfigs(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("retention: %w", err)
	}
	all := map[string]time.Duration{}
	for _, r := range res.Resources {
		for _, e := range r.ConfigEntries {
			if ms, err := strconv.ParseInt(e.ConfigValue, 10, 64); err == nil && ms >= 0 && e.ConfigName == "retention.ms" {
				all[r.ResourceName] = time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
			}
		}
	}
	return all, nil
}
