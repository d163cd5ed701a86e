package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/remote"
)

// lanes is the number of outbox topics.
const lanes = 3

// laterPause is the pause before retrying a record that the error topic refused.
const laterPause = 10 * time.Second

// cutOffGrace is how long Stop waits for a last commit after its context has ended.
const cutOffGrace = 500 * time.Millisecond

// ErrorTopic is the topic of the cell's Kafka for records that the central Kafka permanently refuses.
const ErrorTopic = "central.errors"

// Options configure a Syncer.
type Options struct {
	// CellID is the value of the header src-cell.
	CellID string
	// Centre is the centre's name in metrics and in Health.
	Centre string
	// Cell is the Kafka to read from, with the settings for writing its error topic; Central the one to write to.
	Cell, Central kafkaclient.ProducerOptions
	// Group is the consumer group for the committed offsets of the cell's gateways. It has no members.
	Group string
	// Owner identifies this worker: it is unique, also after a restart of the gateway.
	Owner string
	// Limits returns the limits of the link to the centre at a time. SetLimits changes them.
	Limits func(now time.Time) kafkaclient.FlowLimits
	// Paused lanes send nothing until Resume.
	Paused [lanes]bool `zero:"none"`
	// Memory bounds the records that were read and not acknowledged by the centre, overhead included.
	Memory int64
	// Mine reports which partitions belong to this gateway, if several share the outbox; it may change.
	Mine func(topic string, id int) bool `zero:"all"`
	// ExactlyOnce writes nothing twice to the centre. This must be the only worker that writes there for this cell.
	ExactlyOnce bool
	// CommitInterval bounds what is sent again after a crash.
	CommitInterval time.Duration

	Log     *slog.Logger
	Metrics *Metrics
}

// Syncer is the sync worker of one gateway.
type Syncer struct {
	o        Options
	flow     *kafkaclient.Flow
	lanes    [lanes]*lane // by priority
	consumer *kafkaclient.Consumer
	cell     *kafkaclient.Producer // for the error topic

	cancel context.CancelFunc
	halt   context.CancelFunc // stops only the forwarding
	wg     sync.WaitGroup
	hurry  chan struct{} // closed when Stop runs out of time
	ending sync.Once     // closes hurry

	mu sync.Mutex
	// parts includes partitions that moved to other gateways: their records may still be in flight.
	parts   map[partition]*forwarder
	retries map[*time.Timer]struct{}
	stopped bool
	// found means that the partitions, and which of them are this gateway's, are known. seen is what the cell's Kafka
	// last reported of each; nil before it has.
	found bool
	seen  map[partition]outboxEnd
	// kept is the retention of each outbox topic.
	kept  map[string]time.Duration
	asked time.Time
	// superseded is the claim of the worker that has taken over, and when that was noticed: from then on this worker
	// forwards nothing.
	superseded kafkaclient.Claim
	since      time.Time
}

// New returns a Syncer. It does not connect: neither Kafka has to be reachable.
func New(o Options) (*Syncer, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	s := &Syncer{
		o: o, flow: kafkaclient.NewFlow(o.Limits(time.Now())), hurry: make(chan struct{}),
		parts: map[partition]*forwarder{}, retries: map[*time.Timer]struct{}{},
	}
	if err := s.open(); err != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return nil, errors.Join(fmt.Errorf("sync: %w", err), s.Stop(ctx))
	}
	return s, nil
}

func (s *Syncer) open() error {
	var err error
	s.consumer, err = kafkaclient.NewConsumer(kafkaclient.ConsumerOptions{
		Config: s.o.Cell.Config, Name: "sync", Group: s.o.Group, Owner: s.o.Owner, Topics: kafkaclient.OutboxTopics(),
		Mine: s.isMine, Assigned: s.assigned, Log: s.o.Log, Metrics: s.o.Cell.Metrics,
	})
	if err != nil {
		return fmt.Errorf("cell: %w", err)
	}
	for i := range s.lanes {
		if s.lanes[i], err = s.openLane(i); err != nil {
			return fmt.Errorf("central: %w", err)
		}
	}
	s.applyLimits(time.Now())
	if s.cell, err = kafkaclient.NewProducer(s.o.Cell); err != nil {
		return fmt.Errorf("cell: %w", err)
	}
	return nil
}

// Start starts the forwarding.
func (s *Syncer) Start() {
	s.o.Metrics.add(s)
	ctx, cancel := context.WithCancel(context.Background())
	forwarding, halt := context.WithCancel(ctx)
	s.cancel, s.halt = cancel, halt
	s.wg.Add(2)
	go func() {
		defer s.wg.Done()
		s.consumer.Run(forwarding, func(ctx context.Context, p *kafkaclient.Assignment) { s.forwarder(p).run(ctx, p) })
	}()
	go func() {
		defer s.wg.Done()
		s.watch(ctx)
	}()
}

// SetLimits changes Options.Limits, also for waiting records.
func (s *Syncer) SetLimits(limits func(time.Time) kafkaclient.FlowLimits) {
	s.mu.Lock()
	s.o.Limits = limits
	s.mu.Unlock()
	s.applyLimits(time.Now())
}

