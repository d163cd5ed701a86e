package op

import (
	"fmt"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

// Keys of operators that accept by: a memory for each value of an expression.
var (
	byKey     = Key{Name: "by", Value: expressionValue}
	valuesKey = Key{Name: "max", Value: integerValue(1, maxKept), Default: defaultKept}
)

// wrap adds the behavior of the keys that every operator may have.
func (op *Operator) wrap(a *Args, run Runner) Runner {
	if a.env.Event {
		run = byEventTime(a, run)
	}
	if !op.Keyed || a.Scalar("by") == nil {
		return run
	}
	if Wakes(run) {
		a.d.FailAt(a.Node, doc.CodeUnknownKey, "write one rule for each value: when: payload.code == 7", "what is sent at the end of a window has no \"by\"")
	}
	return &keyed{Runner: run, by: a.expression("by"), values: a.integer("max")}
}

// keyed keeps a memory for each value of by. Past the maximum number of values, it forgets the one that changed longest
// ago. A message without the value changes nothing.
type keyed struct {
	Runner
	by     *expr.Expression
	values int
}

// Definition implements Runner.
func (o *keyed) Definition() string {
	return fmt.Sprint("by ", o.by.Digest(), " ", o.values, " ", o.Runner.Definition())
}

// Run implements Runner.
func (o *keyed) Run(in *Input, out *Outputs) error {
	ok, err := o.turn(in)
	if err == nil && ok {
		err = o.Runner.Run(in, out)
	}
	in.Memory.Values = 0
	return err
}

// turn selects the memory of the message's value.
func (o *keyed) turn(in *Input) (ok bool, err error) {
	v, err := in.PassOn(o.by)
	if err != nil || v == nil {
		return false, err
	}
	in.Memory.By, err = in.HashValue(v)
	in.Memory.Values = o.values
	return true, err
}

// Why implements Runner.
func (o *keyed) Why(in *Input) string {
	ok, err := o.turn(in)
	if err != nil || !ok {
		return fmt.Sprintf("the value of by, %s, is missing", o.by.Text)
	}
	return fmt.Sprintf("for this value of %s: %s", o.by.Text, o.Runner.Why(in))
}

// byEventTime makes an operator use the vehicle's clock.
func byEventTime(a *Args, run Runner) Runner {
	switch r := run.(type) {
	case *silentOp:
		a.d.FailAt(a.Node, doc.CodeWrongType, "remove time: event: silence is measured at the gateway", "\"silent\" cannot go by the vehicle's clock")
	case *windowOp:
		return &eventWindow{r}
	}
	return &eventTime{run}
}

// eventTime drops messages that are older than the latest one seen. They neither change the state nor send. Memory:
// seen = the latest event time.
type eventTime struct{ Runner }

// Definition implements Runner.
func (o *eventTime) Definition() string { return "event " + o.Runner.Definition() }

// Run implements Runner.
func (o *eventTime) Run(in *Input, out *Outputs) error {
	at := in.Memory.Now
	if m := in.Memory.Peek(); m != nil && at < m.Seen {
		return nil
	}
	if err := o.Runner.Run(in, out); err != nil {
		return err
	}
	if m := in.Memory.Peek(); m == nil || m.Seen != at {
		in.Memory.Touch().Seen = at
	}
	return nil
}

// Why implements Runner.
func (o *eventTime) Why(in *Input) string {
	if m := in.before(); in.Memory.Now < m.Seen {
		return fmt.Sprintf("the message is late: one of %s has been seen, this is of %s", clockTime(m.Seen), clockTime(in.Memory.Now))
	}
	return o.Runner.Why(in)
}

// eventWindow is a window by the vehicle's clock: messages may come in any order as long as their window is open.
// Memory: seen = the end of the last closed window, at least 1.
type eventWindow struct{ *windowOp }

// Definition implements Runner.
func (o *eventWindow) Definition() string { return "event " + o.windowOp.Definition() }

// Run implements Runner.
func (o *eventWindow) Run(in *Input, out *Outputs) error {
	if m := in.Memory.Peek(); m != nil && in.Scope != nil && o.late(m, in.Memory.Now) {
		return nil
	}
	if err := o.windowOp.Run(in, out); err != nil {
		return err
	}
	if m := in.Memory.Peek(); m != nil && m.Seen == 0 {
		in.Memory.Touch().Seen = 1
	}
	return nil
}

func (*eventWindow) late(m *state.Memory, at int64) bool {
	return at < m.Seen || m.Num != 0 && at < m.At
}

// Why implements Runner.
func (o *eventWindow) Why(in *Input) string {
	if m := in.before(); o.late(&m, in.Memory.Now) {
		return fmt.Sprintf("the message is late: its window, of %s, is closed", clockTime(in.Memory.Now-in.Memory.Now%o.length))
	}
	return o.windowOp.Why(in)
}
