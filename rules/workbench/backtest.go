package workbench

import (
	"fmt"
	"path/filepath"
	"slices"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/state"
)

// Trial evaluates one rule set in a backtest.
type Trial struct {
	state   *state.State
	worker  *engine.Worker
	limits  engine.Limits
	scratch []engine.Decision
	Path    string      `json:"path"`
	Hash    string      `json:"hash"`
	Rules   []RuleCount `json:"rules"`
}

// RuleCount has the counts of one rule.
type RuleCount struct {
	Rule    string   `json:"rule"`
	Mode    string   `json:"mode"`
	Matched uint64   `json:"matched"`
	Shadow  uint64   `json:"shadow,omitempty"`
	Errors  uint64   `json:"errors"`
	Targets []uint64 `json:"messages_per_target"`
	Example string   `json:"first_error,omitempty"`
	// Exceeded is the sequence of the first record at which the rule's limit is exceeded. The trial continues the rule:
	// it is held only where the journal holds it, if it is the same version.
	Exceeded uint64 `json:"limit_exceeded_at,omitempty"`
	Held     bool   `json:"held_at_end,omitempty"`
}

func (r *RuleCount) failed(seq uint64, err string) {
	if r.Errors++; r.Example == "" {
		r.Example = fmt.Sprintf("record %d: %s", seq, err)
	}
}

// NewTrial compiles the rules below a path. bounds limit the operators' memory.
func NewTrial(path string, o lang.Options, bounds state.StateOptions) (*Trial, error) {
	src, err := lang.Load(path)
	if err != nil {
		return nil, err
	}
	set, found := lang.Compile(src, o)
	if err := found.Err(); err != nil {
		return nil, err
	}
	st := state.NewState(bounds)
	t := &Trial{state: st, worker: engine.NewEngine(set, st).NewWorker(), Path: filepath.ToSlash(path), Hash: set.Hash()}
	t.limits.Exceeded = t.exceeded
	t.limits.Use(set.Compiled, []engine.Counter{t.worker})
	for _, r := range set.Rules() {
		t.Rules = append(t.Rules, RuleCount{Rule: r.ID, Mode: r.Mode, Targets: make([]uint64, len(r.Targets))})
	}
	return t, nil
}

// exceeded records where a rule exceeded its limit.
func (t *Trial) exceeded(is message.Limit) {
	i := slices.IndexFunc(t.Rules, func(r RuleCount) bool { return r.Rule == is.Rule })
	if r := &t.Rules[i]; r.Exceeded == 0 {
		r.Exceeded = is.Decided
	}
}

// limit holds or releases a rule as the journal says, if it is the same version.
func (t *Trial) limit(rec *message.Record) {
	is, changed, err := t.limits.Apply(rec)
	if err == nil && changed {
		i := slices.IndexFunc(t.Rules, func(r RuleCount) bool { return r.Rule == is.Rule })
		t.Rules[i].Held = !is.Lifted
	}
}

// Add evaluates the next record of a journal and counts the decisions. It delivers nothing.
func (t *Trial) Add(rec *message.Record) {
	switch rec.Kind {
	case message.KindClockStep:
		if step, err := rec.ClockStep(); err == nil {
			t.state.StepClock(step)
		}
		return
	case message.KindLimit:
		t.limit(rec)
		return
	case message.KindTick:
		if rec.TickBegins() {
			t.state.Begin(rec.ReceivedAt)
		}
	}
	t.state.Advance(rec.ReceivedAt)
	if rec.Kind == message.KindPublish || rec.Kind == message.KindTick {
		t.limits.Reach(rec.ReceivedAt, rec.Seq)
	}
	t.scratch = t.worker.Until(rec.ReceivedAt, t.scratch[:0]) // the original rules may have needed no ticks
	if rec.Kind == message.KindOperatorState {
		_, _ = t.state.Apply(rec) // the gateway has reported unreadable records
	}
	t.scratch = t.worker.Eval(rec, t.scratch)
	for i := range t.scratch {
		d := &t.scratch[i]
		r := &t.Rules[d.Rule]
		switch {
		case d.Target == engine.TargetUndecoded:
			for _, rule := range d.Undecoded {
				t.Rules[rule].failed(rec.Seq, d.Err)
			}
			continue
		case d.Err != "":
			r.failed(rec.Seq, d.Err)
			continue
		case d.Shadow:
			r.Shadow++
			continue
		case i == 0 || !d.OfMatch(&t.scratch[i-1]):
			r.Matched++
		}
		if int(d.Target) < len(r.Targets) {
			r.Targets[d.Target]++
		}
	}
}
