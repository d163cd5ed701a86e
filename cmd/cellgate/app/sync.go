package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/stable"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	syncer "cellgate/sync"
)

// centres are the central units, with the workers that forward to them.
type centres struct {
	*trust
	kafka   *kafkaclient.Metrics
	metrics *syncer.Metrics
	all     []*centre
}

// centre is a central unit and the worker that forwards the outbox topics to it.
type centre struct {
	name string

	mu      sync.Mutex
	worker  *syncer.Syncer
	config  configs.Central // of the worker
	files   string          // digest of the TLS files that it names
	runs    int             // workers started so far
	started bool
}

// openSync makes the workers that forward the outbox topics, one for each configured centre.
func (t *trust) openSync(m *kafkaclient.Metrics) (*centres, error) {
	err := t.db.Update(func(tx *statefile.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketSkips())
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(bucketPauses())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &centres{trust: t, kafka: m, metrics: syncer.NewMetrics(t.reg.own, len(t.cfg.Central) > 1)}
	for i := range t.cfg.Central {
		one := &centre{name: t.cfg.Central[i].Name}
		t.life.onStop("sync", stopShort, t.life.patient("records for the centre", one.stop))
		if err := c.open(one, t.cfg, i); err != nil {
			return nil, err
		}
		c.all = append(c.all, one)
	}
	return c, nil
}

// open makes a centre's worker. The caller holds its lock, or nothing else knows the centre yet.
func (c *centres) open(one *centre, cfg *configs.Config, i int) error {
	o, err := c.options(one, cfg, i)
	if err != nil {
		return err
	}
	worker, err := syncer.New(o)
	if err != nil {
		return err
	}
	one.worker, one.config, one.files = worker, cfg.Central[i], filesOf(cfg.Central[i].Kafka.TLS)
	one.runs++
	return nil
}

// options returns the options of the centre's next worker.
func (c *centres) options(one *centre, cfg *configs.Config, i int) (o syncer.Options, err error) {
	if o, err = syncOptions(cfg, i, c.log, c.kafka); err != nil {
		return o, err
	}
	if o.Owner = c.owner(); one.runs > 0 {
		o.Owner += fmt.Sprintf(", reloaded %d times", one.runs)
	}
	o.Metrics, o.Limits = c.metrics, c.part(o.Limits)
	if c.member != nil {
		o.Mine = c.liveness.first
	}
	o.Paused, err = c.paused(one.name)
	return o, err
}

// syncOptions returns a worker's options from the sections central and kafka.
func syncOptions(cfg *configs.Config, i int, log *slog.Logger, m *kafkaclient.Metrics) (syncer.Options, error) {
	to := &cfg.Central[i]
	cell, err := producerOptions("kafka", "sync-errors", &cfg.Kafka, log, m)
	if err != nil {
		return syncer.Options{}, err
	}
	central, err := producerOptions(CentralSetting(cfg, i)+".kafka", to.Name, &to.Kafka, log, m)
	return syncer.Options{
		CellID: cfg.Cell.ID, Centre: to.Name, Cell: cell, Central: central, Group: to.Group, Limits: limitsTo(to),
		Memory: int64(to.Memory), ExactlyOnce: to.Mode == "exactly_once", CommitInterval: configs.SyncCommitInterval, Log: log,
	}, err
}

// CentralSetting returns the key of a centre in the configuration.
func CentralSetting(cfg *configs.Config, i int) string {
	if len(cfg.Central) == 1 {
		return "central"
	}
	return fmt.Sprintf("central[%d]", i)
}

// limitsTo returns a centre's limits at a time: of the first matching hours, else those of the whole day.
func limitsTo(c *configs.Central) func(time.Time) kafkaclient.FlowLimits {
	limits := func(all configs.ByteRate, lane configs.LaneBandwidth) kafkaclient.FlowLimits {
		return kafkaclient.FlowLimits{
			Rate: int64(all), Rates: [kafkaclient.FlowLanes]int64{int64(lane.P0), int64(lane.P1), int64(lane.P2)},
			Share: float64(c.P2Percent) / 100,
		}
	}
	return func(now time.Time) kafkaclient.FlowLimits {
		at := configs.TimeOfDay(now.Hour()*60 + now.Minute())
		for _, h := range c.Hours {
			overnight := h.To <= h.From
			if from, before := at >= h.From, at < h.To; (from && before) || (overnight && (from || before)) {
				return limits(h.Bandwidth, h.LaneBandwidth)
			}
		}
		return limits(c.Bandwidth, c.LaneBandwidth)
	}
}

// filesOf returns a digest of a client's TLS files.
func filesOf(t *configs.ClientTLS) string {
	h := sha256.New()
	if t != nil {
		for _, name := range []configs.Path{t.CA, t.Cert, t.Key} {
			if name != "" {
				b, err := stable.ReadFile(string(name))
				_, _ = fmt.Fprintln(h, name, len(b), err)
				_, _ = h.Write(b)
			}
		}
	}
	return string(h.Sum(nil))
}

func (c *centres) start() {
	for _, one := range c.all {
		one.mu.Lock()
		one.started = true
		one.worker.Start()
		one.mu.Unlock()
	}
}

func (c *centre) get() *syncer.Syncer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.worker
}

