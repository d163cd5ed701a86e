package harness

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// EachRecord calls take for all records of a topic up to the end at the time of the call, per partition in order.
func EachRecord(ctx context.Context, brokers []string, topic string, take func(Record)) error {
	return EachRecordFrom(ctx, brokers, topic, nil, take)
}

// EachRecordFrom is EachRecord without the records before an offset of each partition.
func EachRecordFrom(ctx context.Context, brokers []string, topic string, from map[int32]int64, take func(Record)) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer cl.Close()
	first, end, err := bounds(ctx, kadm.NewClient(cl), topic)
	if err != nil {
		return err
	}
	start, left := map[int32]kgo.Offset{}, 0
	for p, last := range end {
		if begin := max(first[p], from[p]); last > begin {
			start[p], left = kgo.NewOffset().At(begin), left+1
		}
	}
	if left == 0 {
		return nil
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: start})
	return drain(ctx, cl, end, left, take)
}

// ReadTopic returns the records of EachRecord.
func ReadTopic(ctx context.Context, brokers []string, topic string) ([]Record, error) {
	var all []Record
	err := EachRecord(ctx, brokers, topic, func(r Record) { all = append(all, r) })
	return all, err
}

// bounds returns the first and the end offset per partition; empty for a missing topic.
func bounds(ctx context.Context, adm *kadm.Client, topic string) (first, end map[int32]int64, err error) {
	topics, err := adm.ListTopics(ctx, topic)
	if err != nil || !topics.Has(topic) {
		return nil, nil, err
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	first, end = map[int32]int64{}, map[int32]int64{}
	starts.Each(func(o kadm.ListedOffset) { first[o.Partition] = o.Offset })
	ends.Each(func(o kadm.ListedOffset) { end[o.Partition] = o.Offset })
	return first, end, nil
}

// drain polls until the remaining partitions (left) have reached their ends.
func drain(ctx context.Context, cl *kgo.Client, end map[int32]int64, left int, take func(Record)) error {
	for left > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("with %d partitions not read to the end: %w", left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset >= end[r.Partition] {
				return
			}
			take(record(r))
			if r.Offset == end[r.Partition]-1 {
				left--
			}
		})
	}
	return nil
}

func record(r *kgo.Record) Record {
	headers := make(map[string]string, len(r.Headers))
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: r.Value,
		Headers: headers, Timestamp: r.Timestamp,
	}
}
