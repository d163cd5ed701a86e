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

// Record is a record for Kafka. The producer owns it from Produce until Done.
type Record struct {
	Topic string
	// Key chooses the partition and so the order; nil spreads over all partitions.
	Key []byte
	// Near chooses the partition of a record without a key, from 1; 0 spreads such records.
	Near int
	// Value is nil for a tombstone.
	Value []byte
	// Headers has HeaderCount headers, appended with AppendHeader.
	Headers     []byte
	HeaderCount int
	// Time is the record's timestamp, in ms since the Unix epoch.
	Time int64
	// Done is called exactly once, from a goroutine of the producer; it must not block.
	Done Completion
	// Parker may take the record back; if nil, the record waits for its destination without a limit.
	Parker Parker
}

// Completion receives a record's outcome: nil when all in-sync replicas have it, else an error that wraps ErrRefused,
// ErrAbandoned or errClosed.
type Completion interface {
	Produced(r *Record, err error)
}

// CompletionFunc adapts a function to Completion.
type CompletionFunc func(r *Record, err error)

// Produced implements Completion.
func (f CompletionFunc) Produced(r *Record, err error) { f(r, err) }

// TopicSpec says how to create a missing topic.
type TopicSpec struct {
	Partitions  int
	Replication int // 0 or -1: the broker's default
}

// ProducerOptions configure a Producer.
type ProducerOptions struct {
	Config
	// Name identifies the producer in logs and metrics: "cell", "central".
	Name string
	// Compression is zstd, lz4, snappy, gzip or none.
	Compression string
	// Linger is the minimum time between two batches of a writer that are not full.
	Linger time.Duration `zero:"none"`
	// BatchBytes and BatchRecords bound a batch before compression. The broker's limit (message.max.bytes) counts
	// compressed bytes.
	BatchBytes   int
	BatchRecords int
	// InFlight is the maximum number of batches in flight per partition, up to MaxInFlight.
	InFlight int `zero:"one"`
	// TransactionalID is given to one producer at a time by the cluster, which fences the previous one.
	TransactionalID string `zero:"each partition has an id of its own"`
	// AutoCreate creates missing topics.
	AutoCreate *TopicSpec `zero:"that is left to the operators"`
	// MissingTopicGrace is how long records wait for a topic that a reachable cluster does not have, before they are
	// refused with ErrMissingTopic.
	MissingTopicGrace time.Duration `zero:"for ever"`
	// Retried is called with the reason of each resend, in addition to Metrics.
	Retried func(reason string) `zero:"nobody else counts"`
	// Flow shares the link to the cluster with other producers.
	Flow    *FlowLane `zero:"it is this one's"`
	Log     *slog.Logger
	Metrics *Metrics
}

// Producer writes records to one cluster. Records of one partition are written in the order of their Produce calls,
// whatever fails in between. It gives no record up: a record that the broker refuses is reported as refused, everything
// else is resent until Close.
//
// Produce never waits: the caller bounds its outstanding records. In addition to these the producer holds one compressed
// batch for each one in flight, and at most two uncompressed ones.
type Producer struct {
	o        ProducerOptions
	codec    codec
	encoders encoders
	health   *remote.HealthTracker

	// ctx ends when Close gives up waiting; this cancels requests.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// closing is closed when Close begins: writers stop lingering, and end when empty.
	closing   chan struct{}
	closeOnce sync.Once

	identity  identity     // with TransactionalID
	lastTaken atomic.Int64 // when a writer last succeeded, in ns since the Unix epoch

	client *pool         // its client covers all topics known so far
	wake   chan struct{} // the topic set changed or a topic waits for its partitions

	mu     sync.RWMutex
	topics map[string]*topic
}

// NewProducer starts a producer. It does not connect: an unreachable cluster is no error.
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

// Produce accepts a record. It does not wait and does not fail: r.Done receives the outcome.
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

// kick makes the topic watcher run at once.
func (p *Producer) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Health reports whether the cluster takes the producer's records.
func (p *Producer) Health() remote.Health { return p.health.Get() }

// Close sends the accepted records until ctx ends; the rest is reported with errClosed. Produce must not be called
// afterwards.
func (p *Producer) Close(ctx context.Context) error {
	p.closeOnce.Do(func() { close(p.closing) })
	err := remote.Finish(ctx, &p.wg, p.cancel)
	p.failWaiting()
	p.client.swap(nil)
	if p.codec.zstd != nil {
		_ = p.codec.zstd.Close()
	}
	return err
}

func (p *Producer) failWaiting() {
	for _, t := range p.snapshot() {
		t.fail(errClosed)
	}
}

// snapshot returns the topics, sorted by name.
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

func (o *ProducerOptions) backoff(n int) time.Duration {
	return remote.Backoff(n, o.BackoffMin, o.BackoffMax)
}
