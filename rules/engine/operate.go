package engine

import (
	"fmt"

	"cellgate/broker/shared/message"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// Bounds of the work of one tick for a shard, so that a tick with many due vehicles does not delay messages. The rest
// waits for the next tick.
const (
	maxTickDecisions = 16
	maxTickRuns      = 64
)

// Match is one output of a rule.
type Match struct {
	// Values are the operators' values, if a target refers to them.
	Values []byte
	Item   uint16  // as in Decision
	Window *Window // as in Decision
}

// Tick appends the decisions of a shard that are due without a message. The decisions do not depend on when ticks come
// or on other shards.
func (w *Worker) Tick(rec *message.Record, shard int, out []Decision) []Decision {
	from := len(out)
	for runs := 0; runs < maxTickRuns && len(out)-from < maxTickDecisions; runs++ {
		d, ok := w.engine.state.TakeDue(shard, rec.ReceivedAt)
		if !ok {
			break
		}
		at, known := w.engine.wakes[d.Key]
		if !known || !at.rule.Def.Mode.TakesPart(d.VIN) {
			continue
		}
		matches, err := w.wake(rec, d, at)
		w.fault(at.rule.Index, d.VIN, err)
		w.window = &Window{VIN: d.VIN, End: d.At}
		out = w.decide(at.rule, matches, err, out)
	}
	w.window = nil
	return out
}

// Until appends everything that is due up to now (ms since the Unix epoch). It is for tools whose input has no suitable
// ticks.
func (w *Worker) Until(now int64, out []Decision) []Decision {
	rec := message.Record{Kind: message.KindTick, ReceivedAt: now}
	for {
		if due, waits := w.engine.state.NextDue(); !waits || due > now {
			return out
		}
		out = w.Eval(&rec, out)
	}
}

// wake runs an operator that is due. A panic fails this evaluation only.
func (w *Worker) wake(rec *message.Record, d state.Due, at place) (matches []Match, err error) {
	defer guard(&matches, &err)
	w.seq = 0
	w.begin(at.rule)
	w.in = op.Input{Memory: state.Cell{
		State: w.engine.state, VIN: d.VIN, Received: rec.ReceivedAt, Now: d.At, Tick: true, Event: at.rule.Event,
	}}
	err = w.from(at.rule, at.at)
	return w.matches, err
}

// guard turns a panic into an error.
func guard(matches *[]Match, err *error) {
	if p := recover(); p != nil {
		*matches, *err = nil, fmt.Errorf("%w: %v", expr.ErrEvaluation, p)
	}
}

// passes applies the rule's condition and operators. A panic fails this rule's evaluation only.
func (w *Worker) passes(r *lang.Rule, sure bool) (matches []Match, err error) {
	defer guard(&matches, &err)
	w.sc.BeginRule()
	if !sure {
		if ok, err := w.sc.Test(r.When); err != nil || !ok {
			return nil, err
		}
	}
	return w.Apply(r)
}

// Apply applies the part of a rule after its condition: for a rule with each its list, with the operators applied to
// every element. It returns one Match per output.
func (w *Worker) Apply(r *lang.Rule) (matches []Match, err error) {
	w.begin(r)
	if r.Each == nil {
		err = w.operate(r)
	} else {
		err = w.each(r)
	}
	return w.matches, err
}

// Element does the same as Apply for one element of the rule's list, including the condition on elements.
func (w *Worker) Element(r *lang.Rule, i int) (matches []Match, err error) {
	w.begin(r)
	err = w.element(r, i)
	w.item = 0
	return w.matches, err
}

// each applies the rule to every element of its list. An element that cannot be evaluated does not stop the others; the
// first error is returned.
func (w *Worker) each(r *lang.Rule) error {
	n, err := w.sc.Items(r.Each)
	if err != nil {
		return err
	}
	var first error
	for i := range n {
		if err := w.element(r, i); err != nil && first == nil {
			first = err
		}
	}
	w.item = 0
	return first
}

func (w *Worker) element(r *lang.Rule, i int) error {
	if err := w.sc.Item(r.Each, i); err != nil {
		return err
	}
	w.item, w.window = uint16(i+1), nil //nolint:gosec // at most MaxItems
	if r.ItemWhen != nil {
		w.sc.Given = nil
		if ok, err := w.sc.Test(r.ItemWhen); err != nil || !ok {
			return err
		}
	}
	return w.operate(r)
}

// operate applies a rule's operators to the current message or element.
func (w *Worker) operate(r *lang.Rule) error {
	if len(r.Operators) == 0 && r.Having == nil && !r.Event {
		return w.match(r)
	}
	now, ok, err := w.now(r)
	if err != nil || !ok {
		return err
	}
	w.in = op.Input{Scope: w.sc, Memory: state.Cell{
		State: w.engine.state, VIN: w.sc.VIN, Received: w.sc.Record.ReceivedAt, Now: now, Event: r.Event,
	}}
	w.sc.Given, w.given = nil, w.given[:0]
	return w.from(r, 0)
}

// maxAhead limits how far (ms) a vehicle's clock may be ahead of the receipt, for operators that use event time.
// Without it, one time in the future would make them skip all messages until then.
const maxAhead = 5 * 60_000

// now returns the time that the rule's operators use; ok is false if the message lacks it.
func (w *Worker) now(r *lang.Rule) (at int64, ok bool, err error) {
	received := w.sc.Record.ReceivedAt
	if !r.Event {
		return received, true, nil
	}
	at, ok, err = w.sc.EventTime(r.Schema.EventAt, r.Schema.Unit)
	return min(at, received+maxAhead), ok, err
}

// begin resets the worker for a rule.
func (w *Worker) begin(r *lang.Rule) {
	for len(w.outputs) < len(r.Operators) {
		w.outputs = append(w.outputs, op.Outputs{})
	}
	w.window, w.item, w.sc.Given, w.given, w.matches = nil, 0, nil, w.given[:0], w.matches[:0]
}

// from passes the current input to the operator at position at, and each of its outputs to the next one. An output of
// the last operator is a match.
func (w *Worker) from(r *lang.Rule, at int) error {
	if at == len(r.Operators) {
		return w.match(r)
	}
	o, out := r.Operators[at], &w.outputs[at]
	if w.watch != nil {
		w.watch(o)
	}
	out.Reset()
	w.in.Memory.Key = o.Key
	if err := o.Run(&w.in, out); err != nil {
		return err
	}
	given := len(w.given)
	for i := range out.Len() {
		values, end := out.Values(i)
		w.given = append(w.given[:given], values...)
		var err error
		if end == 0 {
			err = w.pass(r, at+1)
		} else {
			err = w.passWindow(r, at+1, end)
		}
		if err != nil {
			return err
		}
	}
	w.given = w.given[:given]
	return nil
}

// pass passes an output to the next operator.
func (w *Worker) pass(r *lang.Rule, at int) error {
	w.in.Given = w.given
	return w.from(r, at)
}

// passWindow passes an output for the end of a period, which has no message, to the next operator.
func (w *Worker) passWindow(r *lang.Rule, at int, end int64) error {
	in, window := w.in, w.window
	w.window = &Window{VIN: in.Memory.VIN, End: end}
	w.tick = message.Record{Kind: message.KindTick, ReceivedAt: end, Client: in.Memory.VIN}
	if w.ticks == nil {
		w.ticks = w.engine.set.NewScope()
	}
	w.ticks.Begin(&w.tick)
	w.in.Scope, w.in.Memory.Now = w.ticks, end
	err := w.pass(r, at)
	if err == nil {
		w.in, w.window = in, window
	}
	return err
}

// match adds a match if the condition after the operators holds.
func (w *Worker) match(r *lang.Rule) error {
	if r.Having != nil {
		if w.watch != nil {
			w.watch(nil)
		}
		if ok, err := w.in.Test(r.Having); err != nil || !ok {
			return err
		}
	}
	m := Match{Window: w.window, Item: w.item}
	if r.UsesGiven {
		m.Values = expr.EncodeGiven(w.given)
	}
	w.matches = append(w.matches, m)
	return nil
}
