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
		fsync:        to.Histogram("journal_fsync_seconds", "Duration of the journal's syncs.", prometheus.ExponentialBuckets(50e-6, 2, 18)...),
		bytes:        to.Gauge("journal_bytes", "Size of the journal's files."),
		batchRecords: to.Histogram("journal_batch_records", "Records per commit.", prometheus.ExponentialBuckets(1, 4, 8)...),
		batchBytes:   to.Histogram("journal_batch_bytes", "Bytes per commit.", prometheus.ExponentialBuckets(256, 4, 9)...),
		full:         to.Gauge("journal_full", "1 while the journal has no room and acknowledgements are withheld."),
		recycled:     to.Counter("journal_segments_recycled_total", "Segments that every consumer has passed."),
		corruptions:  to.Counter("journal_corruptions_total", "Places of the journal found damaged."),
		steps:        to.Counters("clock_steps_total", "Steps of the machine's wall clock, forward and back.", "direction"),
	}
	m.steps.WithLabelValues("forward")
	m.steps.WithLabelValues("back")
	to.GaugeFunc("journal_oldest_seconds", "Age of the oldest record kept; 0 when there is none.", m.oldestSeconds)
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
