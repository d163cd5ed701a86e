package rules

import (
	"errors"
	"fmt"
	"slices"

	"cellgate/broker/message"
)

// Engine evaluates records by a set, with the state of its operators.
type Engine struct {
	set   *Set
	state *State
}

// NewEngine joins a set and a state. State of operators that the set does not have is kept for KeepRemoved; an
// operator whose rule id and definition are as before, or as they were not longer ago, goes on where it was. Call it while no worker of
// another engine on the same state runs.
func NewEngine(set *Set, state *State) *Engine {
	state.order()
	state.adopt(set.operKeys)
	return &Engine{set: set, state: state}
}

// Set returns the engine's set.
func (e *Engine) Set() *Set { return e.set }

// Worker evaluates and renders records on one goroutine, reusing all its memory.
type Worker struct {
	engine  *Engine
	sc      *scope
	ops     opContext
	matched []uint16
	failed  []uint16 // rules that need the payload of this record, which cannot be decoded
	seq     uint64   // the record that sc holds; 0 for none that can be told
}

// NewWorker makes a worker. Several may run at the same time as long as records of one shard (ShardOf)
// go to one worker at a time.
func (e *Engine) NewWorker() *Worker {
	return &Worker{engine: e, sc: newScope(e.set)}
}

// Eval appends the decisions about a record to out. It is a function of the record, the set, and what the
// VIN's earlier records left in the state; it reads no clock. Records of one VIN are given in journal
// order, each once. Records that are not a PUBLISH give no decisions.
//
// It does not keep rec. For a record that matches no rule, and for rules without operator values in their
// targets, it does not allocate once its memory has grown.
func (w *Worker) Eval(rec *message.Record, out []Decision) []Decision {
	if rec.Kind != message.KindPublish {
		return out
	}
	set := w.engine.set
	w.matched = set.index.match(rec.Topic, w.matched[:0])
	if len(w.matched) == 0 || isToken(rec.Topic) {
		return out
	}
	w.sc.begin(rec)
	w.seq, w.failed = rec.Seq, w.failed[:0]
	for _, i := range w.matched {
		out = w.rule(set.rules[i], out)
	}
	if len(w.failed) > 0 {
		out = append(out, Decision{
			Rule: w.failed[0], Target: TargetUndecoded, Undecoded: slices.Clone(w.failed), Err: w.sc.docErr.Error(),
		})
	}
	return out
}

// isToken reports whether a topic is v1/{vin}/token. Such messages are not journaled, and should one be,
// no rule may send a token anywhere.
func isToken(topic string) bool {
	_, branch, rest := message.SplitTopic(topic)
	return branch == "token" && rest == ""
}

// rule appends the decisions of one rule.
func (w *Worker) rule(r *rule, out []Decision) []Decision {
	if c := r.def.mode.canary; c < wholeFleet && hashText(w.sc.vin)%wholeFleet >= c {
		return out
	}
	ok, err := w.passes(r)
	switch {
	case errors.Is(err, ErrPayload) && !r.def.mode.shadow:
		w.failed = append(w.failed, r.index)
		return out
	case err != nil:
		return append(out, Decision{Rule: r.index, Target: TargetError, Err: err.Error(), Shadow: r.def.mode.shadow})
	case !ok:
		return out
	case r.def.mode.shadow:
		return append(out, Decision{Rule: r.index, Shadow: true})
	}
	var values []byte
	if r.usesOper {
		values = encodeValues(w.ops.values)
	}
	whole := true
	for i, t := range r.targets {
		if t.decodes {
			if _, err := w.sc.document(); err != nil {
				whole = false
				continue
			}
		}
		out = append(out, Decision{Rule: r.index, Target: uint16(i), Values: values}) //nolint:gosec // at most maxTargets
	}
	if !whole {
		w.failed = append(w.failed, r.index)
	}
	return out
}

// passes applies the rule's condition and operators. A panic costs this rule's evaluation only.
func (w *Worker) passes(r *rule) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok, err = false, fmt.Errorf("%w: %v", ErrEvaluation, p)
		}
	}()
	w.sc.opers = nil
	if r.when != nil {
		if ok, err := w.sc.test(r.when); err != nil || !ok {
			return false, err
		}
	}
	w.ops = opContext{sc: w.sc, state: w.engine.state, now: w.sc.rec.ReceivedAt, values: w.ops.values[:0]}
	for _, op := range r.operators {
		if ok, err := op.pass(&w.ops); err != nil || !ok {
			return false, err
		}
		w.sc.opers = w.ops.values
	}
	return true, nil
}

// Render is Set.Render; for the record of the last Eval it uses what that has parsed already.
func (w *Worker) Render(d Decision, rec *message.Record, r *Rendered) error {
	if rec.Seq == 0 || rec.Seq != w.seq {
		w.sc.begin(rec)
		w.seq = rec.Seq
	} else {
		w.sc.again(rec)
	}
	return w.sc.render(d, r)
}
