package engine

import (
	"time"

	"cellgate/rules/lang"
)

// sampleEvery is of how many messages one has the evaluation of its rules measured.
const sampleEvery = 64

// RuleCounts are what has become of the messages on a rule's topics: each is matched, or an error, or missing, or else filtered.
type RuleCounts struct {
	Considered uint64
	// Matched messages came through at least once, as one of Errors did not.
	Matched uint64
	Errors  uint64
	// Missing messages lack a field that the condition names, and nothing came of them.
	Missing uint64
	// Evaluated is how often the rule was evaluated among the messages that are measured, which are one in 64, and Time how long
	// that took. A rule that the index passes over is not evaluated.
	Evaluated uint64
	Time      time.Duration
}

// Filtered are the messages that the condition or an operator held back.
func (c *RuleCounts) Filtered() uint64 { return c.Considered - c.Matched - c.Errors - c.Missing }

// Add adds what another worker has counted.
func (c *RuleCounts) Add(o *RuleCounts) {
	c.Considered += o.Considered
	c.Matched += o.Matched
	c.Errors += o.Errors
	c.Missing += o.Missing
	c.Evaluated += o.Evaluated
	c.Time += o.Time
}

// ruleCounter is what a worker counts of a rule at each message that is not passed over.
type ruleCounter struct {
	matched, errors, lacking uint64 // lacking: of the two others
	evaluated                uint64
	time                     time.Duration
}

// Counts adds what the worker has counted to counts, by rule. It is called while the worker does not run.
func (w *Worker) Counts(counts []RuleCounts) {
	w.finder.Counts(func(rule uint16, messages, lacking uint64) {
		c, n := &counts[rule], &w.counts[rule]
		c.Add(&RuleCounts{
			Considered: messages, Matched: n.matched, Errors: n.errors, Missing: lacking - n.lacking, Evaluated: n.evaluated, Time: n.time,
		})
	})
}

// measured is rule, measured for one message of many.
func (w *Worker) measured(r *lang.Rule, sure bool, out []Decision) []Decision {
	if w.messages%sampleEvery != 0 {
		return w.rule(r, sure, out)
	}
	began := time.Now()
	out = w.rule(r, sure, out)
	c := &w.counts[r.Index]
	c.evaluated++
	c.time += time.Since(began)
	return out
}

// count counts what has come of a rule.
func (w *Worker) count(r *lang.Rule, matched, failed bool) {
	c := &w.counts[r.Index]
	switch {
	case matched:
		c.matched++
	case failed:
		c.errors++
	default:
		return
	}
	if w.finder.Lacks(r.Index) {
		c.lacking++
	}
}
