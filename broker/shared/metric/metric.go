// Package metric makes the metrics of all parts, a line each, and registers them. It imports nothing of this module.
package metric

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Maker makes metrics and registers them.
type Maker struct{ auto promauto.Factory }

// For returns a maker that registers with reg; of a nil reg the metrics only count.
func For(reg prometheus.Registerer) Maker { return Maker{promauto.With(reg)} }

// Counter makes a counter.
func (m Maker) Counter(name, help string) prometheus.Counter {
	return m.auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// Counters makes a counter for each combination of the labels' values.
func (m Maker) Counters(name, help string, labels ...string) *prometheus.CounterVec {
	return m.auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// Gauge makes a gauge.
func (m Maker) Gauge(name, help string) prometheus.Gauge {
	return m.auto.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// Gauges makes a gauge for each combination of the labels' values.
func (m Maker) Gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return m.auto.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

// GaugeFunc makes a gauge that asks for its value. Unregistered nobody would ask.
func (m Maker) GaugeFunc(name, help string, value func() float64) {
	m.auto.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// Histogram makes a histogram with the upper bounds of its buckets.
func (m Maker) Histogram(name, help string, buckets ...float64) prometheus.Histogram {
	return m.auto.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

// Histograms makes a histogram for each combination of the labels' values.
func (m Maker) Histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return m.auto.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// Latencies makes histograms of times from a vehicle to somewhere, 1 ms to an hour. A scraper that takes native histograms gets
// them with finer buckets, at most 64 of each.
func (m Maker) Latencies(name, help string, labels ...string) *prometheus.HistogramVec {
	return m.auto.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600, 3600},
		NativeHistogramBucketFactor: 1.2, NativeHistogramMaxBucketNumber: 64, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
}

// Readings are metrics that are read when they are asked for, so that they cannot differ from what else is told of the
// same figures. They are a prometheus.Collector; Set Read before they are registered.
type Readings struct {
	Read  func(to Sample)
	descs []*prometheus.Desc
}

// Add declares a metric; of Readings that are registered it must not be called any more.
func (r *Readings) Add(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	r.descs = append(r.descs, d)
	return d
}

// Describe implements prometheus.Collector.
func (r *Readings) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Readings) Collect(ch chan<- prometheus.Metric) { r.Read(Sample{ch}) }

// Sample takes the values of one reading.
type Sample struct{ to chan<- prometheus.Metric }

// Gauge gives the value of a gauge.
func (s Sample) Gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// Flag gives the value of a gauge that is 1 or 0.
func (s Sample) Flag(d *prometheus.Desc, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	s.Gauge(d, v, labels...)
}

// Counter gives the value of a counter.
func (s Sample) Counter(d *prometheus.Desc, v float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
