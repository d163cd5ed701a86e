package sink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the dispatcher. The ledger's own figures are read from the ledger when they are asked for,
// so that /metrics and /v1/ledger cannot disagree.
type Metrics struct {
	ruleMatched *prometheus.CounterVec // rule_matched_total{rule}
	ruleErrors  *prometheus.CounterVec // rule_errors_total{rule}
	modeChanges *prometheus.CounterVec // sink_mode_changes_total{sink,mode}
	refused     *prometheus.CounterVec // sink_refused_total{sink}
	parked      *prometheus.CounterVec // parked_total{sink}
	missing     prometheus.Counter     // dispatch_missing_records_total
	checkpoint  prometheus.Histogram   // dispatch_checkpoint_seconds
	evicted     *prometheus.CounterVec // rule_state_evicted_total{reason}
	// operatorsLost is rule_state_lost_total.
	operatorsLost prometheus.Counter
	reg           prometheus.Registerer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		ruleMatched: vec("rule_matched_total", "Records that a rule matched.", "rule"),
		ruleErrors:  vec("rule_errors_total", "Records on which a rule could not be evaluated.", "rule"),
		modeChanges: vec("sink_mode_changes_total", "Turns between live feeding and the decision log.", "sink", "mode"),
		refused:     vec("sink_refused_total", "Messages that a sink will never take; they go to the error topic.", "sink"),
		parked:      vec("parked_total", "Messages that were put into the log of a destination that takes none.", "sink"),
		missing: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dispatch_missing_records_total", Help: "Records that the evaluator could not read in the journal.",
		}),
		checkpoint: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dispatch_checkpoint_seconds", Help: "Time of one checkpoint, fsyncs included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		evicted: vec("rule_state_evicted_total", "What rules' operators forgot because of a bound: VINs beyond rules.max_vins (vins), "+
			"entries of a list (rule_entries, vin_bytes), what removed rules remembered (removed_rules).", "reason"),
		operatorsLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rule_state_lost_total", Help: "Starts that found what rules' operators remember damaged and went on without a part of it.",
		}),
		reg: reg,
	}
	for _, reason := range []string{"vins", "rule_entries", "vin_bytes", "removed_rules"} {
		m.evicted.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(m.ruleMatched, m.ruleErrors, m.modeChanges, m.refused, m.parked, m.missing, m.checkpoint, m.evicted, m.operatorsLost)
	}
	return m
}

// collector gives the ledger's figures to Prometheus.
type collector struct {
	d                                                *Dispatcher
	total, pending, lag, seconds, balanced, logBytes *prometheus.Desc
	unevaluated                                      *prometheus.Desc
	vins, maxVINs, stateBytes, removed               *prometheus.Desc
}

func newCollector(d *Dispatcher) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		d: d,
		total: desc("ledger_total", "Records by sink and outcome: received, delivered, filtered, dead_lettered, "+
			"dropped_{reason}.", "sink", "outcome"),
		pending:     desc("ledger_pending", "Records with messages that are not settled at a sink.", "sink"),
		unevaluated: desc("ledger_unevaluated", "Records of ledger_pending that the rules have not seen.", "sink"),
		lag:         desc("sink_lag_messages", "Records that are not settled at a sink, not yet evaluated ones included.", "sink"),
		seconds:     desc("sink_lag_seconds", "Age of the oldest record that is not settled at a sink.", "sink"),
		balanced:    desc("ledger_balanced", "1 while the ledger of a sink adds up.", "sink"),
		logBytes:    desc("decision_log_bytes", "Size of a sink's decision log.", "sink"),
		vins:        desc("rule_state_vins", "VINs of which the rules' operators remember something."),
		maxVINs:     desc("rule_state_max_vins", "The bound of rule_state_vins, rules.max_vins."),
		removed:     desc("rule_state_removed_operators", "Operators of rules that were removed within a day, whose memory is kept in case they come back."),
		stateBytes:  desc("rule_state_log_bytes", "Size of the log that keeps what the operators remember."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.total, c.pending, c.lag, c.seconds, c.balanced, c.logBytes, c.unevaluated, c.vins, c.maxVINs, c.stateBytes, c.removed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range c.d.Ledger() {
		count := func(outcome string, n uint64) {
			ch <- prometheus.MustNewConstMetric(c.total, prometheus.CounterValue, float64(n), l.Sink, outcome)
		}
		count("received", l.Received)
		count("delivered", l.Delivered)
		count("filtered", l.Filtered)
		count("dead_lettered", l.DeadLettered)
		for reason, n := range l.Dropped {
			count("dropped_"+reason, n)
		}
		gauge(c.pending, float64(l.Pending), l.Sink)
		gauge(c.unevaluated, float64(l.Unevaluated), l.Sink)
		ok := 0.0
		if l.Balanced {
			ok = 1
		}
		gauge(c.balanced, ok, l.Sink)
	}
	gauge(c.vins, float64(c.d.vins.Load()))
	gauge(c.maxVINs, float64(c.d.o.State.MaxVINs))
	gauge(c.stateBytes, float64(c.d.operators.log.bytes()))
	gauge(c.removed, float64(c.d.removed.Load()))
	for _, l := range c.d.Lag() {
		gauge(c.lag, float64(l.Messages), l.Sink)
		gauge(c.seconds, l.Age.Seconds(), l.Sink)
		gauge(c.logBytes, float64(l.LogBytes), l.Sink)
	}
}

// SinkLag is how far a sink is behind.
type SinkLag struct {
	Sink string `json:"sink"`
	// Messages are the records not settled at the sink, those included that are not yet evaluated.
	Messages uint64 `json:"messages"`
	// Unevaluated are those that the rules have not seen.
	Unevaluated uint64 `json:"unevaluated"`
	// Age is how long ago the oldest of them was received; 0 when there is none.
	Age time.Duration `json:"age_ns"`
	// Live is false while the sink is fed from its decision log.
	Live bool `json:"live"`
	// LogBytes is the size of the decision log.
	LogBytes int64 `json:"log_bytes"`
	// Cursor is the journal sequence up to which everything is settled.
	Cursor uint64 `json:"cursor"`
}
