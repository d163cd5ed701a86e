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
	// Name identifies the consumer in logs and metrics.
	Name string
	// Group is the consumer group for committed offsets, which makes the lag visible to the usual tools. It has no
	// members: a dead one would keep its partitions until its session ends.
	Group string
	// Owner identifies the reader in commits: unique per process, also after a restart.
	Owner  string
	Topics []string
	// Mine reports whether this consumer reads a partition. It is called each PartitionWatchInterval.
	Mine func(topic string, id int) bool `zero:"all"`
	// Assigned is called with the partitions that this consumer reads from now on, before they are handled.
	Assigned func(partitions map[string][]int) `zero:"nobody is"`
	Log      *slog.Logger
	Metrics  *Metrics
}

// Consumer reads partitions. Unlike kafka-go's Reader it assigns whole partitions: a function reads, and commits once
// the results are safe.
type Consumer struct {
	o      ConsumerOptions
	client *kafka.Client
	health *remote.HealthTracker

	ids      topicIDs
	assigned bool // Assigned was called; owned by Run

	end context.Context // of commits
	cut context.CancelFunc
}

// NewConsumer checks the settings. It does not connect.
func NewConsumer(o ConsumerOptions) (*Consumer, error) {
	if err := o.check(o); err != nil {
		return nil, err
	}
	if len(o.Topics) == 0 {
		return nil, fmt.Errorf("%w: a consumer needs a topic", errConfig)
	}
	o.Log = o.Log.With("kafka", o.Name)
	c := &Consumer{o: o, client: o.client(slices.Clone(o.Topics)), health: remote.NewHealthTracker(o.Log, "kafka", "reading continues when it is back")}
	c.end, c.cut = context.WithCancel(context.Background())
	return c, nil
}

// Close ends pending commits, allows no new ones, and closes the connections. It makes Run return early if Run's
// context has ended; call it after Run in any case.
func (c *Consumer) Close() {
	c.cut()
	closeIdle(c.client)
}

// Health reports whether the consumer knows its partitions and can read.
func (c *Consumer) Health() remote.Health { return c.health.Get() }

// place names a partition.
type place struct {
	topic string
	id    int
}

// handled is a partition with a running handler.
type handled struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Run calls handle for each of this consumer's partitions, in its own goroutine, until ctx ends. When a partition is no
// longer assigned, or ctx ends, handle's context ends and handle must return soon; Run, and the next call for the same
// partition, wait for that. Run retries while Kafka is away.
func (c *Consumer) Run(ctx context.Context, handle func(ctx context.Context, p *Assignment)) {
	parts := map[place]*handled{}
	defer func() {
		for _, h := range parts {
			h.cancel()
			<-h.done
		}
	}()
	for failed := 0; ; {
		counts, err := c.count(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			err = c.o.cause(ctx, err)
		}
		c.health.Set("partitions", err)
		wait := c.o.PartitionWatchInterval
		if err != nil {
			failed++
			wait = min(wait, remote.Backoff(failed, 50*time.Millisecond, 2*time.Second))
		} else {
			failed = 0
			c.follow(ctx, parts, counts, handle)
		}
		if !remote.Pause(ctx, wait) {
			return
		}
	}
}

// count returns the number of partitions by topic. Topics that cannot be queried now are left out.
func (c *Consumer) count(ctx context.Context) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.RequestTimeout)
	defer cancel()
	m, err := c.client.Metadata(ctx, &kafka.MetadataRequest{Topics: c.o.Topics})
	if err != nil {
		return nil, fmt.Errorf("partitions: %w", err)
	}
	counts := map[string]int{}
	for _, t := range m.Topics {
		if t.Error == nil && len(t.Partitions) > 0 {
			counts[t.Name] = len(t.Partitions)
		}
	}
	return counts, nil
}

