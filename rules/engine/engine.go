package engine

import (
	"errors"
	"fmt"
	"slices"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/index"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// Engine evaluates records by a set, with the state of its operators.
type Engine struct {
	*Renderer
	state *state.State
}

// NewEngine joins a set and a state. State of operators that the set does not have is kept for KeepRemoved; an
// operator whose rule id and definition are as before, or as they were not longer ago, goes on where it was. Call it while no worker of
// another engine on the same state runs.
func NewEngine(set *lang.Set, state *state.State) *Engine {
	state.Adopt(set.OperKeys)
	return &Engine{Renderer: NewRenderer(set), state: state}
}

// Set returns the engine's set.
func (e *Engine) Set() *lang.Set { return e.set }

// Worker evaluates and renders records on one goroutine, reusing all its memory.
type Worker struct {
	engine  *Engine
	sc      *expr.Scope
	in      op.Input
	outputs []op.Outputs // of the operators of the rule at hand, by their place in it
	given   []expr.Given // by the operators that the message has passed
	matches [][]byte
	finder  *index.Finder
	lists   []int
	found   []index.Found
	failed  []uint16 // rules that need the payload of this record, which cannot be decoded
	seq     uint64   // the record that sc holds; 0 for none that can be told
	watch   func(op *lang.Operator)
}

// NewWorker makes a worker. Several may run at the same time as long as records of one shard (ShardOf)
// go to one worker at a time.
func (e *Engine) NewWorker() *Worker {
	sc := e.set.NewScope()
	return &Worker{engine: e, sc: sc, finder: e.set.Index().NewFinder(sc)}
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
	w.lists = set.Lists(rec.Topic, w.lists[:0])
	if len(w.lists) == 0 || isToken(rec.Topic) {
		return out
	}
	w.sc.Begin(rec)
	w.seq, w.failed = rec.Seq, w.failed[:0]
	w.found = w.finder.Find(w.lists, w.found[:0])
	for _, f := range w.found {
		out = w.rule(set.Compiled[f.Rule], f.Sure, out)
	}
	if len(w.failed) > 0 {
		out = append(out, w.undecoded())
	}
	return out
}

// undecoded is the decision about a record that some rules need decoded, and that cannot be.
func (w *Worker) undecoded() Decision {
	return Decision{Rule: w.failed[0], Target: TargetUndecoded, Undecoded: slices.Clone(w.failed), Err: w.sc.DocErr.Error()}
}

// isToken reports whether a topic is v1/{vin}/token. Such messages are not journaled, and should one be,
// no rule may send a token anywhere.
func isToken(topic string) bool {
	_, branch, rest := message.SplitTopic(topic)
	return branch == "token" && rest == ""
}

// rule appends the decisions of one rule; sure says that its condition holds.
func (w *Worker) rule(r *lang.Rule, sure bool, out []Decision) []Decision {
	if c := r.Def.Mode.Canary; c < lang.WholeFleet && message.Hash(w.sc.VIN)%lang.WholeFleet >= c {
		return out
	}
	matches, err := w.passes(r, sure)
	whole := true
	for _, values := range matches {
		if r.Def.Mode.Shadow {
			out = append(out, Decision{Rule: r.Index, Shadow: true})
			continue
		}
		for i, t := range r.Targets {
			if t.Decodes {
				if _, err := w.sc.Document(); err != nil {
					whole = false
					continue
				}
			}
			out = append(out, Decision{Rule: r.Index, Target: uint16(i), Values: values}) //nolint:gosec // at most maxTargets
		}
	}
	silent := r.Def.Mode.Shadow || r.ErrTopic == ""
	if !whole {
		err = w.sc.DocErr
	}
	switch {
	case errors.Is(err, expr.ErrPayload) && !silent:
		w.failed = append(w.failed, r.Index)
	case err != nil:
		out = append(out, Decision{Rule: r.Index, Target: TargetError, Err: err.Error(), Shadow: silent})
	}
	return out
}

// passes applies the rule's condition and operators. A panic costs this rule's evaluation only.
func (w *Worker) passes(r *lang.Rule, sure bool) (matches [][]byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			matches, err = nil, fmt.Errorf("%w: %v", expr.ErrEvaluation, p)
		}
	}()
	w.sc.Given = nil
	if !sure {
		if ok, err := w.sc.Test(r.When); err != nil || !ok {
			return nil, err
		}
	}
	return w.Operate(r)
}

// Begin turns to a record and returns the scope in which its expressions are evaluated, for tools that look at single rules.
// watch is told of each operator before it runs.
func (w *Worker) Begin(rec *message.Record, watch func(op *lang.Operator)) *expr.Scope {
	w.sc.Begin(rec)
	w.seq, w.watch = rec.Seq, watch
	return w.sc
}

// Operate applies a rule's operators. It returns an element for each time that the message comes through: the operators'
// values if a target refers to them.
func (w *Worker) Operate(r *lang.Rule) ([][]byte, error) {
	for len(w.outputs) < len(r.Operators) {
		w.outputs = append(w.outputs, op.Outputs{})
	}
	w.in = op.Input{Scope: w.sc, Memory: state.Cell{State: w.engine.state, VIN: w.sc.VIN, Now: w.sc.Record.ReceivedAt}}
	w.sc.Given, w.given, w.matches = nil, w.given[:0], w.matches[:0]
	err := w.from(r, 0)
	return w.matches, err
}

// from gives the message to an operator of the rule, and each of its outputs to the next one. Behind the last is a match.
func (w *Worker) from(r *lang.Rule, at int) error {
	if at == len(r.Operators) {
		var values []byte
		if r.UsesGiven {
			values = expr.EncodeGiven(w.given)
		}
		w.matches = append(w.matches, values)
		return nil
	}
	op, out := r.Operators[at], &w.outputs[at]
	if w.watch != nil {
		w.watch(op)
	}
	out.Reset()
	w.in.Memory.Key = op.Key
	if err := op.Run(&w.in, out); err != nil {
		return err
	}
	given := len(w.given)
	for i := range out.Len() {
		w.given = append(w.given[:given], out.Values(i)...)
		w.sc.Given = w.given
		if err := w.from(r, at+1); err != nil {
			return err
		}
	}
	w.given = w.given[:given]
	return nil
}

// Render is Renderer.Render; for the record of the last Eval it uses what that has parsed already.
func (w *Worker) Render(d Decision, rec *message.Record, r *op.Rendered) error {
	if rec.Seq == 0 || rec.Seq != w.seq {
		w.sc.Begin(rec)
		w.seq = rec.Seq
	} else {
		w.sc.Again(rec)
	}
	return w.engine.render(w.sc, d, r)
}
