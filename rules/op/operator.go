package op

import (
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/message/duration"
	"cellgate/rules/expr"
	"cellgate/rules/state"
)

// Operator describes a per-VIN operator: it lets messages of a rule through or holds them back, by what earlier ones have
// left in its memory. There is one for each name that may stand in a rule beside `when` and `to`.
type Operator struct {
	// Name is the key in a rule. It is part of the stored memory's keys.
	Name string
	// Place is where among the operators of a rule `rules fmt` writes it; places rise.
	Place int
	Keys  []Key
	// Gives are the values that it gives with each output, operator.x in expressions.
	Gives []string
	// GivesOf are they for some keys, nil when they are always the same.
	GivesOf func(a *Args) []string
	// Ends says that it sends at the end of a time.
	Ends bool
	// Keyed operators may have a memory for each value of the key by.
	Keyed bool
	// Example and Does are its row in the table of rules/README.md.
	Example, Does string
	// New compiles it; what is wrong is reported through the arguments.
	New func(a *Args) Runner
}

// Runner is a compiled operator. It is immutable; all that it remembers is in the memory of its input.
type Runner interface {
	// Run takes one input and adds what it lets out. It changes only the memory, and reads no clock.
	Run(in *Input, out *Outputs) error
	// Definition is the text whose change makes the operator another one, with a new memory.
	Definition() string
	// Why says why nothing came out of an input. Its memory is as it was before.
	Why(in *Input) string
}

// Waker is a Runner that sends something although no message comes: its Run is given a tick when that is due.
type Waker interface {
	Runner
	// Wakes marks it. Its outputs have no message.
	Wakes()
}

// Wakes reports whether a runner sends something although no message comes.
func Wakes(r Runner) bool {
	_, ok := r.(Waker)
	return ok
}

// Input is what an operator is given: a message, or the time alone.
type Input struct {
	*expr.Scope // of the message; nil for a tick
	Memory      state.Cell
}

// before is what is remembered, for Why.
func (in *Input) before() state.Memory {
	if m := in.Memory.Peek(); m != nil {
		return *m
	}
	return state.Memory{}
}

// since is a time and how long ago that is.
func (in *Input) since(at int64) string {
	return fmt.Sprintf("%s, %s", clockTime(at), ms(in.Memory.Now-at))
}

// Outputs are what an operator lets out of one input: any number, each with the values that it gives.
type Outputs struct {
	values []expr.Given
	outs   []output
}

// output is one of them.
type output struct {
	until int   // where its values end
	end   int64 // of the time that it is about; 0: it is the message
}

// Give adds a value to the output that Pass ends.
func (o *Outputs) Give(name string, value any) {
	o.values = append(o.values, expr.Given{Name: name, Value: value})
}

// Pass ends an output: it goes on through the rule.
func (o *Outputs) Pass() { o.PassAt(0) }

// PassAt ends an output that is no message: it is about a time that ended then, in ms since the Unix epoch.
func (o *Outputs) PassAt(end int64) { o.outs = append(o.outs, output{len(o.values), end}) }

// Reset forgets all outputs.
func (o *Outputs) Reset() { o.values, o.outs = o.values[:0], o.outs[:0] }

// Len is the number of outputs.
func (o *Outputs) Len() int { return len(o.outs) }

// Values are those of output i, and the end of the time that it is about, 0 for a message.
func (o *Outputs) Values(i int) (values []expr.Given, end int64) {
	from := 0
	if i > 0 {
		from = o.outs[i-1].until
	}
	return o.values[from:o.outs[i].until], o.outs[i].end
}

// OperatorNames are the keys of operators in the order in which `rules fmt` writes them.
func OperatorNames() []string {
	all := Operators()
	slices.SortFunc(all, func(a, b *Operator) int { return a.Place - b.Place })
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.Name
	}
	return names
}

// ms is a time in milliseconds as people write it.
func ms(v int64) string { return duration.Text(time.Duration(v) * time.Millisecond) }
