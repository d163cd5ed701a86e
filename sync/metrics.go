package syncer

import (
	"math"
	"strconv"

	"cellgate/broker/shared/metric"

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
	to := metric.For(reg)
	m := &Metrics{
		records: to.Counters("sync_records_total", "Records by outcome: forwarded or dead_lettered.", "lane", "outcome"),
		skipped: to.Counters("sync_skipped_records_total",
			"Records that were gone from the outbox before they were read, and that an operator has skipped.", "lane"),
		reg: reg,
	}
	for _, lane := range LaneNames() {
		m.skipped.WithLabelValues(lane)
	}
	return m
}

// readings gives the lanes' figures to Prometheus. What is unknown is NaN, never 0: it adds up to NaN, and no
// comparison holds. sync_lag_known is there to alert on.
func (s *Syncer) readings() *metric.Readings {
	r := &metric.Readings{}
	messages := r.Add("sync_lag_messages", "Records in the outbox that are not forwarded; NaN while unknown.", "lane")
	age := r.Add("sync_lag_seconds", "Age of the oldest record in the outbox that is not forwarded; NaN while unknown.", "lane")
	known := r.Add("sync_lag_known", "1 while sync_lag_messages and sync_lag_seconds are known, else 0.", "lane")
	stopped := r.Add("sync_lane_stopped",
		"1 while the lane waits for an operator's cellgate sync skip, since records are gone before they were read.", "lane")
	from := r.Add("sync_gap_first_offset", "The first record that is gone, of each partition at which a lane waits.", "lane", "topic", "partition")
	to := r.Add("sync_gap_last_offset", "The last record that is gone; NaN when it is unknown what is gone.", "lane", "topic", "partition")
	window := r.Add("sync_window_bytes", "What the lanes below p0 may have on its way to the centre, as bytes on the wire.")
	windowUsed := r.Add("sync_window_used_bytes", "What the lanes below p0 have on its way to the centre, as bytes on the wire.")
	r.Read = func(out metric.Sample) {
		for _, l := range s.Lag() {
			n, seconds := float64(l.Messages), l.Age.Seconds()
			if !l.Known {
				n, seconds = math.NaN(), math.NaN()
			}
			out.Gauge(messages, n, l.Lane)
			out.Gauge(age, seconds, l.Lane)
			out.Flag(known, l.Known, l.Lane)
		}
		for _, l := range s.lanes {
			gaps := l.gapsNow()
			out.Flag(stopped, len(gaps) > 0, l.name)
			for _, g := range gaps {
				last := float64(g.To - 1)
				if g.Anew {
					last = math.NaN()
				}
				out.Gauge(from, float64(g.From), l.name, g.Topic, strconv.Itoa(g.Partition))
				out.Gauge(to, last, l.name, g.Topic, strconv.Itoa(g.Partition))
			}
		}
		limit, used := s.flow.Limit()
		out.Gauge(window, float64(limit))
		out.Gauge(windowUsed, float64(used))
	}
	return r
}