// applyLimits applies the limits for a time.
func (s *Syncer) applyLimits(now time.Time) {
	s.mu.Lock()
	limits := s.o.Limits
	s.mu.Unlock()
	next := limits(now)
	next.Held = s.paused()
	if next != s.flow.Limits() {
		s.flow.SetLimits(next)
	}
}

func (s *Syncer) paused() (held [lanes]bool) {
	for i, l := range s.lanes {
		held[i] = l.isPaused()
	}
	return held
}

// Limits returns the current limits.
func (s *Syncer) Limits() kafkaclient.FlowLimits { return s.flow.Limits() }

// Pause stops a lane or lets it continue. Records in flight still arrive.
func (s *Syncer) Pause(lane string, is bool) {
	for _, l := range s.lanes {
		if l.name == lane {
			l.pause(is)
		}
	}
	s.applyLimits(time.Now())
}

// partition is a partition of an outbox topic.
type partition struct {
	topic string
	id    int
}

// assigned sets the partitions that belong to this gateway.
func (s *Syncer) assigned(parts map[string][]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = true
	for name, f := range s.parts {
		f.setAssigned(slices.Contains(parts[name.topic], name.id))
	}
	for topic, ids := range parts {
		s.lanes[max(0, slices.Index(kafkaclient.OutboxTopics(), topic))].setPartitions(len(ids))
		for _, id := range ids {
			name := partition{topic, id}
			if s.parts[name] == nil {
				s.parts[name] = &forwarder{
					s: s, partition: name, lane: s.lanes[max(0, slices.Index(kafkaclient.OutboxTopics(), topic))],
					room: make(chan struct{}, 1), skips: make(chan *skip), next: -1, began: -1, assigned: true, waitingFor: map[string]int{},
				}
			}
		}
	}
}

// forwarder returns the forwarder of an assigned partition.
func (s *Syncer) forwarder(p *kafkaclient.Assignment) *forwarder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[partition{p.Topic, p.ID}]
}

func refused(err error) bool { return errors.Is(err, kafkaclient.ErrRefused) }

// later retries the error topic after a pause.
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

// Stop waits for records in flight until ctx ends, and commits what is settled. It returns at most a second after ctx.
func (s *Syncer) Stop(ctx context.Context) error {
	s.o.Metrics.remove(s)
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
		cut := time.AfterFunc(cutOffGrace, s.consumer.Close)
		<-done
		cut.Stop()
	}
	if s.consumer != nil {
		s.consumer.Close()
	}
	return s.closeProducers(ctx)
}

// closeProducers closes all producers concurrently.
func (s *Syncer) closeProducers(ctx context.Context) error {
	now, cancel := context.WithCancel(ctx)
	cancel()
	var wg sync.WaitGroup
	errs := make([]error, 1+lanes)
	for i, l := range s.lanes {
		switch {
		case l == nil:
		case l.isPaused(): // its records are not sent, and not committed
			wg.Go(func() { _ = l.central.Close(now) })
		default:
			wg.Go(func() { errs[i] = l.central.Close(ctx) })
		}
	}
	if s.cell != nil {
		wg.Go(func() { errs[lanes] = s.cell.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Health returns the state of the cell's Kafka as seen by the reader of the outbox, of the central Kafka, and of each
// lane stopped at a gap.
func (s *Syncer) Health() []remote.Health {
	cell := s.consumer.Health()
	cell.Name = s.health("sync")
	s.mu.Lock()
	if by := s.superseded.Owner; by != "" {
		cell.OK, cell.Since = false, s.since
		cell.Reason = fmt.Sprintf("%s has taken over the outbox, and this gateway forwards nothing: stop one of the two, or restart this one to take it back", by)
	}
	s.mu.Unlock()
	all := []remote.Health{cell, s.centralHealth()}
	for _, l := range s.lanes {
		if since, err := l.once.waitsFor(); err != nil {
			all = append(all, remote.Health{Name: s.health("sync") + "-" + l.name, Since: since, Reason: "nothing is forwarded until the worker knows which records the centre has: " + err.Error()})
		}
		if gaps := l.gapsNow(); len(gaps) > 0 {
			all = append(all, remote.Health{Name: s.health("sync") + "-" + l.name, Since: gaps[0].Since, Reason: l.complaint(gaps)})
		}
	}
	return all
}

// defaultCentre is the name of the centre if there is only one.
const defaultCentre = "central"

// health returns the name of a dependency, followed by the centre's if there are several.
func (s *Syncer) health(name string) string {
	if s.o.Centre == defaultCentre {
		return name
	}
	return name + "-" + s.o.Centre
}

// centralHealth is healthy if every lane's producer is.
func (s *Syncer) centralHealth() remote.Health {
	h := remote.Health{Name: s.health("central-kafka"), OK: true}
	for _, l := range s.lanes {
		p := l.central.Health()
		switch {
		case h.OK && !p.OK, h.OK == p.OK && (h.Since.IsZero() || p.Since.After(h.Since) == h.OK):
			h.OK, h.Since, h.Reason = p.OK, p.Since, p.Reason
		}
	}
	return h
}
