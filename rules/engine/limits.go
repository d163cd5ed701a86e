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
	// minLimited is the number of messages a window must have before its error share counts.
	minLimited = 100
	// minFaulty is the number of shards (a lower bound for the number of vehicles) that must have errors: one vehicle
	// that sends garbage does not disable a rule for the others.
	minFaulty = 3
)

// Faults counts the errors that count towards a rule's limit. Payloads that cannot be decoded do not count: they are
// not the rule's fault.
type Faults struct {
	Errors uint64
	Shards uint64 // one bit per shard with an error
}

// fault records an error of a rule. An error without a VIN counts as minFaulty shards, since the number of vehicles is
// unknown.
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

// TakeFaults adds the faults since the last call to faults, indexed by rule.
func (w *Worker) TakeFaults(faults []Faults) {
	for i, f := range w.faults {
		faults[i].Errors += f.Errors
		faults[i].Shards |= f.Shards
	}
	clear(w.faults)
}

// Hold makes all workers of the engine treat a rule as if its mode were shadow, or stops that. None of them may be
// evaluating.
func (w *Worker) Hold(rule uint16, held bool) { w.engine.held[rule] = held }

// Counter is the part of a worker that Limits uses.
type Counter interface {
	Counts(counts []RuleCounts)
	TakeFaults(faults []Faults)
	Hold(rule uint16, held bool)
}

// Limits holds rules that have too many errors. It counts messages and errors in windows by record time and checks them
// once per second of record time, at the first record of the next second. Every replay of a journal therefore decides
// the same before the same record, whatever the number of goroutines. The verdict is written to the journal
// (message.Limit), and only that record holds the rule: the decisions of every replay change at its position. The
// evaluating goroutine owns Limits.
type Limits struct {
	// Exceeded is called for each rule that has too many errors. After a restart it is called again until the record it
	// asks for has been read from the journal.
	Exceeded func(message.Limit)
	second   int64
	rules    []*limited
	workers  []Counter
	counts   []RuleCounts // by rule of the set, as of the last fold
}

// LimitState is the stored state of a rule with a limit.
type LimitState struct {
	Rule    string `json:"rule"`
	Version string `json:"version"`
	// Start of the window in ms since the Unix epoch, and its counts so far.
	Start    int64  `json:"start"`
	Messages uint64 `json:"messages"`
	Errors   uint64 `json:"errors"`
	Shards   uint64 `json:"shards"`
	// Asked is the record that was requested and has not been read from the journal yet.
	Asked *message.Limit `json:"asked,omitempty"`
	// Held is not nil while the rule is held.
	Held *Held `json:"held,omitempty"`
	// Lifted is the sequence of the record that last lifted the hold. Requests decided at or before it are ignored.
	Lifted uint64 `json:"lifted,omitempty"`
}

// Held says since when a rule is held (ms since the Unix epoch), and the errors and messages that caused it.
type Held struct {
	At       int64  `json:"at"`
	Errors   uint64 `json:"errors"`
	Messages uint64 `json:"messages"`
}

// StoredLimits is the form of Limits in a checkpoint.
type StoredLimits struct {
	Second int64        `json:"second"`
	Rules  []LimitState `json:"rules"`
}

type limited struct {
	LimitState
	index uint16
	limit *lang.Limit
	again bool // loaded from a checkpoint: the record it asks for may not be in the journal
}

// Load restores the limits of a checkpoint. Call it before Use. foreign means that the checkpoint is of another
// journal, whose sequences mean nothing here.
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

// Use switches to the rules and workers of a set. The workers must not have evaluated anything. A rule that has changed
// or is removed is no longer held.
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

// Within reports whether Reach has nothing to do for a record received at that time (ms since the Unix epoch).
func (l *Limits) Within(at int64) bool { return len(l.rules) == 0 || at/1000 == l.second }

// Reach must be called before a record is evaluated. It checks the limits when a new second begins.
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

// fold adds what the workers have counted since the last fold. Errors at the end of a period have no message to count.
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

// Apply applies a limit record of the journal to its rule and reports whether that changed anything.
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

// Store returns the state for a checkpoint. Call it at a checkpoint boundary.
func (l *Limits) Store() StoredLimits {
	l.fold()
	return StoredLimits{Second: l.second, Rules: l.States()}
}

// States returns the state of all rules with a limit, as of the last fold.
func (l *Limits) States() []LimitState {
	all := make([]LimitState, len(l.rules))
	for i, r := range l.rules {
		all[i] = r.LimitState
	}
	return all
}
