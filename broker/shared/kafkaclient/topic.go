package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// topic routes records to the writers of its partitions. While the number of partitions is unknown or changing, records
// wait here in order: a key may belong to another partition afterwards, so the writers are emptied first.
type topic struct {
	p    *Producer
	name string

	mu         sync.Mutex
	partitions []*partitionWriter // one per partition; none while unknown
	returned   []*Record          // from removed partitions; they precede waiting
	waiting    []*Record
	spread     int // next partition for records without a key
	// target is the new number of partitions while resizing: the writers drain first.
	target        int
	resizing      bool
	resizingSince time.Time
	// parked gives the reasons of parked destinations, by partition or wholeTopic.
	parked map[int]error
	// missingSince is when a reachable cluster first reported the topic as missing, zero if it exists. lost means that
	// this is longer ago than the grace.
	missingSince time.Time
	lost         bool
	// failingSince is when the cluster first returned no partitions of a topic that exists or may exist.
	failingSince time.Time
}

func (t *topic) add(r *Record) {
	t.mu.Lock()
	if t.lost && !patient(r) {
		t.mu.Unlock()
		r.Done.Produced(r, fmt.Errorf("%w: %w", ErrRefused, ErrMissingTopic))
		return
	}
	defer t.mu.Unlock()
	if t.parkLocked(wholeTopic, r) {
		return
	}
	if len(t.partitions) == 0 || t.resizing || len(t.waiting) > 0 {
		t.waiting = append(t.waiting, r)
		return
	}
	t.routeLocked(r)
}

func patient(r *Record) bool { return r.Parker != nil && r.Parker.Patient() }

func (t *topic) routeLocked(r *Record) {
	n := len(t.partitions)
	i := 0
	switch {
	case r.Key != nil:
		i = Partition(r.Key, n)
	case r.Near > 0:
		i = (r.Near - 1) % n
	default:
		i = t.spread % n
		t.spread++
	}
	if !t.parkLocked(i, r) {
		t.partitions[i].add(r)
	}
}

// setPartitions applies the cluster's count. It reports whether nothing waits any more.
func (t *topic) setPartitions(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missingSince, t.failingSince, t.lost = time.Time{}, time.Time{}, false
	if (n != len(t.partitions) || t.resizing) && !t.resizeLocked(n) {
		return false
	}
	waiting := append(t.returned, t.waiting...)
	t.returned, t.waiting = nil, nil
	for _, r := range waiting {
		t.routeLocked(r)
	}
	return true
}

// markMissing records that the topic is missing, parks what can be parked, and fails what has waited longer than the
// grace.
func (t *topic) markMissing(grace time.Duration) {
	t.mu.Lock()
	if t.missingSince.IsZero() {
		t.missingSince = time.Now()
	}
	if len(t.partitions) == 0 || t.resizeLocked(0) {
		t.parkWaitingLocked(ErrMissingTopic)
	}
	var lost []*Record
	if t.lost = grace > 0 && time.Since(t.missingSince) > grace; t.lost {
		for _, list := range []*[]*Record{&t.returned, &t.waiting} {
			all := *list
			*list = nil
			for _, r := range all {
				if patient(r) {
					*list = append(*list, r)
				} else {
					lost = append(lost, r)
				}
			}
		}
	}
	t.mu.Unlock()
	t.finish(lost, fmt.Errorf("%w: %w", ErrRefused, ErrMissingTopic))
}

// unavailable records that the cluster returned no partitions, for another reason than a missing topic.
func (t *topic) unavailable(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failingSince.IsZero() {
		t.failingSince = time.Now()
	}
	if err != nil && len(t.partitions) == 0 && (time.Since(t.failingSince) > parkAfter || len(t.waiting) > crowded) {
		t.parkWaitingLocked(err)
	}
}

// Unknown reports whether the topic is missing or unavailable: its records wait.
func (p *Producer) Unknown(topic string) bool {
	p.mu.RLock()
	t := p.topics[topic]
	p.mu.RUnlock()
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.partitions) == 0 && !t.lost && (!t.missingSince.IsZero() || !t.failingSince.IsZero())
}

// fail reports all records waiting here as failed with err.
func (t *topic) fail(err error) {
	t.mu.Lock()
	lost := append(t.returned, t.waiting...)
	t.returned, t.waiting = nil, nil
	t.mu.Unlock()
	t.finish(lost, err)
}

func (t *topic) finish(recs []*Record, err error) {
	for _, r := range recs {
		r.Done.Produced(r, err)
	}
}

