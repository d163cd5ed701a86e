package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/rules/sink/kafkaclient"
)

// lanes is how many outbox topics there are.
const lanes = 3

// laterPause is the pause before a record that the error topic refused is tried again.
const laterPause = 10 * time.Second

// cutOffGrace is how long a Stop that is out of time waits for a last commit and the leaving of the group.
const cutOffGrace = 500 * time.Millisecond

// DefaultErrorTopic is the topic of the cell's Kafka for records that the central Kafka will never take.
const DefaultErrorTopic = "central.errors"

// Options configure a Syncer.
type Options struct {
	// CellID is the value of the header src-cell.
	CellID string
	// Cell is the Kafka to read from, Central the one to write to.
	Cell, Central kafkaclient.Config
	// Group is the consumer group that the gateways of the cell share; "cellgate-sync" by default.
	Group string
	// Bandwidth limits the records' bytes per second, before compression; 0 is no limit. SetBandwidth
	// changes it.
	Bandwidth int64
	// ErrorTopic takes what the central Kafka refuses for good; DefaultErrorTopic if empty.
	ErrorTopic string
	// AutoCreate creates missing central topics, and the error topic; nil leaves that to the operators.
	AutoCreate *kafkaclient.TopicSpec
	// CommitInterval is how much is sent again after a crash; 1 s by default.
	CommitInterval time.Duration
	// Tune may change the settings of the clients.
	Tune func(*kafkaclient.ProducerOptions, *kafkaclient.ConsumerOptions)

	Log          *slog.Logger
	Metrics      *Metrics
	KafkaMetrics *kafkaclient.Metrics
}

func (o *Options) fill() {
	if o.Group == "" {
		o.Group = "cellgate-sync"
	}
	if o.ErrorTopic == "" {
		o.ErrorTopic = DefaultErrorTopic
	}
	if o.CommitInterval == 0 {
		o.CommitInterval = commitInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
}

// Syncer is the sync worker of one gateway.
type Syncer struct {
	o         Options
	topics    []string
	bandwidth *bandwidth
	consumer  *kafkaclient.Consumer
	central   *kafkaclient.Producer
	cell      *kafkaclient.Producer // for the error topic

	cancel context.CancelFunc
	wg     sync.WaitGroup
	hurry  chan struct{} // closed when Stop has no more time
	ending sync.Once     // closes hurry

	mu sync.Mutex
	// parts has also those that have gone to other members: what they sent may be under way.
	parts   map[partition]*forwarder
	retries map[*time.Timer]struct{}
	stopped bool
}

// New makes a syncer. It does not connect: neither Kafka needs to be there.
func New(o Options) (*Syncer, error) {
	o.fill()
	s := &Syncer{
		o: o, topics: kafkaclient.OutboxTopics(), bandwidth: newBandwidth(o.Bandwidth),
		hurry: make(chan struct{}),
		parts: map[partition]*forwarder{}, retries: map[*time.Timer]struct{}{},
	}
	central := kafkaclient.ProducerOptions{
		Config: o.Central, Name: "central", AutoCreate: o.AutoCreate, Log: o.Log, Metrics: o.KafkaMetrics,
	}
	cons := kafkaclient.ConsumerOptions{
		Config: o.Cell, Name: "sync", Group: o.Group, Topics: s.topics, Log: o.Log, Metrics: o.KafkaMetrics,
		Assigned: s.assigned,
	}
	if o.Tune != nil {
		o.Tune(&central, &cons)
	}
	cell := central
	cell.Config, cell.Name = o.Cell, "sync-errors"
	var err error
	if s.consumer, err = kafkaclient.NewConsumer(cons); err != nil {
		return nil, fmt.Errorf("sync: cell: %w", err)
	}
	if s.central, err = kafkaclient.NewProducer(central); err != nil {
		return nil, fmt.Errorf("sync: central: %w", err)
	}
	if s.cell, err = kafkaclient.NewProducer(cell); err != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.central.Close(ctx)
		return nil, fmt.Errorf("sync: cell: %w", err)
	}
	if o.Metrics.reg != nil {
		if err := o.Metrics.reg.Register(newCollector(s)); err != nil {
			return nil, errors.Join(fmt.Errorf("sync: %w", err), s.Stop(context.Background()))
		}
	}
	return s, nil
}

// Start begins to forward.
func (s *Syncer) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		err := s.consumer.Run(ctx, func(ctx context.Context, p *kafkaclient.Assignment) { s.forwarder(p).run(ctx, p) })
		if err != nil {
			s.o.Log.Error("sync stopped", "err", err)
		}
	}()
}

