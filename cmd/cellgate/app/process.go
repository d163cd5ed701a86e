package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker"
	"cellgate/broker/clock"
	"cellgate/cmd/cellgate/stream"
	"cellgate/configs"
)

// process is the first stage: configuration, log, metrics, and the stops of what has been constructed.
type process struct {
	cfg    *configs.Config // as it was at the start; reloadable keys are read from Config
	log    *slog.Logger
	level  *slog.LevelVar
	reg    *registry
	stats  *broker.Metrics
	source clock.Source // the machine's clocks
	life   *lifecycle
	hub    *stream.Hub  // publishes to event streams
	gate   *stream.Gate // limits them
	redis  redisConns

	parts       Parts // nil except in dev
	descriptors descriptors
	missing     *prometheus.CounterVec // missing at the start, by part of data_dir
	build       Build
	started     time.Time
	phase       atomic.Int32
	serving     chan struct{} // closed when it serves
	fatal       chan error    // the first error that the gateway cannot survive
	running     atomic.Pointer[configs.Config]
	// reloaded is the outcome of the last reload of the configuration; the start counts as the first one.
	reloaded atomic.Pointer[outcome]
	waiting  atomic.Pointer[[]string] // keys that wait for a restart
}

func newProcess(o Options, fds descriptors) *process {
	log, level := newLog(o.Log, o.Config)
	reg := newRegistry(o.Config, o.Build)
	p := &process{
		cfg: o.Config, log: log, level: level, reg: reg, stats: broker.NewMetrics(reg.own), source: o.Clock,
		life: &lifecycle{log: log}, hub: stream.NewHub(), gate: stream.NewGate(fds.api/2, reg.own), parts: o.Parts, descriptors: fds, missing: newMissing(reg.own),
		build: o.Build, started: time.Now(), fatal: make(chan error, 1), serving: make(chan struct{}),
	}
	p.running.Store(o.Config)
	p.waiting.Store(new([]string))
	p.noteReload(nil)
	logWarnings(p.log, o.Config)
	return p
}

// Timeouts of the stops. In total they stay within the five seconds of a Ctrl-C unless a disk hangs.
const (
	stopShort    = time.Second
	stopClients  = 3 * time.Second
	stopDispatch = 2 * time.Second
	stopDisk     = 10 * time.Second
)

// stop runs the stops of what has been constructed, also after a start that failed. From now on no call to Redis waits long.
func (p *process) stop(ctx context.Context) error {
	p.redis.stop()
	return p.life.stop(ctx)
}

func (p *process) fail(err error) {
	select {
	case p.fatal <- err:
	default:
	}
}

// owner names this run of the gateway in its commits to Kafka.
func (p *process) owner() string {
	return fmt.Sprintf("%s, started %s", p.cfg.Cell.Node, p.started.UTC().Format(time.RFC3339Nano))
}

// Config returns the configuration in force.
func (p *process) Config() *configs.Config { return p.running.Load() }

func (p *process) rejected(reason string) { p.stats.Rejected.WithLabelValues(reason).Inc() }

// background runs fn until the gateway stops.
func (p *process) background(name string, fn func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx)
	}()
	p.life.onStop(name, stopDisk, func(limit context.Context) error { // some of them write at the end
		cancel()
		select {
		case <-done:
			return nil
		case <-limit.Done():
			return limit.Err()
		}
	})
}
