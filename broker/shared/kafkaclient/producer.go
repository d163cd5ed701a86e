package kafkaclient

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"cellgate/broker/shared/remote"
)

// Record is one record on its way to Kafka. It belongs to the producer from Produce until Done.
type Record struct {
	Topic string
	// Key chooses the partition and so the order; nil spreads over all partitions.
	Key []byte
	// Near chooses the partition of a record without a key, beginning with 1; 0 spreads them.
	Near int
	// Value is nil for a tombstone.
	Value []byte
	// Headers are HeaderCount headers made with AppendHeader.
	Headers     []byte
	HeaderCount int
	// Time is the record's timestamp, in milliseconds since the Unix epoch.
	Time int64
	// Done is called exactly once, from a goroutine of the producer; it must not block.
	Done Completion
	// Parker may take the record back; nil: it waits for its destination as long as that takes.
	Parker Parker
}

// Completion is told a record's outcome: nil when all in-sync replicas have it, else an error that wraps
// ErrRefused, ErrAbandoned or ErrClosed.
type Completion interface {
	Produced(r *Record, err error)
}

// CompletionFunc makes a Completion of a function.
type CompletionFunc func(r *Record, err error)

// Produced implements Completion.
func (f CompletionFunc) Produced(r *Record, err error) { f(r, err) }

// TopicSpec is how a missing topic is created.
type TopicSpec struct {
	Partitions  int
	Replication int // 0 or -1: the broker's default
}

// ProducerOptions configure a Producer.
type ProducerOptions struct {
	Config
	// Name tells producers apart in logs and metrics: "cell", "central".
	Name string
	// Compression is zstd, lz4, snappy, gzip or none.
	Compression string
	// Linger is the least time between two batches of a lane that are not full.
	Linger time.Duration `zero:"none"`
	// BatchBytes and BatchRecords bound a batch before compression. The broker's limit (message.max.bytes) counts
	// compressed bytes.
	BatchBytes   int
	BatchRecords int
	// InFlight is how many batches of a partition may be on their way, at most MaxInFlight.
	InFlight int `zero:"one"`
	// TransactionalID is what the cluster gives one producer at a time, and fences the one before by.
	TransactionalID string `zero:"each lane has an id of its own"`
	// AutoCreate creates missing topics.
	AutoCreate *TopicSpec `zero:"that is left to the operators"`
	// MissingTopicGrace is how long records wait for a topic that a reachable cluster says it does not
	// have, before they are refused with ErrMissingTopic.
	MissingTopicGrace time.Duration `zero:"for ever"`
	// Retried is told why something is sent again, beside Metrics.
	Retried func(reason string) `zero:"nobody else counts"`
	// Flow shares the way to the cluster with other producers.
	Flow    *FlowLane `zero:"it is this one's"`
	Log     *slog.Logger
	Metrics *Metrics
}

// Producer writes records to one cluster. Records of one partition are written in the order of their
// Produce calls, whatever fails in between. It never gives a record up: what the broker will not take is
// reported as refused, everything else is sent again until Close.
//
// Produce never waits, so the caller bounds what it has under way. Memory beyond the caller's records is
// at most one compressed batch per lane, and two as they are.
type Producer struct {
	o        ProducerOptions
	codec    codec
	encoders encoders
	health   *remote.HealthTracker

	// ctx ends when Close gives up waiting; it cuts requests off.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// closing is closed when Close begins: lanes stop lingering, and end when they are empty.
	closing   chan struct{}
	closeOnce sync.Once

	identity  identity     // with TransactionalID
	lastTaken atomic.Int64 // when any lane was last successful, in ns since the Unix epoch

	client *pool         // its client covers all topics known so far
	wake   chan struct{} // the topic set changed or a topic waits for its partitions

	mu     sync.RWMutex
	topics map[string]*topic
}

// NewProducer starts a producer. It does not connect: a cluster that is away is no error.
func NewProducer(o ProducerOptions) (*Producer, error) {
	if err := o.check(o); err != nil {
		return nil, err
	}
	o.Log = o.Log.With("kafka", o.Name)
	c, err := newCodec(o.Compression)
	if err != nil {
		return nil, err
	}
	p := &Producer{
		o: o, codec: c, encoders: newEncoders(c), health: remote.NewHealthTracker(o.Log, "kafka", "records are kept and sent again"),
		client:  newPool(o.client([]string{})),
		closing: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		topics:  make(map[string]*topic),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	p.wg.Add(2)
	go p.watchTopics()
	go p.watchHealth()
	return p, nil
}

// Prepare announces topics, so that their partitions are known (and missing ones created) before the
// first record. It does not wait.
func (p *Producer) Prepare(topics ...string) {
	for _, name := range topics {
		p.topic(name)
	}
}

// Produce accepts a record. It does not wait and does not fail: the outcome goes to r.Done.
func (p *Producer) Produce(r *Record) { p.topic(r.Topic).add(r) }

func (p *Producer) topic(name string) *topic {
	p.mu.RLock()
	t := p.topics[name]
	p.mu.RUnlock()
	if t != nil {
		return t
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t = p.topics[name]; t == nil {
		t = &topic{p: p, name: name}
		p.topics[name] = t
		p.kick()
	}
	return t
}

// kick makes the topic watcher look at once.
func (p *Producer) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Health reports whether the cluster takes what it is given.
func (p *Producer) Health() remote.Health { return p.health.Get() }

// Close sends what has been accepted, until ctx ends; what is left then is reported with ErrClosed. No
// Produce may follow.
func (p *Producer) Close(ctx context.Context) error {
	p.closeOnce.Do(func() { close(p.closing) })
	err := remote.Finish(ctx, &p.wg, p.cancel)
	p.failWaiting()
	p.client.close()
	if p.codec.zstd != nil {
		_ = p.codec.zstd.Close()
	}
	return err
}

func (p *Producer) failWaiting() {
	for _, t := range p.snapshot() {
		t.fail(ErrClosed)
	}
}

// snapshot returns the topics in the order of their names.
func (p *Producer) snapshot() []*topic {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.SortedFunc(maps.Values(p.topics), func(a, b *topic) int { return strings.Compare(a.name, b.name) })
}

func closeIdle(c *kafka.Client) {
	if t, ok := c.Transport.(*kafka.Transport); ok {
		t.CloseIdleConnections()
	}
}

// backoff is the pause before try n (from 1).
func (o *ProducerOptions) backoff(n int) time.Duration {
	return remote.Backoff(n, o.BackoffMin, o.BackoffMax)
}
