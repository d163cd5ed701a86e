package kafkaclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"cellgate/broker/shared/remote"
)

// ConsumerOptions configure a Consumer.
type ConsumerOptions struct {
	Config
	// Name tells consumers apart in logs and metrics.
	Name string
	// Group is the consumer group.
	Group  string
	Topics []string
	// Assigned is told which partitions of which topics each generation has for this member, before they are handled.
	Assigned func(partitions map[string][]int) `zero:"nobody is"`
	Log      *slog.Logger
	Metrics  *Metrics
}

// Consumer is a member of a consumer group. Unlike kafka-go's Reader it hands out whole partitions: a
// function reads, and commits when what it made of the records is safe.
type Consumer struct {
	o      ConsumerOptions
	client *kafka.Client
	health *remote.HealthTracker

	ids topicIDs

	end context.Context // of the group's connections
	cut context.CancelFunc
}

// NewConsumer checks the settings. It does not connect.
func NewConsumer(o ConsumerOptions) (*Consumer, error) {
	if err := o.check(o); err != nil {
		return nil, err
	}
	if len(o.Topics) == 0 {
		return nil, fmt.Errorf("%w: a consumer needs a topic", ErrConfig)
	}
	o.Log = o.Log.With("kafka", o.Name)
	c := &Consumer{o: o, client: o.client(slices.Clone(o.Topics)), health: remote.NewHealthTracker(o.Log, "kafka", "reading goes on when it is back")}
	c.end, c.cut = context.WithCancel(context.Background())
	return c, nil
}

// CutOff closes the connections to the group's coordinator and lets no new ones be made: Run, whose context has
// ended, returns at once instead of waiting for answers, without leaving the group.
func (c *Consumer) CutOff() { c.cut() }

// Health reports whether the member is in its group and can read.
func (c *Consumer) Health() remote.Health { return c.health.Get() }

// Run takes part in the group until ctx ends, and calls handle for each partition that is assigned, in a
// goroutine of its own. When the group rebalances, or ctx ends, handle's context ends and handle must return
// soon; the others wait for that, and so does the next call for the same partition. Run keeps trying while
// Kafka is away.
func (c *Consumer) Run(ctx context.Context, handle func(ctx context.Context, p *Assignment)) error {
	defer closeIdle(c.client)
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: c.o.Group, Brokers: c.o.Brokers, Dialer: c.o.dialer(c.end), Topics: c.o.Topics,
		WatchPartitionChanges: true, PartitionWatchInterval: c.o.PartitionWatchInterval,
		SessionTimeout: c.o.SessionTimeout, HeartbeatInterval: c.o.HeartbeatInterval,
		JoinGroupBackoff: c.o.RejoinBackoff, StartOffset: kafka.FirstOffset, Timeout: c.o.RequestTimeout,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer func() { _ = group.Close() }()
	for {
		gen, err := group.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, kafka.RebalanceInProgress) {
			continue
		}
		c.health.Set("group", err)
		if err != nil {
			continue // the group itself pauses before it tries again
		}
		c.holdOpen(ctx, gen)
		c.tell(gen)
		for topic, parts := range gen.Assignments {
			for _, a := range parts {
				p := &Assignment{Topic: topic, ID: a.ID, c: c, gen: gen, next: a.Offset}
				gen.Start(func(ctx context.Context) {
					if ctx.Err() != nil { // the generation was over before: nobody waits for this goroutine
						return
					}
					handle(ctx, p)
					c.health.Set(p, nil)
					<-ctx.Done() // a function that returned would end the generation
				})
			}
		}
	}
}

// holdOpen keeps a generation that ends from making way for the next one before RejoinBackoff has passed since its
// beginning. While a topic is missing kafka-go ends each at once, and would join thousands of times a second.
func (c *Consumer) holdOpen(ctx context.Context, gen *kafka.Generation) {
	began := time.Now()
	gen.Start(func(over context.Context) {
		<-over.Done()
		select {
		case <-time.After(c.o.RejoinBackoff - time.Since(began)):
		case <-ctx.Done():
		}
	})
}

func (c *Consumer) tell(gen *kafka.Generation) {
	if c.o.Assigned == nil {
		return
	}
	all := make(map[string][]int, len(gen.Assignments))
	for topic, parts := range gen.Assignments {
		for _, a := range parts {
			all[topic] = append(all[topic], a.ID)
		}
	}
	c.o.Assigned(all)
}