// watchTopics keeps the partition counts current: at once for new topics, every few seconds for all, because partitions
// may be added.
func (p *Producer) watchTopics() {
	defer p.wg.Done()
	covered := 0
	for try := 1; ; try++ {
		topics := p.snapshot()
		if len(topics) != covered {
			p.cover(topics)
			covered = len(topics)
			try = 1
		}
		pause := p.o.backoff(try)
		if len(topics) == 0 || p.refresh(topics) {
			try, pause = 0, 2*p.o.MetadataTTL
		}
		select {
		case <-time.After(min(pause, 2*p.o.MetadataTTL)):
		case <-p.wake:
		case <-p.closing:
			if !p.waitingTopics(topics) {
				return
			}
			select {
			case <-time.After(p.o.BackoffMin):
			case <-p.ctx.Done():
				return
			}
		}
	}
}

// waitingTopics reports whether records still wait for partitions; Close gives them time.
func (p *Producer) waitingTopics(topics []*topic) bool {
	for _, t := range topics {
		t.mu.Lock()
		n, parked := len(t.returned)+len(t.waiting), t.parked[wholeTopic] != nil
		t.mu.Unlock()
		if n > 0 && !parked {
			return true
		}
	}
	return false
}

// cover replaces the client by one whose metadata covers all topics.
func (p *Producer) cover(topics []*topic) {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.name
	}
	p.client.replace(p.o.client(names)) // requests in flight on the previous one finish undisturbed
}

// refresh reads the partition counts from the client's metadata and reports whether no topic waits any more.
func (p *Producer) refresh(topics []*topic) bool {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.name
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.o.RequestTimeout)
	defer cancel()
	c := p.client.take()
	defer c.release()
	m, err := c.Metadata(ctx, &kafka.MetadataRequest{Topics: names})
	if p.ctx.Err() != nil {
		return false
	}
	if err != nil {
		err = p.o.cause(ctx, err)
	}
	p.health.Set("metadata", err)
	if err != nil {
		return false
	}
	settled := true
	for i, mt := range m.Topics {
		switch {
		case mt.Error == nil && len(mt.Partitions) > 0:
			settled = topics[i].setPartitions(len(mt.Partitions)) && settled
			p.health.Set(topics[i], nil)
		case errors.Is(mt.Error, kafka.UnknownTopicOrPartition):
			settled = p.missing(ctx, topics[i]) && settled
		case errors.Is(mt.Error, kafka.InvalidTopic):
			topics[i].fail(fmt.Errorf("%w: %w", ErrRefused, mt.Error))
		default:
			topics[i].unavailable(mt.Error)
			if mt.Error != nil {
				p.health.Set(topics[i], fmt.Errorf("topic %s: %w", topics[i].name, mt.Error))
			}
			settled = false
		}
	}
	return settled
}

// missing creates the topic if that is allowed, else marks it as missing. Only a fresh response counts: cached metadata
// may be from before an outage.
func (p *Producer) missing(ctx context.Context, t *topic) bool {
	l := p.client.take()
	defer l.release()
	c := l.Client
	if err := ping(ctx, c); err != nil {
		return false
	}
	if p.o.AutoCreate == nil {
		t.markMissing(p.o.MissingTopicGrace)
		p.health.Set(t, fmt.Errorf("topic %s: %w", t.name, ErrMissingTopic))
		return false
	}
	err := p.create(ctx, c, t.name)
	switch {
	case errors.Is(err, kafka.InvalidTopic):
		t.fail(fmt.Errorf("%w: %w", ErrRefused, err))
		return true
	case err != nil:
		t.markMissing(p.o.MissingTopicGrace)
	}
	p.health.Set(t, err)
	return false
}

func (p *Producer) create(ctx context.Context, c *kafka.Client, name string) error {
	spec := kafka.TopicConfig{
		Topic: name, NumPartitions: p.o.AutoCreate.Partitions, ReplicationFactor: p.o.AutoCreate.Replication,
	}
	if spec.NumPartitions == 0 {
		spec.NumPartitions = -1
	}
	if spec.ReplicationFactor == 0 {
		spec.ReplicationFactor = -1
	}
	res, err := c.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{spec}})
	if err == nil {
		err = res.Errors[name]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	if err == nil {
		p.o.Log.Info("kafka topic created", "topic", name, "partitions", spec.NumPartitions)
	}
	return nil
}

func (p *Producer) watchHealth() {
	defer p.wg.Done()
	p.health.Watch(p.ctx, p.closing, p.o.PingInterval, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, p.o.DialTimeout)
		defer cancel()
		c := p.client.take()
		defer c.release()
		err := ping(ctx, c.Client)
		if err != nil {
			err = p.o.cause(ctx, err)
		}
		return err
	})
}