// SetBandwidth changes Options.Bandwidth from now on, also for what waits for it.
func (s *Syncer) SetBandwidth(bytesPerSecond int64) { s.bandwidth.set(bytesPerSecond) }

// Bandwidth is the limit in force, in bytes per second; 0 is none.
func (s *Syncer) Bandwidth() int64 { return s.bandwidth.get() }

// partition names one of an outbox topic.
type partition struct {
	topic string
	id    int
}

// assigned takes the partitions of a generation. They stay this gateway's until the next one, also while the cell's
// Kafka is away.
func (s *Syncer) assigned(parts map[string][]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.parts {
		f.setAssigned(slices.Contains(parts[name.topic], name.id))
	}
	for topic, ids := range parts {
		for _, id := range ids {
			name := partition{topic, id}
			if s.parts[name] == nil {
				s.parts[name] = &forwarder{
					s: s, partition: name, lane: max(0, slices.Index(s.topics, topic)), room: make(chan struct{}, 1), next: -1,
					assigned: true,
				}
			}
		}
	}
}

// forwarder returns that of an assigned partition.
func (s *Syncer) forwarder(p *kafkaclient.Assignment) *forwarder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[partition{p.Topic, p.ID}]
}

func refused(err error) bool { return errors.Is(err, kafkaclient.ErrRefused) }

// later tries the error topic again after a pause.
func (s *Syncer) later(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(laterPause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.retries, t)
		if !s.stopped {
			s.cell.Produce(&d.record)
		}
	})
	s.retries[t] = struct{}{}
}

func (s *Syncer) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// Stop leaves the group, giving what is under way until ctx ends, and commits what is settled. It outlasts ctx by no
// more than a second.
func (s *Syncer) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	for t := range s.retries {
		t.Stop()
	}
	s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.ending.Do(func() { close(s.hurry) })
		cut := time.AfterFunc(cutOffGrace, s.consumer.CutOff)
		<-done
		cut.Stop()
	}
	s.consumer.CutOff()
	return errors.Join(s.central.Close(ctx), s.cell.Close(ctx))
}

// Health is the state of one of the two clusters.
type Health struct {
	Name   string    `json:"name"`
	OK     bool      `json:"ok"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// Health is the state of the cell's Kafka, as the group member sees it, and of the central one.
func (s *Syncer) Health() []Health {
	c, p := s.consumer.Health(), s.central.Health()
	return []Health{
		{Name: "sync", OK: c.OK, Since: c.Since, Reason: c.Reason},
		{Name: "central-kafka", OK: p.OK, Since: p.Since, Reason: p.Reason},
	}
}

// LaneLag is how far a lane is behind, over the partitions that this gateway has.
type LaneLag struct {
	Lane     string        `json:"lane"`
	Messages int64         `json:"messages"`
	Age      time.Duration `json:"age_ns"`
}

// Lag tells how far each lane is behind.
func (s *Syncer) Lag() []LaneLag {
	out := make([]LaneLag, lanes)
	for i := range out {
		out[i].Lane = s.laneName(i)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.parts {
		n, oldest := f.lag()
		l := &out[f.lane]
		l.Messages += n
		if !oldest.IsZero() {
			l.Age = max(l.Age, time.Since(oldest))
		}
	}
	return out
}

func (s *Syncer) laneName(lane int) string { return [lanes]string{"p0", "p1", "p2"}[lane] }

// Metrics of the sync worker.
type Metrics struct {
	records *prometheus.CounterVec // sync_records_total{lane,outcome}
	reg     prometheus.Registerer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sync_records_total", Help: "Records by outcome: forwarded or dead_lettered.",
		}, []string{"lane", "outcome"}),
		reg: reg,
	}
	if reg != nil {
		reg.MustRegister(m.records)
	}
	return m
}

type collector struct {
	s             *Syncer
	messages, age *prometheus.Desc
}

func newCollector(s *Syncer) *collector {
	return &collector{
		s: s,
		messages: prometheus.NewDesc("sync_lag_messages", "Records in the outbox that are not forwarded.",
			[]string{"lane"}, nil),
		age: prometheus.NewDesc("sync_lag_seconds", "Age of the oldest record that is under way to the centre.",
			[]string{"lane"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.messages; ch <- c.age }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.s.Lag() {
		ch <- prometheus.MustNewConstMetric(c.messages, prometheus.GaugeValue, float64(l.Messages), l.Lane)
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, l.Age.Seconds(), l.Lane)
	}
}
