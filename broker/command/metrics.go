package command

import (
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of the service.
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
	early   prometheus.Counter
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	m := &Metrics{
		states: to.Counters("commands_total", "Commands that entered a state.", "state"),
		seconds: to.Histogram("command_seconds", "Time from a command's acceptance to its final state.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
		open:    to.Gauge("commands_open", "Commands that are not final."),
		kept:    to.Gauge("commands_kept", "Final commands that are remembered."),
		events:  to.Gauge("command_events_waiting", "Changes of state that Kafka does not have yet."),
		answers: to.Gauge("command_responses_waiting", "Outcomes that are not published on their response topics yet."),
		dropped: to.Counters("command_events_dropped_total", "Changes of state that Kafka will never have.", "reason"),
		ignored: to.Counters("command_reports_ignored_total", "Results from vehicles that changed no command.", "reason"),
		gaps: to.Counters("command_gaps_total",
			"Gaps in vehicle.commands: of what was older than every time to live (expired), or may not have been (unknown).", "age"),
		gone: to.Counters("command_records_gone_total",
			"Records of vehicle.commands that were gone before they were read, by age as command_gaps_total.", "age"),
	}
	m.early = to.Counter("commands_forgotten_early_total",
		"Final commands that were forgotten for commands.keep_max before their id could not be asked for again.")
	for _, age := range []string{"expired", "unknown"} {
		m.gaps.WithLabelValues(age)
		m.gone.WithLabelValues(age)
	}
	for _, s := range States() {
		m.states.WithLabelValues(string(s))
	}
	return m
}
