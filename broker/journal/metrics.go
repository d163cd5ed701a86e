package journal

import (
	"sync/atomic"
	"time"

	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of one journal.
type Metrics struct {
	fsync        prometheus.Histogram
	bytes        prometheus.Gauge
	batchRecords prometheus.Histogram
	batchBytes   prometheus.Histogram
	full         prometheus.Gauge
	recycled     prometheus.Counter
	corruptions  prometheus.Counter
	steps        *prometheus.CounterVec
	oldest       atomic.Pointer[func() int64]
}

// NewMetrics makes the journal's metrics and registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	m := &Metrics{
		fsync:        to.Histogram("journal_fsync_seconds", "Duration of fsync of the journal.", prometheus.ExponentialBuckets(50e-6, 2, 18)...),
		bytes:        to.Gauge("journal_bytes", "Size of the journal's files."),
		batchRecords: to.Histogram("journal_batch_records", "Records per commit of the journal.", prometheus.ExponentialBuckets(1, 4, 8)...),
		batchBytes:   to.Histogram("journal_batch_bytes", "Bytes per commit of the journal.", prometheus.ExponentialBuckets(256, 4, 9)...),
		full:         to.Gauge("journal_full", "1 while the journal is full and acknowledgements are withheld."),
		recycled:     to.Counter("journal_segments_recycled_total", "Journal segments reused after every consumer has passed them."),
		corruptions:  to.Counter("journal_corruptions_total", "Damaged places found in the journal."),
		steps:        to.Counters("clock_steps_total", "Steps of the machine's wall clock by direction: forward, back.", "direction"),
	}
	m.steps.WithLabelValues("forward")
	m.steps.WithLabelValues("back")
	to.GaugeFunc("journal_oldest_seconds", "Age of the oldest record in the journal; 0 if it is empty.", m.oldestSeconds)
	return m
}

// oldestOf sets the function that returns the time of the oldest record, in ms.
func (m *Metrics) oldestOf(at func() int64) { m.oldest.Store(&at) }

func (m *Metrics) oldestSeconds() float64 {
	at := m.oldest.Load()
	if at == nil {
		return 0
	}
	ms := (*at)()
	if ms == 0 {
		return 0
	}
	return max(time.Since(time.UnixMilli(ms)).Seconds(), 0)
}
