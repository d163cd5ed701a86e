package syncer

import (
	"math"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the sync worker.
type Metrics struct {
	records *prometheus.CounterVec // sync_records_total{lane,outcome}
	skipped *prometheus.CounterVec // sync_skipped_records_total{lane}
	reg     prometheus.Registerer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sync_records_total", Help: "Records by outcome: forwarded or dead_lettered.",
		}, []string{"lane", "outcome"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sync_skipped_records_total", Help: "Records that were gone from the outbox before they were read, and that an operator has skipped.",
		}, []string{"lane"}),
		reg: reg,
	}
	for _, lane := range LaneNames() {
		m.skipped.WithLabelValues(lane)
	}
	if reg != nil {
		reg.MustRegister(m.records, m.skipped)
	}
	return m
}

// collector reads the gauges when they are asked for. What is unknown is NaN, never 0: it adds up to NaN, and no
// comparison holds. sync_lag_known is there to alert on.
type collector struct {
	s                            *Syncer
	messages, age, known         *prometheus.Desc
	stopped, from, to            *prometheus.Desc
	windowBytes, windowUsedBytes *prometheus.Desc
}

func newCollector(s *Syncer) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		s:               s,
		messages:        desc("sync_lag_messages", "Records in the outbox that are not forwarded; NaN while unknown.", "lane"),
		age:             desc("sync_lag_seconds", "Age of the oldest record in the outbox that is not forwarded; NaN while unknown.", "lane"),
		known:           desc("sync_lag_known", "1 while sync_lag_messages and sync_lag_seconds are known, else 0.", "lane"),
		stopped:         desc("sync_lane_stopped", "1 while the lane waits for an operator's cellgate sync skip, since records are gone before they were read.", "lane"),
		from:            desc("sync_gap_first_offset", "The first record that is gone, of each partition at which a lane waits.", "lane", "topic", "partition"),
		to:              desc("sync_gap_last_offset", "The last record that is gone; NaN when it is unknown what is gone.", "lane", "topic", "partition"),
		windowBytes:     desc("sync_window_bytes", "What the lanes below p0 may have on its way to the centre, as bytes on the wire."),
		windowUsedBytes: desc("sync_window_used_bytes", "What the lanes below p0 have on its way to the centre, as bytes on the wire."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.messages, c.age, c.known, c.stopped, c.from, c.to, c.windowBytes, c.windowUsedBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range c.s.Lag() {
		messages, age, known := float64(l.Messages), l.Age.Seconds(), 1.0
		if !l.Known {
			messages, age, known = math.NaN(), math.NaN(), 0
		}
		gauge(c.messages, messages, l.Lane)
		gauge(c.age, age, l.Lane)
		gauge(c.known, known, l.Lane)
	}
	for _, l := range c.s.lanes {
		gaps := l.gapsNow()
		gauge(c.stopped, float64(min(1, len(gaps))), l.name)
		for _, g := range gaps {
			last := float64(g.To - 1)
			if g.Anew {
				last = math.NaN()
			}
			gauge(c.from, float64(g.From), l.name, g.Topic, strconv.Itoa(g.Partition))
			gauge(c.to, last, l.name, g.Topic, strconv.Itoa(g.Partition))
		}
	}
	limit, used := c.s.flow.Limit()
	gauge(c.windowBytes, float64(limit))
	gauge(c.windowUsedBytes, float64(used))
}
