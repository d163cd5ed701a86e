package command

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what the service counts.
type Metrics struct {
	states  *prometheus.CounterVec
	seconds prometheus.Histogram
	open    prometheus.Gauge
	kept    prometheus.Gauge
	events  prometheus.Gauge
	answers prometheus.Gauge
	dropped *prometheus.CounterVec
	ignored *prometheus.CounterVec
	gaps    *prometheus.CounterVec
	gone    *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		states: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "commands_total", Help: "Commands that entered a state.",
		}, []string{"state"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "command_seconds", Help: "Time from a command's acceptance to its final state.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "commands_open", Help: "Commands that are not final.",
		}),
		kept: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "commands_kept", Help: "Final commands that are remembered.",
		}),
		events: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "command_events_waiting", Help: "Changes of state that Kafka does not have yet.",
		}),
		answers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "command_responses_waiting", Help: "Outcomes that are not published on their response topics yet.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "command_events_dropped_total", Help: "Changes of state that Kafka will never have.",
		}, []string{"reason"}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "command_reports_ignored_total", Help: "Results from vehicles that changed no command.",
		}, []string{"reason"}),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "command_gaps_total", Help: "Gaps in vehicle.commands: of what was older than every time to live (expired), or may not have been (unknown).",
		}, []string{"age"}),
		gone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "command_records_gone_total", Help: "Records of vehicle.commands that were gone before they were read, by age as command_gaps_total.",
		}, []string{"age"}),
	}
	for _, age := range []string{"expired", "unknown"} {
		m.gaps.WithLabelValues(age)
		m.gone.WithLabelValues(age)
	}
	for _, s := range States() {
		m.states.WithLabelValues(string(s))
	}
	if reg != nil {
		reg.MustRegister(m.states, m.seconds, m.open, m.kept, m.events, m.answers, m.dropped, m.ignored, m.gaps, m.gone)
	}
	return m
}
