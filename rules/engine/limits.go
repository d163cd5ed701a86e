package engine

import (
	"errors"
	"math/bits"
	"slices"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/state"
)

const (
	// minLimited is how many messages a window must have before its share of errors says something.
	minLimited = 100
	// minFaulty is of how many shards, and so at least vehicles, the errors must be: one vehicle that sends nonsense does not keep a
	// rule from all others.
	minFaulty = 3
)

// Faults are the errors of a rule for which its limit counts: a payload that cannot be decoded is no fault of a rule.
type Faults struct {
	Errors uint64
	Shards uint64 // with a bit for each shard of VINs that had one
}

// fault takes note of an error of a rule. Nobody knows how many are behind what no vehicle has sent.
func (w *Worker) fault(rule uint16, vin string, err error) {
	if err == nil || errors.Is(err, expr.ErrPayload) {
		return
	}
	f := &w.faults[rule]
	f.Errors++
	if vin == "" {
		f.Shards |= 1<<minFaulty - 1
		return
	}
	f.Shards |= 1 << state.ShardOf(vin)
}

// TakeFaults adds the faults since it was called last to faults, by rule.
func (w *Worker) TakeFaults(faults []Faults) {
	for i, f := range w.faults {
		faults[i].Errors += f.Errors
		faults[i].Shards |= f.Shards
	}
	clear(w.faults)
}

// Hold has all workers of the engine treat a rule as if its mode was shadow. None of them may be evaluating.
func (w *Worker) Hold(rule uint16, held bool) { w.engine.held[rule] = held }

// Counter is a worker as limits see it.
type Counter interface {
	Counts(counts []RuleCounts)
	TakeFaults(faults []Faults)
	Hold(rule uint16, held bool)
}

// Limits hold rules that have too many errors. Messages and errors are counted in windows by the time of the records, and looked
// at once in each second of it, at the first record of the next: so every replay of a journal finds the same in front of the same
// record, on however many goroutines it evaluates. What is found is put into the journal (message.Limit), and that record alone
// has a rule held: where it stands, the decisions of every replay change. Limits belong to whoever evaluates.
type Limits struct {
	// Exceeded is called for each rule that has too many errors. It is called again after a start until the record that it asks for
	// is met.
	Exceeded func(message.Limit)
	second   int64
	rules    []*limited
	workers  []Counter
	counts   []RuleCounts // by rule of the set, as counted last
}

// LimitState is what is remembered of a rule with a limit.
type LimitState struct {
	Rule    string `json:"rule"`
	Version string `json:"version"`
	// Start of the window, in ms since the Unix epoch, and what it has so far.
	Start    int64  `json:"start"`
	Messages uint64 `json:"messages"`
	Errors   uint64 `json:"errors"`
	Shards   uint64 `json:"shards"`
	// Asked is what is to be put into the journal and has not been met there.
	Asked *message.Limit `json:"asked,omitempty"`
	// Held is not nil while the rule is held.
	Held *Held `json:"held,omitempty"`
	// Lifted is the sequence of the record that has lifted it last: what was seen before that does not count.
	Lifted uint64 `json:"lifted,omitempty"`
}

// Held tells since when a rule is held, and because of how many errors among how many messages.
type Held struct {
	At       int64  `json:"at"`
	Errors   uint64 `json:"errors"`
	Messages uint64 `json:"messages"`
}

// StoredLimits are limits as a checkpoint keeps them.
type StoredLimits struct {
	Second int64        `json:"second"`
	Rules  []LimitState `json:"rules"`
}

// limited is a rule of the set with a limit.
type limited struct {
	LimitState
	index uint16
	limit *lang.Limit
	again bool // it was stored, and what it asks for may not be in the journal
}

// Load takes what a checkpoint has stored, before Use. foreign says that it is of another journal: sequences mean nothing then.
func (l *Limits) Load(s *StoredLimits, foreign bool) {
	l.second = s.Second
	for i := range s.Rules {
		r := &limited{LimitState: s.Rules[i], again: !foreign}
		if foreign {
			r.Asked, r.Lifted = nil, 0
		}
		l.rules = append(l.rules, r)
	}
}

