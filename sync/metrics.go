package syncer

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of the sync workers of one process.
type Metrics struct {
	records  *prometheus.CounterVec   // sync_records_total{lane,outcome}
	retries  *prometheus.CounterVec   // sync_retries_total{lane,reason}
	skipped  *prometheus.CounterVec   // sync_skipped_records_total{lane}
	delivery *prometheus.HistogramVec // sync_delivery_seconds{lane}
	several  bool                     // several centres: every metric has the label centre

	mu  sync.Mutex
	all []*Syncer // source of the figures
}

// NewMetrics registers the metrics; reg may be nil. With several centres all metrics have the label centre.
func NewMetrics(reg prometheus.Registerer, several bool) *Metrics {
	to := metric.For(reg)
	m := &Metrics{several: several}
	m.records, m.retries, m.skipped =
		to.Counters("sync_records_total", "Records by outcome: forwarded, dead_lettered, or recognised as already forwarded.", m.labels("centre",
			"lane", "outcome")...),
		to.Counters("sync_retries_total", "Repeated requests to the centre by reason.", m.labels("centre", "lane", "reason")...),
		to.Counters("sync_skipped_records_total",
			"Deleted records of the outbox that an operator has skipped.", m.labels("centre", "lane")...)
	m.delivery = to.Latencies("sync_delivery_seconds",
		"Time from received-at of a record until it is at the centre.", m.labels("centre", "lane")...)
	if reg != nil {
		reg.MustRegister(m.readings())
	}
	return m
}

// labels returns label values, or names, with that of the centre if there are several.
func (m *Metrics) labels(centre string, others ...string) []string {
	if m.several {
		return append(others, centre)
	}
	return others
}

func (m *Metrics) add(s *Syncer) {
	m.mu.Lock()
	m.all = append(m.all, s)
	m.mu.Unlock()
	for _, lane := range LaneNames() {
		m.skipped.WithLabelValues(m.labels(s.o.Centre, lane)...)
		m.delivery.WithLabelValues(m.labels(s.o.Centre, lane)...)
	}
}

func (m *Metrics) remove(s *Syncer) {
	m.mu.Lock()
	m.all = slices.DeleteFunc(slices.Clone(m.all), func(x *Syncer) bool { return x == s })
	m.mu.Unlock()
}

// orNaN returns v if it is known, else NaN. NaN is never taken for 0: sums with it are NaN, and comparisons false.
func orNaN(v float64, known bool) float64 {
	if known {
		return v
	}
	return math.NaN()
}

type laneReadings []laneReading

type laneReading struct {
	desc    *prometheus.Desc
	counter bool
	value   func(l *LaneStat) float64
}

