// Package metric creates and registers metrics, one line each. It imports nothing of this module.
package metric

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Maker creates and registers metrics.
type Maker struct{ auto promauto.Factory }

// For returns a Maker for reg; with a nil reg the metrics are not registered.
func For(reg prometheus.Registerer) Maker { return Maker{promauto.With(reg)} }

// Counter creates a counter.
func (m Maker) Counter(name, help string) prometheus.Counter {
	return m.auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// Counters creates a counter for each combination of label values.
func (m Maker) Counters(name, help string, labels ...string) *prometheus.CounterVec {
	return m.auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// Gauge creates a gauge.
func (m Maker) Gauge(name, help string) prometheus.Gauge {
	return m.auto.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// Gauges creates a gauge for each combination of label values.
func (m Maker) Gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return m.auto.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

// GaugeFunc creates a gauge with a callback for its value. Without a registry it does nothing.
func (m Maker) GaugeFunc(name, help string, value func() float64) {
	m.auto.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// Histogram creates a histogram; buckets are the upper bounds.
func (m Maker) Histogram(name, help string, buckets ...float64) prometheus.Histogram {
	return m.auto.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

// Histograms creates a histogram for each combination of label values.
func (m Maker) Histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return m.auto.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// Latencies creates histograms of times from a vehicle to a destination, 1 ms to 1 h. A scraper that supports native
// histograms gets at most 64 finer buckets of each.
func (m Maker) Latencies(name, help string, labels ...string) *prometheus.HistogramVec {
	return m.auto.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600, 3600},
		NativeHistogramBucketFactor: 1.2, NativeHistogramMaxBucketNumber: 64, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
}

// Readings are metrics whose values are read at collection, so that they agree with other reports of the same figures.
// They are a prometheus.Collector; set Read before registering them.
type Readings struct {
	Read  func(to Sample)
	descs []*prometheus.Desc
}

// Add declares a metric. It must not be called after registration.
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

// Sample receives the values of one collection.
type Sample struct{ to chan<- prometheus.Metric }

// Gauge reports the value of a gauge.
func (s Sample) Gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// Flag reports a gauge that is 1 or 0.
func (s Sample) Flag(d *prometheus.Desc, on bool, labels ...string) {
	v := 0.0
	if on {
		v = 1
	}
	s.Gauge(d, v, labels...)
}

// Counter reports the value of a counter.
func (s Sample) Counter(d *prometheus.Desc, v float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