// Use has the workers of a set, which have not evaluated anything, evaluate from here on. A rule that is another now, or gone, is
// not held any more.
func (l *Limits) Use(rules []*lang.Rule, workers []Counter) {
	l.fold()
	var now []*limited
	for _, r := range rules {
		if r.Limit == nil || r.Def.Mode.Disabled || r.Def.Mode.Shadow {
			continue
		}
		at := slices.IndexFunc(l.rules, func(b *limited) bool { return b.Rule == r.Info.ID && b.Version == r.Version })
		x := &limited{LimitState: LimitState{Rule: r.Info.ID, Version: r.Version}}
		if at >= 0 {
			x = l.rules[at]
		}
		x.index, x.limit = r.Index, r.Limit
		if x.Held != nil {
			workers[0].Hold(x.index, true)
		}
		if x.again && x.Asked != nil {
			l.Exceeded(*x.Asked)
		}
		x.again = false
		now = append(now, x)
	}
	l.rules, l.workers = now, workers
	l.counts = make([]RuleCounts, len(rules))
}

// Within reports whether Reach has nothing to do for a record of that time.
func (l *Limits) Within(at int64) bool { return len(l.rules) == 0 || at/1000 == l.second }

// Reach is told of the next record that is about to be evaluated.
func (l *Limits) Reach(at int64, seq uint64) {
	if l.Within(at) {
		return
	}
	l.fold()
	l.second = at / 1000
	for _, r := range l.rules {
		if r.tooMany() {
			r.Asked = &message.Limit{Rule: r.Rule, Version: r.Version, Decided: seq, Errors: r.Errors, Messages: r.Messages}
			l.Exceeded(*r.Asked)
		}
		if start := at - at%r.limit.Window.Milliseconds(); start != r.Start {
			r.Start, r.Messages, r.Errors, r.Shards = start, 0, 0, 0
		}
	}
}

func (r *limited) tooMany() bool {
	return r.Held == nil && r.Asked == nil && r.Messages >= minLimited && r.Errors*lang.WholeFleet > r.limit.Share*r.Messages &&
		bits.OnesCount64(r.Shards) >= minFaulty
}

// fold adds what the workers have counted since the last time. Errors at the end of a time have no message that is counted.
func (l *Limits) fold() {
	if len(l.rules) == 0 || len(l.workers) == 0 {
		return
	}
	counts, faults := make([]RuleCounts, len(l.counts)), make([]Faults, len(l.counts))
	for _, w := range l.workers {
		w.Counts(counts)
		w.TakeFaults(faults)
	}
	for _, r := range l.rules {
		r.Messages += counts[r.index].Considered - l.counts[r.index].Considered
		r.Errors += faults[r.index].Errors
		r.Shards |= faults[r.index].Shards
	}
	l.counts = counts
}

// Apply applies a record of the journal to the rule that it is about. It reports whether that has changed something.
func (l *Limits) Apply(rec *message.Record) (is message.Limit, changed bool, err error) {
	if is, err = rec.Limit(); err != nil {
		return is, false, err
	}
	at := slices.IndexFunc(l.rules, func(r *limited) bool { return r.Rule == is.Rule && r.Version == is.Version })
	if at < 0 {
		return is, false, nil
	}
	l.fold()
	r := l.rules[at]
	r.Asked = nil
	switch {
	case is.Lifted == (r.Held == nil), !is.Lifted && is.Decided <= r.Lifted:
		return is, false, nil
	case is.Lifted:
		r.Held, r.Lifted, r.Messages, r.Errors, r.Shards = nil, rec.Seq, 0, 0, 0
	default:
		r.Held = &Held{At: rec.ReceivedAt, Errors: is.Errors, Messages: is.Messages}
	}
	l.workers[0].Hold(r.index, r.Held != nil)
	return is, true, nil
}

// Store is what a checkpoint keeps, at a boundary.
func (l *Limits) Store() StoredLimits {
	l.fold()
	return StoredLimits{Second: l.second, Rules: l.States()}
}

// States tells of all rules with a limit, as of the last time that they were looked at.
func (l *Limits) States() []LimitState {
	all := make([]LimitState, len(l.rules))
	for i, r := range l.rules {
		all[i] = r.LimitState
	}
	return all
}
