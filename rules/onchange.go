package rules

import (
	"fmt"
)

var onChange = Operator{
	Name: "on_change", Place: 3,
	Keys:    []Key{{Name: "of", Value: expressionValue, Need: "for example of: payload.gear", Alone: true}},
	Gives:   []string{"previous"},
	Example: "on_change: payload.gear",
	Passes:  "the first value, and each that differs from the one before; missing values are passed over",
	New:     func(a *Args) Runner { return &onChangeOp{of: a.expression("of")} },
}

// onChangeOp lets a message pass when the value differs from the one before; the first passes too. A
// missing value is no change. Memory: num = digest, at = Timeless once there is a value, text = the value as JSON
// when it is short.
type onChangeOp struct{ of *expression }

// maxPrevious is the longest value that on_change gives back as operator.previous, in bytes of JSON.
const maxPrevious = 256

// Definition implements Runner.
func (o *onChangeOp) Definition() string { return fmt.Sprint(o.of.digest()) }

// Run implements Runner.
func (o *onChangeOp) Run(in *Input, out *Outputs) error {
	v, err := in.run(o.of)
	if err != nil || v == nil {
		return err
	}
	hash := in.hashValue(v)
	if m := in.Memory.Peek(); m != nil && m.at == Timeless {
		if m.num == hash {
			return nil
		}
		out.Give("previous", rawJSON(append([]byte(nil), m.text...)))
	}
	m := in.Memory.Touch()
	m.num, m.at = hash, Timeless
	if m.text = appendJSON(m.text[:0], v); len(m.text) > maxPrevious {
		m.text = m.text[:0]
	}
	out.Pass()
	return nil
}

// Why implements Runner.
func (o *onChangeOp) Why(before *opState, _ int64) string {
	if before.at == Timeless {
		return "the value is missing or as before"
	}
	return "the value is missing"
}
