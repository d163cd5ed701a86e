package rules

import (
	"fmt"
	"time"
)

// operator is a compiled per-VIN operator: it lets a message of a rule pass or holds it back, from what
// the VIN's earlier messages left in the state.
type operator interface {
	// pass decides on one message. It changes the state only through c.
	pass(c *opContext) (bool, error)
	// definition is the text whose change makes the operator another one, with new state.
	definition() string
	setKey(key uint64)
	stateKey() uint64
	// why says why pass gave false: st is the state before, now the message's time.
	why(st *opState, now int64) string
}

// opContext is what an operator sees of one message.
type opContext struct {
	sc     *scope
	state  *State
	now    int64 // the message's ReceivedAt, ms
	values []opValue
}

// opValue is a value that an operator gives to templates and transforms as operator.name.
type opValue struct {
	name  string
	value any
}

func (c *opContext) give(name string, value any) {
	c.values = append(c.values, opValue{name, value})
}

// operatorValues are the names that each operator gives when it lets a message pass.
var operatorValues = map[operatorKind][]string{
	opGeofence:  {"entered", "left"},
	opOnChange:  {"previous"},
	opThreshold: {"since"},
	opCount:     {"count", "first"},
}

// base is what all operators have.
type base struct{ key uint64 }

func (b *base) setKey(key uint64) { b.key = key }

func (b *base) peek(c *opContext) *opState { return c.state.peek(c.sc.vin, b.key, c.now) }

func (b *base) touch(c *opContext) (*opState, *vinState) {
	return c.state.touch(c.sc.vin, b.key, c.now)
}

// newOperator compiles an operator; what is wrong has been reported.
func newOperator(d *document, o *operatorDef, n *names) operator {
	switch o.kind {
	case opSample:
		return &sampleOp{every: o.every.Milliseconds()}
	case opThreshold:
		return &thresholdOp{
			enter: n.compile(d, o.enter, wantBool), exit: n.compile(d, o.exit, wantBool), hold: o.every.Milliseconds(),
		}
	case opDedupe:
		return &dedupeOp{by: n.compile(d, o.by, wantAny), within: o.every.Milliseconds(), keep: o.count}
	case opOnChange:
		return &onChangeOp{of: n.compile(d, o.by, wantAny)}
	case opRateLimit:
		return &rateLimitOp{count: o.count, per: o.every.Milliseconds()}
	case opCount:
		return &countOp{atLeast: o.count, window: o.every.Milliseconds()}
	default:
		return &geofenceOp{
			lat: n.compile(d, o.lat, wantAny), lon: n.compile(d, o.lon, wantAny), zones: o.zones, on: o.on,
		}
	}
}

// digest stands for an expression in a definition; 0 for none.
func (e *expression) digest() uint64 {
	if e == nil {
		return 0
	}
	return e.code
}

// sampleOp lets one message per VIN and time pass: the first, and then the first that comes at least
// `every` after the last one that passed. State: at = when that was, num = 1.
type sampleOp struct {
	base
	every int64
}

func (o *sampleOp) definition() string { return fmt.Sprint(o.every) }

func (o *sampleOp) pass(c *opContext) (bool, error) {
	if st := o.peek(c); st != nil && c.now-st.at < o.every {
		return false, nil
	}
	st, _ := o.touch(c)
	st.num, st.at = 1, c.now
	return true, nil
}

// thresholdOp fires once when enter holds, for `hold` if given, and is rearmed when exit holds, or without
// exit when enter does not. State: num = idle, waiting or active; at = since when enter has held.
type thresholdOp struct {
	base
	enter, exit *expression
	hold        int64
}

const (
	thresholdIdle = iota
	thresholdWaiting
	thresholdActive
)

func (o *thresholdOp) definition() string {
	return fmt.Sprint(o.enter.digest(), o.exit.digest(), o.hold)
}

