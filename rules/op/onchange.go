package op

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

var onChange = Operator{
	Name: "on_change", Place: 3,
	Keys: []Key{
		{Name: "of", Value: expressionValue, Need: "for example of: payload.gear", Alone: true},
		{Name: "deadband", Value: deadbandValue()},
		{Name: "at_most_every", Value: durationValue},
		{Name: "at_least_every", Value: durationValue},
		{Name: "first", Value: flagValue(), Default: true},
		byKey, valuesKey,
	},
	Gives:   []string{"previous", "elapsed"},
	Keyed:   true,
	Example: "on_change: {of: payload.soc, deadband: 2, at_most_every: 10s, at_least_every: 10m, first: false}",
	Does: "the first value (not with `first: false`), and each value that differs from the last passed one, by at least `deadband`; " +
		"missing values do not count. At most one passes per `at_most_every`, and without a change one passes after " +
		"`at_least_every`. `on_change: payload.gear` is the short form. `elapsed` is the time since the last passed one in seconds",
	New: newOnChange,
}

func deadbandValue() Value {
	read := func(o *doc.Object, key string) (any, bool) {
		s, ok := o.Text(key)
		if !ok {
			return nil, false
		}
		v, err := strconv.ParseFloat(s.Value, 64)
		if err != nil || !(v > 0) || math.IsInf(v, 0) {
			o.Doc.Fail(s.Line, s.Col, doc.CodeBadNumber, "for example deadband: 2", "%q is not a number above 0", s.Value)
			return nil, false
		}
		return v, true
	}
	return Value{schema: JSON{"type": "number", "exclusiveMinimum": 0}, read: read}
}

func flagValue() Value {
	read := func(o *doc.Object, key string) (any, bool) {
		s, ok := o.Text(key)
		if ok && s.Kind != doc.BoolScalar {
			o.Doc.Fail(s.Line, s.Col, doc.CodeWrongType, "write true or false", "%q must be true or false", key)
			return nil, false
		}
		return s.Value == "true", ok
	}
	return Value{schema: JSON{"type": "boolean"}, read: read}
}

func newOnChange(a *Args) Runner {
	o := &onChangeOp{of: a.expression("of"), pause: a.millis("at_most_every"), beat: a.millis("at_least_every")}
	o.deadband, _ = a.Values["deadband"].(float64)
	if first, ok := a.Values["first"].(bool); ok {
		o.quiet = !first
	}
	if o.beat > 0 && o.pause > o.beat {
		a.d.FailAt(a.Node, doc.CodeBadDuration, "write at_least_every longer than at_most_every", "no message can pass every %s and not within %s",
			ms(o.beat), ms(o.pause))
	}
	return o
}

// onChangeOp passes a message when the value differs from the one that passed last. A missing value is not a change.
// Memory: num = hash of the value, with a deadband the bits of the float; at = when it passed, Timeless if an earlier
// version stored it; text = the value as JSON if it is short.
type onChangeOp struct {
	of          *expr.Expression
	deadband    float64 // 0: none
	pause, beat int64
	quiet       bool // the first value does not pass
}

// maxPrevious bounds the values given as operator.previous and operator.last, in bytes of JSON.
const maxPrevious = 256

// Definition implements Runner. The short form keeps the text of earlier versions.
func (o *onChangeOp) Definition() string {
	if *o == (onChangeOp{of: o.of}) {
		return fmt.Sprint(o.of.Digest())
	}
	return fmt.Sprint(o.of.Digest(), o.deadband, o.pause, o.beat, o.quiet)
}

// Run implements Runner.
func (o *onChangeOp) Run(in *Input, out *Outputs) error {
	v, num, err := o.value(in)
	if err != nil || v == nil {
		return err
	}
	m, now := in.Memory.Peek(), in.Memory.Now
	known := m != nil && m.At != 0
	if known {
		if !o.passes(m, num, now) {
			return nil
		}
		out.Give("previous", expr.RawJSON(append([]byte(nil), m.Text...)))
		if m.At != state.Timeless {
			out.Give("elapsed", wholeNumber(float64(now-m.At)/1000))
		}
	}
	t := in.Memory.Touch()
	t.Num, t.At = num, now
	if t.Text = expr.AppendJSON(t.Text[:0], v); len(t.Text) > maxPrevious {
		t.Text = t.Text[:0]
	}
	if known || !o.quiet {
		out.Pass()
	}
	return nil
}

// value returns the value of a message and the number to compare.
func (o *onChangeOp) value(in *Input) (v any, num uint64, err error) {
	if v, err = in.PassOn(o.of); err != nil || v == nil {
		return nil, 0, err
	}
	if o.deadband == 0 {
		num, err = in.HashValue(v)
		return v, num, err
	}
	f, ok, err := in.Number(o.of)
	if !ok {
		v = nil
	}
	return v, math.Float64bits(f), err
}

// passes reports whether a value passes after the one in m.
func (o *onChangeOp) passes(m *state.Memory, num uint64, now int64) bool {
	ago := now - m.At
	if o.beat > 0 && ago >= o.beat {
		return true
	}
	if o.deadband > 0 {
		if math.Abs(math.Float64frombits(num)-math.Float64frombits(m.Num)) < o.deadband {
			return false
		}
	} else if num == m.Num {
		return false
	}
	return ago >= o.pause
}

// Why implements Runner.
func (o *onChangeOp) Why(in *Input) string {
	m := in.before()
	v, num, err := o.value(in)
	changed := o.pause > 0 && (&onChangeOp{deadband: o.deadband}).passes(&m, num, in.Memory.Now)
	switch {
	case err != nil || v == nil:
		return "the value is missing"
	case m.At == 0:
		return "it is the first value"
	case changed:
		return fmt.Sprintf("the value has changed, but another one passed %s ago; at most one passes every %s", in.since(m.At), ms(o.pause))
	case o.deadband > 0:
		return fmt.Sprintf("the value differs by less than %v from the one that passed, %s", o.deadband, m.Text)
	}
	return "the value has not changed"
}

// clockTime formats a time of day in UTC.
func clockTime(at int64) string { return time.UnixMilli(at).UTC().Format("15:04:05") }
