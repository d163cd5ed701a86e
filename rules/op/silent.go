package op

import (
	"fmt"
	"time"

	"cellgate/rules/state"
)

var silent = Operator{
	Name: "silent", Place: 8, Ends: always,
	Keys:    []Key{{Name: "for", Value: durationValue, Need: "for example for: 10m", Alone: true}},
	Gives:   []string{"last"},
	Example: "silent: 10m",
	Does:    "no message; sends once after ten minutes without a message, and again only after another message",
	New:     func(a *Args) Runner { return &silentOp{after: a.millis("for")} },
}

// silentOp passes no message and sends once when none has arrived for a period. Memory: num = 1 while it
// waits, at = when the last message came.
type silentOp struct{ after int64 }

// Definition implements Runner.
func (o *silentOp) Definition() string { return fmt.Sprint(o.after) }

// Wakes implements Waker.
func (*silentOp) Wakes() {}

// Run implements Runner.
func (o *silentOp) Run(in *Input, out *Outputs) error {
	m := in.Memory.Touch()
	o.fire(in, m, out)
	if in.Scope == nil {
		return nil
	}
	m.Num, m.At = 1, in.Memory.Now
	m.Wake(m.At + o.after)
	return nil
}

// fire sends when the period has passed. Time in which the gateway was not listening does not count.
func (o *silentOp) fire(in *Input, m state.Touched, out *Outputs) {
	if m.Num == 0 {
		return
	}
	end := in.Memory.State.SilentUntil(m.At, o.after)
	if in.Memory.Received < end {
		m.Wake(end)
		return
	}
	out.Give("last", time.UnixMilli(m.At).UTC())
	out.passAt(end)
	m.Num = 0
	m.Wake(0)
}

// Why implements Runner.
func (o *silentOp) Why(in *Input) string {
	return fmt.Sprintf("a message has arrived: %s of silence start now", ms(o.after))
}