func (c *centre) stop(ctx context.Context) error {
	if w := c.get(); w != nil {
		return w.Stop(ctx)
	}
	return nil
}

// checkReload does what can fail in reload and changes nothing.
func (c *centres) checkReload(next *configs.Config) error {
	var errs []error
	for i := range next.Central {
		_, err := kafkaConfig(CentralSetting(next, i)+".kafka", &next.Central[i].Kafka)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// reload puts new limits in force, and replaces a worker whose settings have changed. Adding or removing a centre takes
// a restart.
func (c *centres) reload(ctx context.Context, next *configs.Config) error {
	if len(next.Central) != len(c.all) {
		return nil
	}
	var errs []error
	for i, one := range c.all {
		if next.Central[i].Name == one.name {
			errs = append(errs, c.reloadOne(ctx, one, next, i))
		}
	}
	return errors.Join(errs...)
}

func (c *centres) reloadOne(ctx context.Context, one *centre, next *configs.Config, i int) error {
	one.mu.Lock()
	defer one.mu.Unlock()
	to := &next.Central[i]
	same := one.config
	same.Bandwidth, same.LaneBandwidth, same.Hours, same.P2Percent = to.Bandwidth, to.LaneBandwidth, to.Hours, to.P2Percent
	if same.Group = to.Group; reflect.DeepEqual(same, *to) && one.files == filesOf(to.Kafka.TLS) {
		one.config = *to
		one.worker.SetLimits(c.part(limitsTo(to)))
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopClients)
	defer cancel()
	before := one.worker
	if err := before.Stop(ctx); err != nil {
		c.log.Debug("records for the centre use the new settings", slog.Any("err", err))
	}
	cfg := *next
	cfg.Kafka, cfg.Cell = c.cfg.Kafka, c.cfg.Cell // these take a restart
	if err := c.open(one, &cfg, i); err != nil {
		return err
	}
	if one.started {
		one.worker.Start()
	}
	c.log.Info("connection to the centre has new settings", slog.String("centre", one.name))
	return nil
}

func (c *centres) health() (all []remote.Health) {
	for _, one := range c.all {
		all = append(all, one.get().Health()...)
	}
	return all
}

// lanes returns the lanes to all centres.
func (c *centres) lanes() []LaneLoad {
	var all []LaneLoad
	for _, one := range c.all {
		w := one.get()
		for _, l := range w.Lanes() {
			all = append(all, laneLoad(&l, one.name, w.Gaps(l.Lane)))
		}
	}
	return all
}

func laneLoad(l *syncer.LaneStat, centre string, gaps []syncer.Gap) LaneLoad {
	load := LaneLoad{
		Centre: centre, Lane: l.Lane, Known: l.Known, Paused: l.Paused, Rate: l.Rate, InFlight: l.InFlight, MemoryBytes: l.Memory, RawBytes: l.Raw,
		WireBytes: l.Wire, Retries: l.Retries, Gaps: gapsOf(gaps),
	}
	seconds := func(d time.Duration, known bool) *float64 {
		if s := d.Seconds(); known {
			return &s
		}
		return nil
	}
	if l.Known {
		load.LagRecords, load.LagBytes = &l.Messages, &l.Bytes
	}
	load.LagSeconds, load.HeadroomSeconds = seconds(l.Age, l.Known), seconds(l.Headroom, l.Kept)
	load.DrainSeconds = seconds(l.Drain, l.Drains)
	return load
}
