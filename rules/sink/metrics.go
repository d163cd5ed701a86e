package sink

import (
	"time"

	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the dispatcher's metrics. The ledger's figures are read from the ledger at collection, so that /metrics
// and /v1/ledger agree.
type Metrics struct {
	ruleMatched   *prometheus.CounterVec   // rule_matched_total{rule}
	ruleErrors    *prometheus.CounterVec   // rule_errors_total{rule}
	modeChanges   *prometheus.CounterVec   // sink_mode_changes_total{sink,mode}
	refused       *prometheus.CounterVec   // sink_refused_total{sink}
	parked        *prometheus.CounterVec   // parked_total{sink}
	missing       prometheus.Counter       // dispatch_missing_records_total
	parallel      prometheus.Counter       // dispatch_parallel_messages_total
	checkpoint    prometheus.Histogram     // dispatch_checkpoint_seconds
	delivery      *prometheus.HistogramVec // sink_delivery_seconds{sink}
	limited       prometheus.Counter       // rule_limited_total
	evicted       *prometheus.CounterVec   // rule_state_evicted_total{reason}
	ticks         prometheus.Counter       // rule_ticks_total
	operatorsLost prometheus.Counter
	reg           prometheus.Registerer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	m := &Metrics{
		ruleMatched: to.Counters("rule_matched_total", "Records that matched a rule.", "rule"),
		ruleErrors:  to.Counters("rule_errors_total", "Records that a rule could not evaluate.", "rule"),
		modeChanges: to.Counters("sink_mode_changes_total", "Changes of a sink's mode: fed live, or from its decision log.", "sink", "mode"),
		refused: to.Counters("sink_refused_total",
			"Messages that a sink refused permanently, including those whose destination stayed unavailable too long. They go to "+
				"the error topic.", "sink"),
		parked:   to.Counters("parked_total", "Messages written to the logs of parked destinations.", "sink"),
		missing:  to.Counter("dispatch_missing_records_total", "Records that the evaluator could not read from the journal."),
		parallel: to.Counter("dispatch_parallel_messages_total", "Messages evaluated on several goroutines at once (rules.workers)."),
		checkpoint: to.Histogram("dispatch_checkpoint_seconds", "Duration of checkpoints, including fsync.",
			prometheus.ExponentialBuckets(0.001, 2, 14)...),
		delivery: to.Latencies("sink_delivery_seconds",
			"Time from received-at of a record until the sink has delivered all its messages, measured for one record in 16.", "sink"),
		limited: to.Counter("rule_limited_total", "How often a rule was held because too many of its messages were errors (limits)."),
		evicted: to.Counters("rule_state_evicted_total",
			"Operator state of rules removed because of a bound, by reason: vins (VINs above rules.max_vins), rule_entries and "+
				"vin_bytes (list entries), rule_keys and vin_bytes (values of by), removed_rules (state of removed rules).", "reason"),
		ticks: to.Counter("rule_ticks_total",
			"Ticks appended to the journal so that rules can send without input (end of a window, silence)."),
		operatorsLost: to.Counter("rule_state_lost_total", "Starts that found operator state damaged and continued without the damaged part."),
		reg:           reg,
	}
	for _, reason := range []string{"vins", "rule_entries", "rule_keys", "vin_bytes", "removed_rules"} {
		m.evicted.WithLabelValues(reason)
	}
	return m
}

// forget removes the metrics of rules that the next set does not have.
func (m *Metrics) forget(before *ruleSet, ids []string) {
	if before == nil {
		return
	}
	stay := make(map[string]bool, len(ids))
	for _, id := range ids {
		stay[id] = true
	}
	for _, id := range before.ids {
		if !stay[id] {
			m.ruleMatched.DeleteLabelValues(id)
			m.ruleErrors.DeleteLabelValues(id)
		}
	}
}

// readings exports the ledger's figures to Prometheus.
func (d *Dispatcher) readings() *metric.Readings {
	r := &metric.Readings{}
	received := r.Add("ledger_received_total", "Records in the journal that a sink must account for.", "sink")
	settled := r.Add("ledger_settled_total",
		"Settled records by sink and outcome: delivered, filtered, dead_lettered, dropped. Together with ledger_pending they "+
			"add up to ledger_received_total.", "sink", "outcome")
	dropped := r.Add("ledger_dropped_total", "Dropped records by sink and reason.", "sink", "reason")
	window := r.Add("sink_window_messages", "Messages in flight to a sink.", "sink")
	windowLimit := r.Add("sink_window_messages_limit", "Bound of sink_window_messages: rules.queue_messages.", "sink")
	windowBytes := r.Add("sink_window_bytes", "Estimated memory of the messages in flight to a sink.", "sink")
	windowBytesLimit := r.Add("sink_window_bytes_limit", "Bound of sink_window_bytes: rules.queue_bytes.", "sink")
	total := r.Add("ledger_total",
		"Removed after 0.1.0; use ledger_received_total, ledger_settled_total and ledger_dropped_total. Records by sink and "+
			"outcome: received, delivered, filtered, dead_lettered, dropped_{reason}.", "sink", "outcome")
	pending := r.Add("ledger_pending", "Records that are not settled at a sink.", "sink")
	unevaluated := r.Add("ledger_unevaluated", "Records of ledger_pending that the rules have not evaluated.", "sink")
	balanced := r.Add("ledger_balanced", "1 while the ledger of a sink adds up, else 0.", "sink")
	lag := r.Add("sink_lag_messages", "Records that are not settled at a sink, including those not evaluated.", "sink")
	seconds := r.Add("sink_lag_seconds", "Age of the oldest record that is not settled at a sink.", "sink")
	logBytes := r.Add("decision_log_bytes", "Size of a sink's decision log.", "sink")
	vins := r.Add("rule_state_vins", "VINs with operator state of rules.")
	maxVINs := r.Add("rule_state_max_vins", "Bound of rule_state_vins: rules.max_vins.")
	removed := r.Add("rule_state_removed_operators",
		"Operators of rules removed within a day. Their state is kept in case the rules return.")
	stateBytes := r.Add("rule_state_log_bytes", "Size of the log of operator state.")
	overdue := r.Add("rule_ticks_overdue_seconds", "How long messages that rules send without input (end of a window, silence) are overdue.")
	r.Read = func(to metric.Sample) {
		to.Gauge(overdue, d.Overdue().Seconds())
		for _, l := range d.Ledger() {
			to.Counter(received, float64(l.Received), l.Sink)
			to.Counter(settled, float64(l.Delivered), l.Sink, "delivered")
			to.Counter(settled, float64(l.Filtered), l.Sink, "filtered")
			to.Counter(settled, float64(l.DeadLettered), l.Sink, "dead_lettered")
			to.Counter(settled, float64(l.sumDropped()), l.Sink, "dropped")
			to.Counter(total, float64(l.Received), l.Sink, "received")
			to.Counter(total, float64(l.Delivered), l.Sink, "delivered")
			to.Counter(total, float64(l.Filtered), l.Sink, "filtered")
			to.Counter(total, float64(l.DeadLettered), l.Sink, "dead_lettered")
			for reason, n := range l.Dropped {
				to.Counter(dropped, float64(n), l.Sink, reason)
				to.Counter(total, float64(n), l.Sink, "dropped_"+reason)
			}
			to.Gauge(pending, float64(l.Pending), l.Sink)
			to.Gauge(unevaluated, float64(l.Unevaluated), l.Sink)
			to.Flag(balanced, l.Balanced, l.Sink)
		}
		for _, p := range d.pipelines {
			to.Gauge(window, float64(p.window.messages.Load()), p.name)
			to.Gauge(windowLimit, float64(p.limits.Messages), p.name)
			to.Gauge(windowBytes, float64(p.window.bytes.Load()), p.name)
			to.Gauge(windowBytesLimit, float64(p.limits.Bytes), p.name)
		}
		to.Gauge(vins, float64(d.vins.Load()))
		to.Gauge(maxVINs, float64(d.o.State.MaxVINs))
		to.Gauge(stateBytes, float64(d.operators.log.Bytes()))
		to.Gauge(removed, float64(d.removed.Load()))
		for _, l := range d.Lag() {
			to.Gauge(lag, float64(l.Messages), l.Sink)
			to.Gauge(seconds, l.Age.Seconds(), l.Sink)
			to.Gauge(logBytes, float64(l.LogBytes), l.Sink)
		}
	}
	return r
}

// SinkLag describes a sink's lag.
type SinkLag struct {
	Sink string `json:"sink"`
	// Messages is the number of unsettled records, including those not evaluated.
	Messages uint64 `json:"messages"`
	// Unevaluated is the number of records not evaluated.
	Unevaluated uint64 `json:"unevaluated"`
	// Age is the age of the oldest of them; 0 if there is none.
	Age time.Duration `json:"age_ns"`
	// Live is false while the sink is fed from its decision log.
	Live bool `json:"live"`
	// LogBytes is the size of the decision log.
	LogBytes int64 `json:"log_bytes"`
	// Cursor is the journal sequence up to which everything is settled.
	Cursor uint64 `json:"cursor"`
}
