package presence

import (
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the outbox's metrics.
type Metrics struct {
	events   *prometheus.CounterVec
	mirrored *prometheus.CounterVec
	reg      prometheus.Registerer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	m := &Metrics{
		events: to.Counters("presence_events_total",
			"Presence events by result: published, refused (permanently, by Kafka), merged (replaced by a later one of the VIN while Kafka was unavailable), dropped (a bound was reached).", "result"),
		mirrored: to.Counters("presence_mirrored_total",
			"Vehicles whose presence was written to Redis, or dropped because too many waited, by result.", "result"),
		reg: reg,
	}
	for _, result := range []string{"published", "refused", "merged", "dropped"} {
		m.events.WithLabelValues(result)
	}
	return m
}

// readings are metrics read from the outbox's state.
func (b *Outbox) readings() *metric.Readings {
	r := &metric.Readings{}
	waiting := r.Add("presence_waiting", "Unpublished presence events in memory.")
	most := r.Add("presence_max_waiting", "Bound of presence_waiting. Further events wait on disk, merged by VIN.")
	spilled := r.Add("presence_on_disk", "1 while presence events wait only on disk, else 0.")
	vehicles := r.Add("presence_vehicles", "VINs with presence on disk: connected, or with unpublished events.")
	bound := r.Add("presence_max_vehicles", "Bound of presence_vehicles.")
	lost := r.Add("presence_lost", "Vehicles that were connected when the gateway was killed and may still return within presence.grace.")
	r.Read = func(out metric.Sample) {
		b.mu.Lock()
		defer b.mu.Unlock()
		out.Gauge(waiting, float64(len(b.pending)+len(b.queue)))
		out.Gauge(most, float64(b.o.MaxWaiting))
		out.Flag(spilled, b.spilled)
		out.Gauge(vehicles, float64(b.kept))
		out.Gauge(bound, float64(b.o.MaxVehicles))
		out.Gauge(lost, float64(len(b.lost)))
	}
	return r
}
