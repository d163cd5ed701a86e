package sink

import (
	"time"

	"cellgate/broker/shared/metric"
)

// readings exports the parked messages per sink to Prometheus; /readyz and /v1/status name the destinations.
func (l *parkedStore) readings() *metric.Readings {
	r := &metric.Readings{}
	destinations := r.Add("parked_destinations",
		"Parked destinations of a sink (topics, partitions, endpoints): they accept no messages at present.", "sink")
	messages := r.Add("parked_messages", "Messages that wait for parked destinations.", "sink")
	size := r.Add("parked_bytes", "Size of the logs of parked destinations.", "sink")
	seconds := r.Add("parked_oldest_seconds", "Age of the oldest message that waits for a parked destination.", "sink")
	maxBytes := r.Add("parked_max_bytes", "Bound of parked_bytes, of all sinks together.")
	r.Read = func(to metric.Sample) {
		all := l.parked()
		for _, p := range l.env.pipelines {
			var n, waiting, bytes, oldest float64
			for i := range all {
				if all[i].Sink != p.name {
					continue
				}
				n++
				waiting += float64(all[i].Messages)
				bytes += float64(all[i].Bytes)
				if !all[i].Oldest.IsZero() {
					oldest = max(oldest, time.Since(all[i].Oldest).Seconds())
				}
			}
			to.Gauge(destinations, n, p.name)
			to.Gauge(messages, waiting, p.name)
			to.Gauge(size, bytes, p.name)
			to.Gauge(seconds, oldest, p.name)
		}
		to.Gauge(maxBytes, float64(l.limits.Bytes))
	}
	return r
}
