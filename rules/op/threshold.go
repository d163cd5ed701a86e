package op

import (
	"fmt"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

var threshold = Operator{
	Name: "threshold", Place: 4,
	Keys: []Key{
		{Name: "enter", Value: expressionValue, Need: "for example enter: payload.soc < 15"},
		{Name: "exit", Value: expressionValue},
		{Name: "for", Value: durationValue},
		byKey, valuesKey,
	},
	Gives:   []string{"since"},
	Keyed:   true,
	Example: "threshold: {enter: …, exit: …, for: 30s}",
	Does: "once, when `enter` is true (and has been in every message for the time `for`); again only after `exit` was true " +
		"(without `exit`: after `enter` was false). A message that lacks a field on which the answer depends changes nothing",
	New: func(a *Args) Runner {
		o := &thresholdOp{enter: a.known("enter"), exit: a.known("exit"), hold: a.millis("for")}
		if s := a.Scalar("exit"); a.env.Overlap(o.enter, o.exit) {
			a.d.Warn(s.Line, s.Col, doc.CodeOverlap, "leave a gap, for example enter: payload.soc < 15, exit: payload.soc > 20",
				"exit can hold while enter does: the rule then fires with every second message")
		}
		return o
	},
}

// thresholdOp passes once when enter holds, for `hold` if given. It is rearmed when exit holds, or without exit when
// enter does not. A condition that is unknown because a field is missing changes nothing. Memory: num = idle, waiting
// or active; at = since when enter has held.
type thresholdOp struct {
	enter, exit *expr.Expression
	hold        int64
}

const (
	thresholdIdle = iota
	thresholdWaiting
	thresholdActive
)

// Definition implements Runner.
func (o *thresholdOp) Definition() string {
	return fmt.Sprint(o.enter.Digest(), o.exit.Digest(), o.hold)
}

// Run implements Runner.
func (o *thresholdOp) Run(in *Input, out *Outputs) error {
	var num uint64
	var at int64
	if m := in.Memory.Peek(); m != nil {
		num, at = m.Num, m.At
	}
	next, since, err := o.step(in, num, at)
	if err != nil {
		return err
	}
	if next != num || since != at {
		m := in.Memory.Touch()
		m.Num, m.At = next, since
	}
	if next == thresholdActive && num != thresholdActive {
		out.Give("since", time.UnixMilli(since).UTC())
		out.Pass()
	}
	return nil
}

// step returns the state after this message.
func (o *thresholdOp) step(in *Input, num uint64, at int64) (uint64, int64, error) {
	if num == thresholdActive && o.exit != nil {
		out, _, err := in.Holds(o.exit)
		if err != nil || !out {
			return num, at, err
		}
		return thresholdIdle, 0, nil
	}
	holds, known, err := in.Holds(o.enter)
	switch {
	case err != nil || !known:
		return num, at, err
	case !holds:
		return thresholdIdle, 0, nil
	case num == thresholdActive:
		return num, at, nil
	case num == thresholdIdle:
		at = in.Memory.Now
	}
	if in.Memory.Now-at >= o.hold {
		return thresholdActive, at, nil
	}
	return thresholdWaiting, at, nil
}

// Why implements Runner.
func (o *thresholdOp) Why(in *Input) string {
	before := in.before()
	holds, known, err := in.Holds(o.enter)
	switch {
	case before.Num == thresholdActive:
		return fmt.Sprintf("enter true since %s; it has fired, and is not rearmed before exit is true", in.since(before.At))
	case err != nil || !known:
		return "a field is missing, so enter is not known"
	case !holds:
		return "enter is false"
	case before.Num != thresholdWaiting:
		return fmt.Sprintf("enter true since now, 0s of %s", ms(o.hold))
	}
	return fmt.Sprintf("enter true since %s of %s", in.since(before.At), ms(o.hold))
}
