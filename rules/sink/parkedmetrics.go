package sink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// parkedCollector gives what is parked to Prometheus, per sink: destinations are named by /readyz and /v1/status.
type parkedCollector struct {
	lot                                              *lot
	destinations, messages, bytes, seconds, maxBytes *prometheus.Desc
}

func newParkedCollector(l *lot) *parkedCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &parkedCollector{
		lot:          l,
		destinations: desc("parked_destinations", "Destinations of a sink (topics, partitions) that take no messages.", "sink"),
		messages:     desc("parked_messages", "Messages that wait for such destinations.", "sink"),
		bytes:        desc("parked_bytes", "Size of the logs in which they wait.", "sink"),
		seconds:      desc("parked_oldest_seconds", "Age of the oldest of them.", "sink"),
		maxBytes:     desc("parked_max_bytes", "Bound of all such logs together."),
	}
}

// Describe implements prometheus.Collector.
func (c *parkedCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.destinations, c.messages, c.bytes, c.seconds, c.maxBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *parkedCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	all := c.lot.parked()
	for _, p := range c.lot.env.pipelines {
		var n, messages, bytes, oldest float64
		for i := range all {
			if all[i].Sink != p.name {
				continue
			}
			n++
			messages += float64(all[i].Messages)
			bytes += float64(all[i].Bytes)
			if !all[i].Oldest.IsZero() {
				oldest = max(oldest, time.Since(all[i].Oldest).Seconds())
			}
		}
		gauge(c.destinations, n, p.name)
		gauge(c.messages, messages, p.name)
		gauge(c.bytes, bytes, p.name)
		gauge(c.seconds, oldest, p.name)
	}
	gauge(c.maxBytes, float64(c.lot.limits.Bytes))
}