// follow starts newly assigned partitions and ends those no longer assigned. A topic missing from counts is left
// unchanged: its absence may be temporary.
func (c *Consumer) follow(ctx context.Context, parts map[place]*handled, counts map[string]int, handle func(context.Context, *Assignment)) {
	var begin []place
	changed := !c.assigned
	for at, h := range parts {
		if n, known := counts[at.topic]; (known && at.id >= n) || !c.mine(at) {
			h.cancel()
			delete(parts, at)
			changed = true
			<-h.done
		}
	}
	for topic, n := range counts {
		for id := range n {
			if at := (place{topic, id}); parts[at] == nil && c.mine(at) {
				begin = append(begin, at)
				parts[at] = &handled{done: make(chan struct{})}
			}
		}
	}
	if changed || len(begin) > 0 {
		c.notify(parts)
	}
	for _, at := range begin {
		h, p := parts[at], &Assignment{Topic: at.topic, ID: at.id, c: c}
		pctx, cancel := context.WithCancel(ctx)
		h.cancel = cancel
		go func() {
			defer close(h.done)
			handle(pctx, p)
			c.health.Set(p, nil)
		}()
	}
}

func (c *Consumer) mine(at place) bool { return c.o.Mine == nil || c.o.Mine(at.topic, at.id) }

func (c *Consumer) notify(parts map[place]*handled) {
	c.assigned = true
	if c.o.Assigned == nil {
		return
	}
	all := map[string][]int{}
	for at := range parts {
		all[at.topic] = append(all[at.topic], at.id)
	}
	c.o.Assigned(all)
}

// Assignment is an assigned partition. One goroutine uses it; another may call Commit.
type Assignment struct {
	Topic string
	ID    int

	c    *Consumer
	next int64 // offset of the next record; negative until the first fetch
	// batches are fetched and not yet decoded; high is the partition's end at that time.
	batches []byte
	high    int64

	mu    sync.Mutex // guards memo: commits come from another goroutine than fetches
	memo  memo
	hole  *GapError // in the middle of batches
	short bool      // at the last look the partition ended before next
}

// Fetched is a record read from Kafka. The receiver owns its bytes.
type Fetched struct {
	Offset  int64
	Time    time.Time
	Key     []byte
	Value   []byte
	Headers []kafka.Header
}

// Header returns the value of a header, nil if it is missing.
func (f *Fetched) Header(name string) []byte {
	for i := range f.Headers {
		if f.Headers[i].Key == name {
			return f.Headers[i].Value
		}
	}
	return nil
}

// Fetch returns the next records and the offset after the partition's last record. It waits up to wait, and may return
// no records and no error. Keys and values have about maxBytes: the batch that reaches maxBytes is the last. As many
// bytes are kept as stored. It retries while Kafka is away; the only errors are ctx's and a GapError, which repeats
// until Skip.
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
		if !remote.Pause(ctx, remote.Backoff(try, 50*time.Millisecond, 2*time.Second)) {
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
		p.next = first
	}
	p.identify(rctx)
	if p.known().Gap {
		return nil, 0, p.look(rctx)
	}
	fresh := len(p.batches) == 0
	if fresh {
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
	recs, err := p.decode(maxBytes, fresh)
	if len(recs) == 0 && err == nil && p.hole != nil {
		return nil, 0, p.hole
	}
	return recs, p.high, err
}

// Next returns the offset of the next record: negative before Resume and the first fetch.
func (p *Assignment) Next() int64 { return p.next }

// Mark is a position in a partition and the log that it belongs to.
type Mark struct {
	Next int64 `json:"next"` // the next record; negative: the first existing one
	// Topic is the topic's id; empty matches any. Gap means that the log was replaced and no operator has decided where
	// to continue.
	Topic string `json:"topic,omitempty"`
	Gap   bool   `json:"gap,omitempty"`
}

// Mark returns where Fetch continues.
func (p *Assignment) Mark() Mark {
	m := p.known()
	return Mark{p.next, m.Topic, m.Gap}
}

// Resume makes Fetch continue at m.
func (p *Assignment) Resume(m Mark) {
	was := p.known()
	was.Topic, was.Gap = m.Topic, m.Gap
	p.remember(was)
	p.next, p.batches, p.hole, p.short = m.Next, nil, nil, false
}

// Commit commits next: everything before it is done. It also works shortly after handle's context has ended, when it
// matters most.
func (p *Assignment) Commit(next int64) error {
	ctx, cancel := context.WithTimeout(p.c.end, p.c.o.RequestTimeout)
	defer cancel()
	metadata, err := json.Marshal(p.known())
	if err != nil {
		return err
	}
	res, err := p.c.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: p.c.o.Group, GenerationID: -1, // the committer is not a member
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