func (o *thresholdOp) pass(c *opContext) (bool, error) {
	var num uint64
	var at int64
	if st := o.peek(c); st != nil {
		num, at = st.num, st.at
	}
	next, since, err := o.step(c, num, at)
	if err != nil {
		return false, err
	}
	if next != num || since != at {
		st, _ := o.touch(c)
		st.num, st.at = next, since
	}
	if fired := next == thresholdActive && num != thresholdActive; !fired {
		return false, nil
	}
	c.give("since", time.UnixMilli(since).UTC())
	return true, nil
}

// step is the state after this message.
func (o *thresholdOp) step(c *opContext, num uint64, at int64) (uint64, int64, error) {
	if num == thresholdActive && o.exit != nil {
		out, err := c.sc.test(o.exit)
		if err != nil || !out {
			return num, at, err
		}
		return thresholdIdle, 0, nil
	}
	in, err := c.sc.test(o.enter)
	switch {
	case err != nil:
		return num, at, err
	case !in:
		return thresholdIdle, 0, nil
	case num == thresholdActive:
		return num, at, nil
	case num == thresholdIdle:
		at = c.now
	}
	if c.now-at >= o.hold {
		return thresholdActive, at, nil
	}
	return thresholdWaiting, at, nil
}

// rateLimitOp lets at most count messages per VIN pass in any window of length per. State: list = when
// the last ones passed.
type rateLimitOp struct {
	base
	count int
	per   int64
}

func (o *rateLimitOp) definition() string { return fmt.Sprint(o.count, o.per) }

func (o *rateLimitOp) pass(c *opContext) (bool, error) {
	if st := o.peek(c); st != nil {
		recent := 0
		for _, s := range st.list {
			if c.now-s.at < o.per {
				recent++
			}
		}
		if recent >= o.count {
			return false, nil
		}
	}
	st, v := o.touch(c)
	st.list = expire(st.list, c.now-o.per)
	c.state.remember(v, st, stamp{at: c.now}, o.count)
	return true, nil
}

// countOp lets the message pass that is the atLeast-th within the window, then counts anew. State: list =
// the messages counted so far.
type countOp struct {
	base
	atLeast int
	window  int64
}

func (o *countOp) definition() string { return fmt.Sprint(o.atLeast, o.window) }

func (o *countOp) pass(c *opContext) (bool, error) {
	st, v := o.touch(c)
	st.list = expire(st.list, c.now-o.window)
	if len(st.list)+1 < o.atLeast {
		c.state.remember(v, st, stamp{at: c.now}, o.atLeast)
		return false, nil
	}
	first := c.now
	if len(st.list) > 0 {
		first = st.list[0].at
	}
	c.give("count", len(st.list)+1)
	c.give("first", time.UnixMilli(first).UTC())
	st.list = st.list[:0]
	return true, nil
}

// expire drops the entries that are not after a time.
func expire(list []stamp, until int64) []stamp {
	n := 0
	for n < len(list) && list[n].at <= until {
		n++
	}
	if n == 0 {
		return list
	}
	return list[:copy(list, list[n:])]
}

// remember appends an entry to an operator's list and keeps the list within keep entries and the VIN
// within its bytes, first those of operators without rules; what is forgotten for that is counted. The caller uses
// o no more.
func (s *State) remember(v *vinState, o *opState, e stamp, keep int) {
	o.list = append(o.list, e)
	if n := len(o.list) - keep; n > 0 {
		o.list = o.list[:copy(o.list, o.list[n:])]
		s.opts.Evicted("rule_entries", n)
	}
	if key := o.key; o.size() > s.room(v, o) {
		if gone := s.giveWay(v); gone > 0 {
			s.opts.Evicted("removed_rules", gone)
			at, _ := v.find(key)
			o = &v.ops[at]
		}
	}
	n := 0
	for room := s.room(v, o); o.size() > room && len(o.list) > 1; n++ {
		o.list = o.list[:copy(o.list, o.list[1:])]
	}
	if n > 0 {
		s.opts.Evicted("vin_bytes", n)
	}
}
