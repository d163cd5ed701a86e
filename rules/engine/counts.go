package engine

import (
	"time"

	"cellgate/rules/lang"
)

// sampleEvery is the sampling interval: rule evaluation is timed for one message in sampleEvery.
const sampleEvery = 64

// RuleCounts counts the outcomes of the messages on a rule's topics. Each message is matched, an error, missing or
// filtered.
type RuleCounts struct {
	Considered uint64
	// Matched counts messages with at least one match and no payload that a target failed to decode.
	Matched uint64
	Errors  uint64
	// Missing counts messages that lack a field named in the condition and are neither matched nor errors.
	Missing uint64
	// Evaluated counts the evaluations of the rule in the timed sample (one message in 64), Time is their duration.
	// Rules that the index skips are not evaluated.
	Evaluated uint64
	Time      time.Duration
}

// Filtered returns the number of messages that the condition or an operator held back.
func (c *RuleCounts) Filtered() uint64 { return c.Considered - c.Matched - c.Errors - c.Missing }

// Add adds the counts of another worker.
func (c *RuleCounts) Add(o *RuleCounts) {
	c.Considered += o.Considered
	c.Matched += o.Matched
	c.Errors += o.Errors
	c.Missing += o.Missing
	c.Evaluated += o.Evaluated
	c.Time += o.Time
}

// ruleCounter counts what a worker did with a rule that the index did not skip.
type ruleCounter struct {
	matched, errors, lacking uint64 // lacking: messages of matched and errors that lack a field of the condition
	evaluated                uint64
	time                     time.Duration
}

// Counts adds the worker's counts to counts, indexed by rule. The worker must not be running.
func (w *Worker) Counts(counts []RuleCounts) {
	w.finder.Counts(func(rule uint16, messages, lacking uint64) {
		c, n := &counts[rule], &w.counts[rule]
		c.Add(&RuleCounts{
			Considered: messages, Matched: n.matched, Errors: n.errors, Missing: lacking - n.lacking, Evaluated: n.evaluated, Time: n.time,
		})
	})
}

// measured calls rule and times it for one message in sampleEvery.
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
