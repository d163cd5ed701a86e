package journal

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of one journal.
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

// NewMetrics makes the journal's metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "journal_fsync_seconds", Help: "Duration of the journal's syncs.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{Name: "journal_bytes", Help: "Size of the journal's files."}),
		batchRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "journal_batch_records", Help: "Records per commit.", Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		batchBytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "journal_batch_bytes", Help: "Bytes per commit.", Buckets: prometheus.ExponentialBuckets(256, 4, 9),
		}),
		full:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "journal_full", Help: "1 while the journal has no room and acknowledgements are withheld."}),
		recycled:    prometheus.NewCounter(prometheus.CounterOpts{Name: "journal_segments_recycled_total", Help: "Segments that every consumer has passed."}),
		corruptions: prometheus.NewCounter(prometheus.CounterOpts{Name: "journal_corruptions_total", Help: "Places of the journal found damaged."}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "clock_steps_total", Help: "Steps of the machine's wall clock, forward and back.",
		}, []string{"direction"}),
	}
	m.steps.WithLabelValues("forward")
	m.steps.WithLabelValues("back")
	if reg != nil {
		oldest := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "journal_oldest_seconds", Help: "Age of the oldest record kept; 0 when there is none.",
		}, m.oldestSeconds)
		reg.MustRegister(m.fsync, m.bytes, m.batchRecords, m.batchBytes, m.full, m.recycled, m.corruptions, m.steps, oldest)
	}
	return m
}

// oldestOf sets where the time of the oldest record comes from, in ms.
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
