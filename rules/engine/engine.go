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

// Engine evaluates records with a rule set and the state of its operators.
type Engine struct {
	*Renderer
	state *state.State
	wakes map[uint64]place // operators that run without a message, by memory key
	held  []bool           // by rule: evaluate it as if its mode were shadow
}

// NewEngine joins a set and a state. An operator with the same rule id and definition as before keeps its state. State
// of operators that the set does not have is kept for KeepRemoved, in case they come back. No worker of another engine
// on the same state may be running.
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

// place is the position of an operator in a rule.
type place struct {
	rule *lang.Rule
	at   int
}

// Set returns the engine's rule set.
func (e *Engine) Set() *lang.Set { return e.set }

// Worker evaluates and renders records on one goroutine. It reuses its memory.
type Worker struct {
	engine   *Engine
	sc       *expr.Scope
	in       op.Input
	outputs  []op.Outputs // of the current rule's operators, by position
	given    []expr.Given // values of the operators that the message has passed
	matches  []Match
	finder   *index.Finder
	lists    []int
	found    []index.Found
	messages uint64
	counts   []ruleCounter // by rule
	faults   []Faults      // by rule
	failed   []uint16      // rules that need the payload of the current record, which cannot be decoded
	seq      uint64        // the record in sc; 0 if unknown
	watch    func(op *lang.Operator)
	item     uint16         // current element, from 1
	window   *Window        // of the current output, nil for a message
	ticks    *expr.Scope    // scope for outputs without a message; nil until needed
	tick     message.Record // the record in ticks
}

// NewWorker returns a new worker. Workers may run concurrently as long as no two of them evaluate records of the same
// shard (ShardOf).
func (e *Engine) NewWorker() *Worker {
	sc := e.set.NewScope()
	return &Worker{engine: e, sc: sc, finder: e.set.Index().NewFinder(sc), counts: make([]ruleCounter, len(e.set.Compiled)), faults: make([]Faults, len(e.set.Compiled))}
}

// Eval appends the decisions about a record to out. They depend on the record, the set and the state that the VIN's
// earlier records left; Eval reads no clock. Evaluate the records of one VIN in journal order, each once. Only PUBLISH
// and tick records give decisions. Messages published by rules give none, so that rules cannot trigger themselves.
//
// Eval does not keep rec. Once its memory has grown, it does not allocate for records that match no rule, nor for rules
// whose targets use no operator values.
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

// undecoded returns the decision for the rules that failed because the payload cannot be decoded.
func (w *Worker) undecoded() Decision {
	return Decision{Rule: w.failed[0], Target: TargetUndecoded, Undecoded: slices.Clone(w.failed), Err: w.sc.DocErr.Error()}
}

// isToken reports whether a topic is v1/{vin}/token. Such messages are not journaled; even if one were, no rule may
// forward a token.
func isToken(topic string) bool {
	if !strings.HasSuffix(topic, "/token") {
		return false
	}
	_, branch, rest := message.SplitTopic(topic)
	return branch == "token" && rest == ""
}

// rule appends the decisions of one rule. sure means that the index has already established its condition.
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

// decide appends the decisions for the matches and the error of a rule.
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

// Begin sets the current record and returns the scope for its expressions, for tools that look at single rules. watch
// is called with each operator before it runs, and with nil before the condition after the operators.
func (w *Worker) Begin(rec *message.Record, watch func(op *lang.Operator)) *expr.Scope {
	w.sc.Begin(rec)
	w.seq, w.watch = rec.Seq, watch
	return w.sc
}

// Input returns the input of the operator that ran last.
func (w *Worker) Input() op.Input { return w.in }

// Render does the same as Renderer.Render. For the record of the last Eval it reuses what is already parsed.
func (w *Worker) Render(d Decision, rec *message.Record, r *op.Rendered) error {
	if d.Window != nil {
		return w.engine.Render(d, rec, r)
	}
	if rec.Seq == 0 || rec.Seq != w.seq {
		w.sc.Begin(rec)
		w.seq = rec.Seq
	} else {
		w.sc.Record, w.sc.Given = rec, nil
	}
	return w.engine.render(w.sc, d, r)
}
