package rules

import (
	"fmt"
	"time"
)

// This file says, for Explain, why an operator held a message back: from the state before the message and
// the message's time.

func (b *base) stateKey() uint64 { return b.key }

func ago(now, then int64) time.Duration { return time.Duration(now-then) * time.Millisecond }

func ms(v int64) time.Duration { return time.Duration(v) * time.Millisecond }

func (o *sampleOp) why(st *opState, now int64) string {
	return fmt.Sprintf("a message passed %s ago, and one passes every %s", ago(now, st.at), ms(o.every))
}

func (o *thresholdOp) why(st *opState, now int64) string {
	switch st.num {
	case thresholdActive:
		return "it has fired, and is not rearmed before exit holds"
	case thresholdWaiting:
		return fmt.Sprintf("enter held for %s until now; it must hold for %s", ago(now, st.at), ms(o.hold))
	}
	if o.hold > 0 {
		return fmt.Sprintf("enter is false, or has held for less than %s", ms(o.hold))
	}
	return "enter is false"
}

func (o *rateLimitOp) why(*opState, int64) string {
	return fmt.Sprintf("%d messages have passed within the last %s", o.count, ms(o.per))
}

func (o *countOp) why(st *opState, now int64) string {
	n := 1
	for _, s := range st.list {
		if now-s.at < o.window {
			n++
		}
	}
	return fmt.Sprintf("this is message %d of %d within %s", n, o.atLeast, ms(o.window))
}

func (o *dedupeOp) why(*opState, int64) string {
	return fmt.Sprintf("the same has passed within the last %s", ms(o.within))
}

func (o *onChangeOp) why(st *opState, _ int64) string {
	if st.at == changeSeen {
		return "the value is missing or as before"
	}
	return "the value is missing"
}

func (o *geofenceOp) why(st *opState, _ int64) string {
	return fmt.Sprintf("no border was crossed in the direction asked (inside before: %s), or there is no position", appendJSON(nil, o.named(st.num)))
}
