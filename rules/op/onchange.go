package op

import (
	"fmt"

	"cellgate/rules/expr"
	"cellgate/rules/state"
)

var onChange = Operator{
	Name: "on_change", Place: 3,
	Keys:    []Key{{Name: "of", Value: expressionValue, Need: "for example of: payload.gear", Alone: true}},
	Gives:   []string{"previous"},
	Example: "on_change: payload.gear",
	Does:    "the first value, and each that differs from the one before; missing values are passed over",
	New:     func(a *Args) Runner { return &onChangeOp{of: a.expression("of")} },
}

// onChangeOp lets a message pass when the value differs from the one before; the first passes too. A
// missing value is no change. Memory: num = digest, at = Timeless once there is a value, text = the value as JSON
// when it is short.
type onChangeOp struct{ of *expr.Expression }

// maxPrevious is the longest value that on_change gives back as operator.previous, in bytes of JSON.
const maxPrevious = 256

// Definition implements Runner.
func (o *onChangeOp) Definition() string { return fmt.Sprint(o.of.Digest()) }

// Run implements Runner.
func (o *onChangeOp) Run(in *Input, out *Outputs) error {
	v, err := in.PassOn(o.of)
	if err != nil || v == nil {
		return err
	}
	hash, err := in.HashValue(v)
	if err != nil {
		return err
	}
	if m := in.Memory.Peek(); m != nil && m.At == state.Timeless {
		if m.Num == hash {
			return nil
		}
		out.Give("previous", expr.RawJSON(append([]byte(nil), m.Text...)))
	}
	m := in.Memory.Touch()
	m.Num, m.At = hash, state.Timeless
	if m.Text = expr.AppendJSON(m.Text[:0], v); len(m.Text) > maxPrevious {
		m.Text = m.Text[:0]
	}
	out.Pass()
	return nil
}

// Why implements Runner.
func (o *onChangeOp) Why(in *Input) string {
	if in.before().At == state.Timeless {
		return "the value is missing or as before"
	}
	return "the value is missing"
}
