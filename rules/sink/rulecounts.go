package sink

import (
	"time"

	"cellgate/broker/shared/metric"
	"cellgate/rules/engine"
)

// ruleCounts sums the outcomes of messages at each rule, by id, over rule sets. The holder of evalMu owns it.
type ruleCounts struct {
	before map[string]engine.RuleCounts // under earlier sets, of the current set's rules
	last   map[string]engine.RuleCounts // last result
}

// RuleCounts returns the outcomes of the messages evaluated by this process, by rule. While a batch is being evaluated,
// or the disk takes nothing, it returns the previous result.
func (d *Dispatcher) RuleCounts() map[string]engine.RuleCounts {
	const patience = 100 * time.Millisecond
	for waited := time.Duration(0); waited < patience; waited += time.Millisecond {
		if d.evalMu.TryLock() {
			defer d.evalMu.Unlock()
			counts := d.countRules()
			d.countsMu.Lock()
			defer d.countsMu.Unlock()
			d.counts.last = counts
			return counts
		}
		time.Sleep(time.Millisecond)
	}
	d.countsMu.Lock()
	defer d.countsMu.Unlock()
	return d.counts.last
}

// countRules sums the counts of current and earlier workers.
func (d *Dispatcher) countRules() map[string]engine.RuleCounts {
	out := map[string]engine.RuleCounts{}
	if d.current.set == nil {
		return out
	}
	ids := d.current.set.ids
	counts := make([]engine.RuleCounts, len(ids))
	for i := range d.rounds.results {
		d.rounds.results[i].worker.Counts(counts)
	}
	for i, id := range ids {
		before := d.counts.before[id]
		counts[i].Add(&before)
		out[id] = counts[i]
	}
	return out
}

// ruleReadings exports the counts of the rules in force to Prometheus.
func (d *Dispatcher) ruleReadings() *metric.Readings {
	r := &metric.Readings{}
	messages := r.Add("rule_messages_total",
		"Messages on the topics of a rule by outcome: matched, filtered, missing (a field of the condition is missing), "+
			"error.", "rule", "outcome")
	considered := r.Add("rule_considered_total", "Messages on the topics of a rule.", "rule")
	delivered := r.Add("rule_delivered_total",
		"Messages of a rule that its sinks delivered, without dead letters. Those of removed rules are counted together as "+
			"_gone.", "rule")
	evaluations := r.Add("rule_evaluations_measured_total", "Measured evaluations of a rule: those of one message in 64.", "rule")
	seconds := r.Add("rule_evaluation_seconds_total", "Duration of the measured evaluations of a rule.", "rule")
	held := r.Add("rule_held", "1 while a rule sends nothing because too many of its messages were errors (limits).", "rule")
	r.Read = func(to metric.Sample) {
		for _, l := range d.Limited() {
			to.Flag(held, l.Held != nil, l.Rule)
		}
		sent, gone := d.env.deliveries.counts()
		for id, n := range sent {
			to.Counter(delivered, float64(n), id)
		}
		to.Counter(delivered, float64(gone), "_gone")
		for id, c := range d.RuleCounts() {
			to.Counter(considered, float64(c.Considered), id)
			to.Counter(messages, float64(c.Matched), id, "matched")
			to.Counter(messages, float64(c.Filtered()), id, "filtered")
			to.Counter(messages, float64(c.Missing), id, "missing")
			to.Counter(messages, float64(c.Errors), id, "error")
			to.Counter(evaluations, float64(c.Evaluated), id)
			to.Counter(seconds, c.Time.Seconds(), id)
		}
	}
	return r
}