func (m *Metrics) readingsOfLanes(r *metric.Readings) laneReadings {
	boolGauge := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	var all laneReadings
	add := func(name, help string, value func(l *LaneStat) float64) {
		all = append(all, laneReading{r.Add(name, help, m.labels("centre", "lane")...), strings.HasSuffix(name, "_total"), value})
	}
	add("sync_lag_messages", "Records in the outbox that are not forwarded; NaN while unknown.",
		func(l *LaneStat) float64 { return orNaN(float64(l.Messages), l.Known) })
	add("sync_lag_bytes", "Estimated size of the records in sync_lag_messages, before compression; NaN while unknown.",
		func(l *LaneStat) float64 { return orNaN(float64(l.Bytes), l.Known) })
	add("sync_lag_seconds", "Age of the oldest record in the outbox that is not forwarded; NaN while unknown.",
		func(l *LaneStat) float64 { return orNaN(l.Age.Seconds(), l.Known) })
	add("sync_lag_known", "1 while sync_lag_messages and sync_lag_seconds are known, else 0.",
		func(l *LaneStat) float64 { return boolGauge(l.Known) })
	add("sync_retention_headroom_seconds", "Time until retention deletes the oldest waiting record; NaN while unknown, or if nothing is deleted.",
		func(l *LaneStat) float64 { return orNaN(l.Headroom.Seconds(), l.Kept) })
	add("sync_drain_seconds", "Estimated time until the outbox is empty; NaN if it grows, and while unknown.",
		func(l *LaneStat) float64 { return orNaN(l.Drain.Seconds(), l.Drains) })
	add("sync_inflight_records", "Records read from the outbox that the centre has not acknowledged.",
		func(l *LaneStat) float64 { return float64(l.InFlight) })
	add("sync_memory_bytes", "Memory of the records in flight.", func(l *LaneStat) float64 { return float64(l.Memory) })
	add("sync_memory_max_bytes", "Bound of sync_memory_bytes.", func(l *LaneStat) float64 { return float64(l.MaxMemory) })
	add("sync_raw_bytes_total", "Bytes of forwarded records before compression.", func(l *LaneStat) float64 { return float64(l.Raw) })
	add("sync_wire_bytes_total", "Bytes of requests to the centre, compressed, including repeated ones.",
		func(l *LaneStat) float64 { return float64(l.Wire) })
	add("sync_lane_paused", "1 while an operator has paused the lane.", func(l *LaneStat) float64 { return boolGauge(l.Paused) })
	return all
}

func (m *Metrics) readFigures(out metric.Sample, s *Syncer, figures laneReadings) {
	for _, l := range s.Lanes() {
		for _, f := range figures {
			if f.counter {
				out.Counter(f.desc, f.value(&l), m.labels(s.o.Centre, l.Lane)...)
			} else {
				out.Gauge(f.desc, f.value(&l), m.labels(s.o.Centre, l.Lane)...)
			}
		}
	}
}

func (m *Metrics) readGaps(out metric.Sample, s *Syncer, stopped, from, to *prometheus.Desc) {
	centre := s.o.Centre
	for _, l := range s.lanes {
		gaps := l.gapsNow()
		out.Flag(stopped, len(gaps) > 0, m.labels(centre, l.name)...)
		for _, g := range gaps {
			out.Gauge(from, float64(g.From), m.labels(centre, l.name, g.Topic, strconv.Itoa(g.Partition))...)
			out.Gauge(to, orNaN(float64(g.To-1), !g.Recreated), m.labels(centre, l.name, g.Topic, strconv.Itoa(g.Partition))...)
		}
	}
}

// readings exports the workers' figures to Prometheus.
func (m *Metrics) readings() *metric.Readings {
	r := &metric.Readings{}
	figures := m.readingsOfLanes(r)
	stopped := r.Add("sync_lane_stopped",
		"1 while the lane has stopped at a gap: records were deleted before they were forwarded. `cellgate sync skip` continues.", m.labels("centre",
			"lane")...)
	from := r.Add("sync_gap_first_offset", "First missing record of each gap at which a lane has stopped.", m.labels("centre",
		"lane", "topic", "partition")...)
	to := r.Add("sync_gap_last_offset", "Last missing record of each gap at which a lane has stopped; NaN if unknown.", m.labels("centre",
		"lane", "topic", "partition")...)
	window := r.Add("sync_window_bytes", "Bound of sync_window_used_bytes, adapted to the connection.", m.labels("centre")...)
	windowUsed := r.Add("sync_window_used_bytes", "Bytes in flight to the centre in the lanes below p0, as sent.", m.labels("centre")...)
	r.Read = func(out metric.Sample) {
		m.mu.Lock()
		all := m.all
		m.mu.Unlock()
		for _, s := range all {
			m.readFigures(out, s, figures)
			m.readGaps(out, s, stopped, from, to)
			limit, used := s.flow.Limit()
			out.Gauge(window, float64(limit), m.labels(s.o.Centre)...)
			out.Gauge(windowUsed, float64(used), m.labels(s.o.Centre)...)
		}
	}
	return r
}
