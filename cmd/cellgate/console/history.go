package console

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The charts show the last hour.
const (
	sampleEvery = 10 * time.Second
	maxSamples  = 360
	// maxNamed bounds the lines of a chart: sinks and lanes are few.
	maxNamed = 16
)

// The gateway's metrics that the charts are made of. A test holds that a gateway has them.
const (
	metricConnections = "cellgate_connections"
	metricReceived    = "cellgate_messages_received_total"
	metricPUBACK      = "cellgate_puback_seconds"
	metricUsed        = "cellgate_journal_used_ratio"
	metricRung        = "cellgate_journal_rung"
	metricSinkLag     = "cellgate_sink_lag_seconds"
	metricSyncLag     = "cellgate_sync_lag_seconds"
)

// sample has the values of the gateway's metrics at a time; NaN where unknown.
type sample struct {
	at                time.Time
	connections, rate float64 // rate: messages a second since the sample before
	p50, p99          float64 // seconds until PUBACK, since the sample before
	used, rung        float64
	sinkLag, laneLag  map[string]float64
	received          float64 // in all
	buckets           map[float64]float64
}

// history keeps the samples of the last hour.
type history struct {
	gather prometheus.Gatherer

	mu   sync.Mutex // guards below
	ring []sample
	next int
}

func newHistory(gather prometheus.Gatherer) *history { return &history{gather: gather} }

// Sample takes a sample every ten seconds until ctx ends.
func (c *Console) Sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for failing := false; ; {
		err := c.history.take(c.o.Now())
		if (err != nil) != failing {
			failing = err != nil
			c.o.Log.Warn("reading metrics for the console's charts", slog.Bool("failing", failing), slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// take adds a sample.
func (h *history) take(now time.Time) error {
	families, err := h.gather.Gather()
	s := sample{at: now, p50: math.NaN(), p99: math.NaN(), rate: math.NaN(), sinkLag: map[string]float64{}, laneLag: map[string]float64{}}
	for _, f := range families { // with an error too, those that could be read
		s.read(f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.lastLocked(); last != nil {
		s.compare(last)
	}
	if len(h.ring) < maxSamples {
		h.ring = append(h.ring, s)
	} else {
		h.ring[h.next] = s
		h.next = (h.next + 1) % maxSamples
	}
	return err
}

func (h *history) lastLocked() *sample {
	if len(h.ring) == 0 {
		return nil
	}
	return &h.ring[(h.next+len(h.ring)-1)%len(h.ring)]
}

// samples are those of the last hour, the oldest first.
func (h *history) samples() []sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append([]sample{}, h.ring[h.next:]...), h.ring[:h.next]...)
}

// read takes the sample's values from a family of metrics.
func (s *sample) read(f *dto.MetricFamily) {
	for _, m := range f.GetMetric() {
		switch f.GetName() {
		case metricConnections:
			s.connections = m.GetGauge().GetValue()
		case metricReceived:
			s.received += m.GetCounter().GetValue()
		case metricPUBACK:
			s.buckets = map[float64]float64{math.Inf(1): float64(m.GetHistogram().GetSampleCount())}
			for _, b := range m.GetHistogram().GetBucket() {
				s.buckets[b.GetUpperBound()] = float64(b.GetCumulativeCount())
			}
		case metricUsed:
			s.used = m.GetGauge().GetValue()
		case metricRung:
			s.rung = m.GetGauge().GetValue()
		case metricSinkLag:
			s.named(s.sinkLag, label(m, "sink"), m)
		case metricSyncLag:
			s.named(s.laneLag, label(m, "lane"), m)
		}
	}
}

func (s *sample) named(to map[string]float64, name string, m *dto.Metric) {
	if len(to) < maxNamed {
		to[name] = m.GetGauge().GetValue()
	}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// compare computes the values that need the previous sample.
func (s *sample) compare(last *sample) {
	if d := s.at.Sub(last.at).Seconds(); d > 0 && s.received >= last.received {
		s.rate = (s.received - last.received) / d
	}
	s.p50, s.p99 = quantile(0.5, s.buckets, last.buckets), quantile(0.99, s.buckets, last.buckets)
}
