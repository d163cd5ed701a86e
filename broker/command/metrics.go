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
		seconds: to.Histogram("command_seconds", "Time from the acceptance of a command to its final state.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
		open:    to.Gauge("commands_open", "Commands without a final state."),
		kept:    to.Gauge("commands_kept", "Final commands that are kept."),
		events:  to.Gauge("command_events_waiting", "State changes of commands that are not in Kafka yet."),
		answers: to.Gauge("command_responses_waiting", "Outcomes of commands that are not on their response topics yet."),
		dropped: to.Counters("command_events_dropped_total", "State changes of commands that will never reach Kafka, by reason.", "reason"),
		ignored: to.Counters("command_reports_ignored_total", "Results of vehicles that changed no command, by reason.", "reason"),
		gaps: to.Counters("command_gaps_total",
			"Gaps in vehicle.commands by age of the missing records: expired (older than every time to live) or unknown.", "age"),
		gone: to.Counters("command_records_gone_total",
			"Records of vehicle.commands that were deleted before they were read, by age as in command_gaps_total.", "age"),
	}
	m.early = to.Counter("commands_forgotten_early_total",
		"Final commands removed because of commands.keep_max while their id could still be repeated.")
	for _, age := range []string{"expired", "unknown"} {
		m.gaps.WithLabelValues(age)
		m.gone.WithLabelValues(age)
	}
	for _, s := range States() {
		m.states.WithLabelValues(string(s))
	}
	return m
}
