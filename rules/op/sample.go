package op

import "fmt"

var sample = Operator{
	Name: "sample", Place: 1,
	Keys:    []Key{{Name: "every", Value: durationValue, Need: "for example every: 10s", Alone: true}},
	Example: "sample: 10s",
	Does:    "the first message, then the first one at least 10 s after the last passed one",
	New:     func(a *Args) Runner { return &sampleOp{every: a.millis("every")} },
}

// sampleOp passes one message per VIN and period: the first, then the first that comes at least `every` after the last
// one that passed. Memory: at = when that one passed, num = 1.
type sampleOp struct{ every int64 }

// Definition implements Runner.
func (o *sampleOp) Definition() string { return fmt.Sprint(o.every) }

// Run implements Runner.
func (o *sampleOp) Run(in *Input, out *Outputs) error {
	now := in.Memory.Now
	if m := in.Memory.Peek(); m != nil && now-m.At < o.every {
		return nil
	}
	m := in.Memory.Touch()
	m.Num, m.At = 1, now
	out.Pass()
	return nil
}

// Why implements Runner.
func (o *sampleOp) Why(in *Input) string {
	return fmt.Sprintf("a message passed %s ago, and one passes every %s", ms(in.Memory.Now-in.before().At), ms(o.every))
}
