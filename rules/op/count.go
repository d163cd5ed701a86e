package op

import (
	"fmt"
	"time"

	"cellgate/rules/state"
)

var count = Operator{
	Name: "count", Place: 7,
	Keys: []Key{
		{Name: "at_least", Value: integerValue(1, maxKept), Need: "for example at_least: 3"},
		{Name: "window", Value: durationValue, Need: "for example window: 10m"},
	},
	Gives:   []string{"count", "first"},
	Example: "count: {at_least: 3, window: 10m}",
	Does:    "the third message within ten minutes; then counting begins anew",
	New:     func(a *Args) Runner { return &countOp{atLeast: a.integer("at_least"), window: a.millis("window")} },
}

// countOp lets the message pass that is the atLeast-th within the window, then counts anew. Memory: list =
// the messages counted so far.
type countOp struct {
	atLeast int
	window  int64
}

// Definition implements Runner.
func (o *countOp) Definition() string { return fmt.Sprint(o.atLeast, o.window) }

// Run implements Runner.
func (o *countOp) Run(in *Input, out *Outputs) error {
	m, now := in.Memory.Touch(), in.Memory.Now
	m.Expire(now - o.window)
	if len(m.List)+1 < o.atLeast {
		m.Remember(state.Stamp{At: now}, o.atLeast)
		return nil
	}
	first := now
	if len(m.List) > 0 {
		first = m.List[0].At
	}
	out.Give("count", len(m.List)+1)
	out.Give("first", time.UnixMilli(first).UTC())
	out.Pass()
	m.List = m.List[:0]
	return nil
}

// Why implements Runner.
func (o *countOp) Why(in *Input) string {
	n := 1
	for _, s := range in.before().List {
		if in.Memory.Now-s.At < o.window {
			n++
		}
	}
	return fmt.Sprintf("this is message %d of %d within %s", n, o.atLeast, ms(o.window))
}
