package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/remote"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// errOperation refuses an operation that this version does not know.
var errOperation = errors.New("unknown redis operation")

// Options configure a Sink.
type Options struct {
	// Client is owned by the sink, which closes it. It must not retry (MaxRetries -1), because only the sink knows what
	// must stay in order, and must end a call with its context (ContextTimeoutEnabled).
	Client goredis.UniversalClient
	remote.Pace
	Log *slog.Logger
}

const (
	workers  = 4   // concurrent pipelines, each for its share of the VINs
	maxBatch = 512 // maximum messages per pipeline
)

// Sink implements sink.Sink for Redis.
type Sink struct {
	o       Options
	seed    maphash.Seed
	workers []*worker
	cluster bool
	jobs    jobs

	ctx       context.Context // ends when Close gives up waiting
	cancel    context.CancelFunc
	closing   chan struct{}
	closeOnce sync.Once
	wg        sync.WaitGroup

	health *remote.HealthTracker
}

// New starts a sink.
func New(o Options) (*Sink, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	s := &Sink{
		o: o, seed: maphash.MakeSeed(),
		closing: make(chan struct{}), health: remote.NewHealthTracker(o.Log, "redis", "messages are kept and sent again"),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	sha := goredis.NewScript(newerScript).Hash()
	n := workers
	if _, s.cluster = o.Client.(*goredis.ClusterClient); s.cluster {
		n = clusterParts
	}
	for i := range n {
		w := &worker{s: s, wake: make(chan struct{}, 1), args: arguments{sha: sha}}
		if s.cluster {
			w.slots = slotsOf(i)
		}
		s.workers = append(s.workers, w)
	}
	for _, w := range s.workers {
		s.wg.Go(w.run)
	}
	s.wg.Go(func() {
		s.health.Watch(s.ctx, s.closing, o.PingInterval, func(ctx context.Context) error { return o.Client.Ping(ctx).Err() })
	})
	return s, nil
}

// Name implements sink.Sink.
func (s *Sink) Name() string { return string(s.Kind()) }

// Kind implements sink.Sink.
func (s *Sink) Kind() op.SinkKind { return op.SinkRedis }

// Deliver implements sink.Sink.
func (s *Sink) Deliver(m *sink.Message, t sink.Ticket) {
	if m.Out.Redis.Nothing {
		t.Delivered()
		return
	}
	j := s.jobs.get()
	j.vin, j.ticket = m.Record.VIN(), t
	if !j.build(&m.Out.Redis) {
		s.jobs.put(j)
		t.Refused(fmt.Errorf("%w: %d", errOperation, m.Out.Redis.Kind))
		return
	}
	if s.cluster {
		s.workers[partOf(j.key)].add(j)
		return
	}
	s.workers[maphash.String(s.seed, j.vin)%uint64(len(s.workers))].add(j)
}

// Health implements sink.Sink.
func (s *Sink) Health() remote.Health { return s.health.Get() }

// Announce implements sink.Sink: it has no topics.
func (s *Sink) Announce([]string) {}

// Parker implements sink.Sink: only a cluster has destinations to park.
func (s *Sink) Parker() sink.Parker {
	if !s.cluster {
		return nil
	}
	return s
}

// Close implements sink.Sink.
func (s *Sink) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { close(s.closing) })
	err := remote.Finish(ctx, &s.wg, s.cancel)
	return errors.Join(err, s.o.Client.Close())
}
