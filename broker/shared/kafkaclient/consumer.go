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
	// Group is the consumer group that offsets are committed to, where the usual tools show how far the reading is. Nobody
	// is a member of it: a dead one would hold its partitions for as long as its session lasts.
	Group string
	// Owner names who reads, in what it commits: no other process has it, nor the same one after a restart.
	Owner  string
	Topics []string
	// Mine tells which partitions this consumer reads. It is asked each PartitionWatchInterval.
	Mine func(topic string, id int) bool `zero:"all"`
	// Assigned is told which partitions of which topics this consumer reads from now on, before they are handled.
	Assigned func(partitions map[string][]int) `zero:"nobody is"`
	Log      *slog.Logger
	Metrics  *Metrics
}

// Consumer reads partitions by itself. Unlike kafka-go's Reader it hands out whole partitions: a function reads, and
// commits when what it made of the records is safe.
type Consumer struct {
	o      ConsumerOptions
	client *kafka.Client
	health *remote.HealthTracker

	ids  topicIDs
	told bool // Assigned was called; Run's

	end context.Context // of commits
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

// Close ends commits that are under way, lets no new ones begin, and closes the connections. Before Run, whose context has
// ended, has returned it cuts Run short; call it after that in any case.
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

// handled is a partition that some goroutine handles.
type handled struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Run calls handle for each partition that is this consumer's, in a goroutine of its own, until ctx ends. When a
// partition is not its own any more, or ctx ends, handle's context ends and handle must return soon; Run, and the next
// call for the same partition, wait for that. Run keeps trying while Kafka is away.
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
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// count tells how many partitions the topics have. One that cannot be told of now is left out.
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

// follow begins what is new among the consumer's partitions and ends what is not its own any more. A topic that is not
// counted stays as it is: it may be missing for a moment only.
func (c *Consumer) follow(ctx context.Context, parts map[place]*handled, counts map[string]int, handle func(context.Context, *Assignment)) {
	var begin []place
	changed := !c.told
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
		c.tell(parts)
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

func (c *Consumer) tell(parts map[place]*handled) {
	c.told = true
	if c.o.Assigned == nil {
		return
	}
	all := map[string][]int{}
	for at := range parts {
		all[at.topic] = append(all[at.topic], at.id)
	}
	c.o.Assigned(all)
}

// Assignment is one partition of the consumer's, for one goroutine; another may call Commit.
type Assignment struct {
	Topic string
	ID    int

	c    *Consumer
	next int64 // offset of the next record; negative until the first fetch
	// batches were fetched and not yet decoded; high is where the partition ended then.
	batches []byte
	high    int64

	mu    sync.Mutex // guards memo: commits come from another goroutine than fetches
	memo  memo
	hole  *GapError // in the middle of batches
	short bool      // the partition ended before next when it was last looked at
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

// Fetch returns the next records, waiting up to wait for some, and the offset after the partition's last
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

// Next is the offset of the next record that Fetch will look for: negative before Resume and the first fetch.
func (p *Assignment) Next() int64 { return p.next }

// Mark is a position in a partition, and the log that it counts in.
type Mark struct {
	Next int64 `json:"next"` // the next record; negative: the first that there is
	// Topic is the id of the topic; empty: whichever it is. Gap says that the log is another one, and that nobody has
	// decided where to go on.
	Topic string `json:"topic,omitempty"`
	Gap   bool   `json:"gap,omitempty"`
}

// Mark is where Fetch goes on.
func (p *Assignment) Mark() Mark {
	m := p.known()
	return Mark{p.next, m.Topic, m.Gap}
}

// Resume has Fetch go on there.
func (p *Assignment) Resume(m Mark) {
	was := p.known()
	was.Topic, was.Gap = m.Topic, m.Gap
	p.remember(was)
	p.next, p.batches, p.hole, p.short = m.Next, nil, nil, false
}

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
		GroupID: p.c.o.Group, GenerationID: -1, // of who is no member
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
