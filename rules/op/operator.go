package op

import (
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/message/duration"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

// Operator describes a per-VIN operator: it passes messages of a rule or stops them, depending on what earlier
// messages left in its memory. Each is a key of a rule, next to `when` and `to`.
type Operator struct {
	// Name is the key in a rule. It is part of the stored memory's keys.
	Name string
	// Place is the operator's position in the output of `rules fmt`; places are ascending.
	Place int
	Keys  []Key
	// Gives are the names of the values given with each output, operator.x in expressions.
	Gives []string
	// GivesOf returns them if they depend on the keys; nil if they do not.
	GivesOf func(a *Args) []string
	// Ends reports whether the operator sends at the end of a period; nil: it never does.
	Ends func(a *Args) bool
	// Keyed means that the operator accepts the key by, with a memory for each value of it.
	Keyed bool
	// Example and Does are its row in the table of rules/README.md.
	Example, Does string
	// New compiles the operator and reports errors through the arguments.
	New func(a *Args) Runner
}

func always(*Args) bool { return true }

// Runner is a compiled operator. It is immutable; its state is in the memory of its input.
type Runner interface {
	// Run processes one input and adds its outputs. It changes only the memory and reads no clock.
	Run(in *Input, out *Outputs) error
	// Definition returns the text that identifies the operator: if it changes, the operator starts with a new memory.
	Definition() string
	// Why says why an input had no output. The memory is as it was before that input.
	Why(in *Input) string
}

// waker is a Runner that can send without a message: Run is called with a tick when it is due.
type waker interface {
	Runner
	// Wakes is a marker method.
	Wakes()
}

// Wakes reports whether a runner can send without a message.
func Wakes(r Runner) bool {
	_, ok := r.(waker)
	return ok
}

// Input is the input of an operator: a message or a tick.
type Input struct {
	*expr.Scope // of the message; nil for a tick
	Memory      state.Cell
}

// before returns the memory before the input, for Why.
func (in *Input) before() state.Memory {
	if m := in.Memory.Peek(); m != nil {
		return *m
	}
	return state.Memory{}
}

// since formats a time and how long ago it is.
func (in *Input) since(at int64) string {
	return fmt.Sprintf("%s, %s", clockTime(at), ms(in.Memory.Now-at))
}

// Outputs are an operator's outputs for one input: any number, each with its values.
type Outputs struct {
	values []expr.Given
	outs   []output
}

type output struct {
	until int   // end of its values in Outputs.values
	end   int64 // end of the period in ms since the Unix epoch; 0: the output is the message
}

// Give adds a value to the output that the next Pass completes.
func (o *Outputs) Give(name string, value any) {
	o.values = append(o.values, expr.Given{Name: name, Value: value})
}

// Pass completes an output: the message continues through the rule.
func (o *Outputs) Pass() { o.passAt(0) }

// passAt completes an output without a message, for a period that ended at end, in ms since the Unix epoch.
func (o *Outputs) passAt(end int64) { o.outs = append(o.outs, output{len(o.values), end}) }

// Reset removes all outputs.
func (o *Outputs) Reset() { o.values, o.outs = o.values[:0], o.outs[:0] }

// Len returns the number of outputs.
func (o *Outputs) Len() int { return len(o.outs) }

// Values returns the values of output i and the end of its period, 0 for a message.
func (o *Outputs) Values(i int) (values []expr.Given, end int64) {
	from := 0
	if i > 0 {
		from = o.outs[i-1].until
	}
	return o.values[from:o.outs[i].until], o.outs[i].end
}

// OperatorNames returns the keys of the operators in the order of `rules fmt`.
func OperatorNames() []string {
	all := Operators()
	slices.SortFunc(all, func(a, b *Operator) int { return a.Place - b.Place })
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.Name
	}
	return names
}

// ms formats a time in milliseconds as a duration.
func ms(v int64) string { return duration.Text(time.Duration(v) * time.Millisecond) }
