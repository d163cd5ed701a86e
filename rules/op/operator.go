package op

import (
	"slices"
	"time"

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
	// Why says why nothing came out: from the memory as it was before, and the time of the input.
	Why(before *state.Memory, now int64) string
}

// Input is what an operator is given: a message, or the time alone.
type Input struct {
	*expr.Scope // of the message; nil for a tick
	Memory      state.Cell
}

// Outputs are what an operator lets out of one input: any number, each with the values that it gives.
type Outputs struct {
	values []expr.Given
	ends   []int // of each output's values
}

// Give adds a value to the output that Pass ends.
func (o *Outputs) Give(name string, value any) {
	o.values = append(o.values, expr.Given{Name: name, Value: value})
}

// Pass ends an output: it goes on through the rule.
func (o *Outputs) Pass() { o.ends = append(o.ends, len(o.values)) }

// Reset forgets all outputs.
func (o *Outputs) Reset() { o.values, o.ends = o.values[:0], o.ends[:0] }

// Len is the number of outputs.
func (o *Outputs) Len() int { return len(o.ends) }

// Values are those of output i.
func (o *Outputs) Values(i int) []expr.Given {
	from := 0
	if i > 0 {
		from = o.ends[i-1]
	}
	return o.values[from:o.ends[i]]
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

func ms(v int64) time.Duration { return time.Duration(v) * time.Millisecond }