// Assignment is one assigned partition, for one goroutine; another may call Commit.
type Assignment struct {
	Topic string
	ID    int

	c    *Consumer
	gen  *kafka.Generation
	next int64 // offset of the next record; negative until the first fetch
	// batches were fetched and not yet decoded; high is where the partition ended then.
	batches []byte
	high    int64

	mu       sync.Mutex // guards memo: commits come from another goroutine than fetches
	memo     memo
	recalled bool
	hole     *GapError // in the middle of batches
	short    bool      // the partition ended before next when it was last looked at
}

// Fetched is a record that was read. Its bytes are the receiver's.
type Fetched struct {
	Offset  int64
	Time    time.Time
	Key     []byte
	Value   []byte
	Headers []kafka.Header
}

// Header returns the value of a header, nil if the record has none of the name.
func (f *Fetched) Header(name string) []byte {
	for i := range f.Headers {
		if f.Headers[i].Key == name {
			return f.Headers[i].Value
		}
	}
	return nil
}

// Fetch returns the next records, waiting up to wait for some, and the offset behind the partition's last
// record. Their keys and values are maxBytes, or what takes them beyond it: one batch. As much again is kept as
// it is stored. None and no error: nothing new. It tries again by itself while Kafka is away; the only errors are
// that of ctx and a GapError, which comes again at each call until Skip.
func (p *Assignment) Fetch(ctx context.Context, maxBytes int, wait time.Duration) ([]Fetched, int64, error) {
	for try := 1; ; try++ {
		recs, high, err := p.fetch(ctx, maxBytes, wait)
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		var gap *GapError
		if errors.As(err, &gap) {
			p.c.health.Set(p, nil)
			return nil, gap.End, gap
		}
		p.c.health.Set(p, err)
		if err == nil {
			p.short = false
			return recs, high, nil
		}
		select {
		case <-time.After(remote.Backoff(try, 50*time.Millisecond, 2*time.Second)):
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (p *Assignment) fetch(ctx context.Context, maxBytes int, wait time.Duration) ([]Fetched, int64, error) {
	rctx, cancel := context.WithTimeout(ctx, p.c.o.RequestTimeout+wait)
	defer cancel()
	if p.next < 0 {
		first, _, err := p.ends(rctx)
		if err != nil {
			return nil, 0, err
		}
		p.next, p.recalled = first, true
	}
	if err := p.identify(rctx); err != nil {
		return nil, 0, err
	}
	if p.known().Gap {
		return nil, 0, p.look(rctx)
	}
	if len(p.batches) == 0 {
		res, err := p.ask(rctx, maxBytes, wait)
		if err == nil && res.code != 0 {
			err = res.code
		}
		if errors.Is(err, kafka.OffsetOutOfRange) || errors.Is(err, kafka.UnknownTopicOrPartition) {
			p.c.forgetTopicIDs()
		}
		if errors.Is(err, kafka.OffsetOutOfRange) {
			return nil, 0, p.look(rctx)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("fetch %s/%d: %w", p.Topic, p.ID, err)
		}
		p.batches, p.high = res.batches, res.high
	}
	recs, err := p.decode(maxBytes)
	if len(recs) == 0 && err == nil && p.hole != nil {
		return nil, 0, p.hole
	}
	return recs, p.high, err
}

// Next is the offset of the next record that Fetch will look for: at first what the group has committed,
// negative if that is nothing.
func (p *Assignment) Next() int64 { return p.next }

// Resume has Fetch go on at next.
func (p *Assignment) Resume(next int64) { p.next, p.batches, p.hole = next, nil, nil }

// Commit tells the group that everything before next is done with. It also works shortly after handle's
// context has ended, which is when it matters most.
func (p *Assignment) Commit(next int64) error {
	ctx, cancel := context.WithTimeout(p.c.end, p.c.o.RequestTimeout)
	defer cancel()
	metadata, err := json.Marshal(p.known())
	if err != nil {
		return err
	}
	res, err := p.c.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: p.gen.GroupID, GenerationID: int(p.gen.ID), MemberID: p.gen.MemberID,
		Topics: map[string][]kafka.OffsetCommit{p.Topic: {{Partition: p.ID, Offset: next, Metadata: string(metadata)}}},
	})
	if err == nil {
		for _, o := range res.Topics[p.Topic] {
			err = o.Error
		}
	}
	if err != nil {
		return fmt.Errorf("commit %s/%d at %d: %w", p.Topic, p.ID, next, err)
	}
	return nil
}
