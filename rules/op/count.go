package op

import (
	"fmt"
	"time"

	"cellgate/rules/doc"
	"cellgate/rules/state"
)

var count = Operator{
	Name: "count", Place: 7,
	Keys: []Key{
		{Name: "at_least", Value: integerValue(1, maxKept)},
		{Name: "window", Value: durationValue, Need: "for example window: 10m"},
		{Name: "of", Value: expressionValue},
		byKey, valuesKey,
	},
	Gives:   []string{"count", "first"},
	GivesOf: givenByCount,
	Keyed:   true,
	Ends:    countsValues,
	Example: "count: {at_least: 3, window: 10m}",
	Does: "the third message within ten minutes; then counting starts again. `count: {of: payload.speed, window: 5m}`, without `at_least`, " +
		"is a window like those above: the number of values",
	New: newCount,
}

// countsValues reports whether count is a window.
func countsValues(a *Args) bool { return a.Scalar("of") != nil }

func givenByCount(a *Args) []string {
	if countsValues(a) {
		return windowGives("count")
	}
	return []string{"count", "first"}
}

func newCount(a *Args) Runner {
	_, atLeast := a.Values["at_least"]
	switch of := countsValues(a); {
	case of && atLeast:
		a.d.FailAt(a.Node, doc.CodeWrongType, "write at_least to pass a message on, or of to send the number of values at the end of each window",
			"\"count\" has either at_least or of")
	case of:
		if d := a.duration("window"); d < minWindow || d > maxWindow {
			a.d.FailAt(a.Node, doc.CodeBadDuration, "", "a window is from %s to 24h", minWindow)
		}
		return newWindow("count")(a)
	case !atLeast && !a.odd:
		a.d.FailAt(a.Node, doc.CodeMissing, "for example at_least: 3, or of: payload.speed", "\"count\" needs at_least or of")
	}
	return &countOp{atLeast: a.integer("at_least"), window: a.millis("window")}
}

// countOp passes the atLeast-th message within the window, then starts counting again. Memory: list = the messages
// counted so far.
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
