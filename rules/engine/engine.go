package engine

import (
	"errors"
	"slices"
	"strings"

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
	wakes map[uint64]place // operators that run without a message, by the key of their memory
	held  []bool           // by rule: as if its mode was shadow
}

// NewEngine joins a set and a state. State of operators that the set does not have is kept for KeepRemoved; an
// operator whose rule id and definition are as before, or as they were not longer ago, goes on where it was. Call it while no worker of
// another engine on the same state runs.
func NewEngine(set *lang.Set, state *state.State) *Engine {
	state.Adopt(set.OperKeys, set.WakeKeys)
	e := &Engine{Renderer: NewRenderer(set), state: state, wakes: map[uint64]place{}, held: make([]bool, len(set.Compiled))}
	for _, r := range set.Compiled {
		for i, o := range r.Operators {
			if _, ok := set.WakeKeys[o.Key]; ok {
				e.wakes[o.Key] = place{r, i}
			}
		}
	}
	return e
}

// place is where an operator stands.
type place struct {
	rule *lang.Rule
	at   int
}

// Set returns the engine's set.
func (e *Engine) Set() *lang.Set { return e.set }

// Worker evaluates and renders records on one goroutine, reusing all its memory.
type Worker struct {
	engine   *Engine
	sc       *expr.Scope
	in       op.Input
	outputs  []op.Outputs // of the operators of the rule at hand, by their place in it
	given    []expr.Given // by the operators that the message has passed
	matches  []Match
	finder   *index.Finder
	lists    []int
	found    []index.Found
	messages uint64
	counts   []ruleCounter // by rule
	faults   []Faults      // by rule
	failed   []uint16      // rules that need the payload of this record, which cannot be decoded
	seq      uint64        // the record that sc holds; 0 for none that can be told
	watch    func(op *lang.Operator)
	item     uint16         // the element at hand, from 1
	window   *Window        // of the output at hand, nil for a message
	ticks    *expr.Scope    // where there is no message; nil until it is needed
	tick     message.Record // that it holds
}

// NewWorker makes a worker. Several may run at the same time as long as records of one shard (ShardOf)
// go to one worker at a time.
func (e *Engine) NewWorker() *Worker {
	sc := e.set.NewScope()
	return &Worker{engine: e, sc: sc, finder: e.set.Index().NewFinder(sc), counts: make([]ruleCounter, len(e.set.Compiled)), faults: make([]Faults, len(e.set.Compiled))}
}

// Eval appends the decisions about a record to out. It is a function of the record, the set, and what the
// VIN's earlier records left in the state; it reads no clock. Records of one VIN are given in journal
// order, each once. Records that are neither a PUBLISH nor a tick give no decisions, nor does what rules publish, which would come
// back to them.
//
// It does not keep rec. For a record that matches no rule, and for rules without operator values in their
// targets, it does not allocate once its memory has grown.
func (w *Worker) Eval(rec *message.Record, out []Decision) []Decision {
	switch rec.Kind {
	case message.KindPublish:
	case message.KindTick:
		for shard := range state.Shards {
			out = w.Tick(rec, shard, out)
		}
		return out
	default:
		return out
	}
	if rec.IsByRules() {
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
		out = w.measured(set.Compiled[f.Rule], f.Sure, out)
	}
	w.messages++
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
	if !strings.HasSuffix(topic, "/token") {
		return false
	}
	_, branch, rest := message.SplitTopic(topic)
	return branch == "token" && rest == ""
}

// rule appends the decisions of one rule; sure says that its condition holds.
func (w *Worker) rule(r *lang.Rule, sure bool, out []Decision) []Decision {
	if !r.Def.Mode.TakesPart(w.sc.VIN) {
		return out
	}
	matches, err := w.passes(r, sure)
	w.fault(r.Index, w.sc.VIN, err)
	failed := len(w.failed)
	out = w.decide(r, matches, err, out)
	w.count(r, len(matches) > 0 && len(w.failed) == failed, err != nil || len(w.failed) > failed)
	return out
}

// decide appends the decisions that follow from what has come through a rule.
func (w *Worker) decide(r *lang.Rule, matches []Match, err error, out []Decision) []Decision {
	whole, shadow := true, r.Def.Mode.Shadow || w.engine.held[r.Index]
	for _, m := range matches {
		d := Decision{Rule: r.Index, Item: m.Item, Values: m.Values, Window: m.Window}
		if d.Shadow = shadow; d.Shadow {
			d.Values = nil
			out = append(out, d)
			continue
		}
		for i, t := range r.Targets {
			if t.Decodes && m.Window == nil {
				if _, err := w.sc.Document(); err != nil {
					whole = false
					continue
				}
			}
			d.Target = uint16(i) //nolint:gosec // at most maxTargets
			out = append(out, d)
		}
	}
	silent := shadow || r.ErrTopic == ""
	if !whole {
		err = w.sc.DocErr
	}
	switch {
	case errors.Is(err, expr.ErrPayload) && !silent:
		w.failed = append(w.failed, r.Index)
	case err != nil:
		out = append(out, Decision{Rule: r.Index, Target: TargetError, Err: err.Error(), Shadow: silent, Window: w.window})
	}
	return out
}

// Begin turns to a record and returns the scope in which its expressions are evaluated, for tools that look at single rules.
// watch is told of each operator before it runs, and nil before the condition behind them.
func (w *Worker) Begin(rec *message.Record, watch func(op *lang.Operator)) *expr.Scope {
	w.sc.Begin(rec)
	w.seq, w.watch = rec.Seq, watch
	return w.sc
}

// Input is what the operator that has run last was given.
func (w *Worker) Input() op.Input { return w.in }

// Render is Renderer.Render; for the record of the last Eval it uses what that has parsed already.
func (w *Worker) Render(d Decision, rec *message.Record, r *op.Rendered) error {
	if d.Window != nil {
		return w.engine.Render(d, rec, r)
	}
	if rec.Seq == 0 || rec.Seq != w.seq {
		w.sc.Begin(rec)
		w.seq = rec.Seq
	} else {
		w.sc.Again(rec)
	}
	return w.engine.render(w.sc, d, r)
}
