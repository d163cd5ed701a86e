package sink

import (
	"context"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// ticker appends ticks to the journal, so that rules can send something without a message, and every replay sends the
// same. It does so only while an operator waits for its time, at most once per interval, and after the previous tick is
// evaluated; if that one left something due, the next follows at once.
type ticker struct {
	journal  Journal
	now      func() time.Time
	interval time.Duration
	metrics  *Metrics
	wake     chan struct{}

	due       atomic.Int64  // when the first operator is due, in ms since the Unix epoch; 0: none
	evaluated atomic.Uint64 // the evaluator's position

	// Owned by run.
	begins bool   // this process's first tick is not in the journal yet
	last   uint64 // sequence of the last tick
	lastAt int64  // and its approximate time
}

func newTicker(o *Options) *ticker {
	return &ticker{journal: o.Journal, now: o.Now, interval: o.TickInterval, metrics: o.Metrics, wake: make(chan struct{}, 1)}
}

// note sets what is due after everything up to seq.
func (t *ticker) note(due int64, waits bool, seq uint64) {
	if !waits {
		due = 0
	}
	t.evaluated.Store(seq)
	if t.due.Swap(due) == 0 && due == 0 {
		return
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// overdue returns for how long something has been due.
func (t *ticker) overdue() time.Duration {
	due := t.due.Load()
	if due == 0 {
		return 0
	}
	return max(0, time.Duration(t.now().UnixMilli()-due+1)*time.Millisecond)
}

// begin appends, before this process's first message, that the gateway begins to listen, if waits says that an operator
// may wait.
func (t *ticker) begin(ctx context.Context, waits bool) {
	if t.begins = waits; waits {
		t.append(ctx)
	}
}

// run appends ticks until ctx ends.
func (t *ticker) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, tick := t.next()
		if tick && t.append(ctx) {
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-t.wake:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

// next reports whether to append a tick now, else how long to wait; 0 means until note is called. A clock change is
// noticed within an interval.
func (t *ticker) next() (wait time.Duration, now bool) {
	due, at := t.due.Load(), t.now().UnixMilli()
	switch {
	case t.begins:
		return t.interval, true
	case due == 0 || t.evaluated.Load() < t.last:
		return 0, false
	case due > t.lastAt && due <= at: // not left over by the last one
		if left := time.Duration(t.lastAt-at)*time.Millisecond + t.interval; left > 0 && left <= t.interval {
			return left, false
		}
	}
	left := time.Duration(due-at) * time.Millisecond
	return min(max(left, time.Millisecond), t.interval), left <= 0
}

// append reports whether a tick was appended. If the journal does not take it, it is retried.
func (t *ticker) append(ctx context.Context) bool {
	if t.journal.WaitRoom(ctx) != nil {
		return false
	}
	recs := []message.Record{message.Tick(t.begins)}
	seq, err := t.journal.Append(recs, nil)
	if err != nil {
		return false
	}
	t.begins, t.last, t.lastAt = false, seq, recs[0].ReceivedAt
	t.metrics.ticks.Inc()
	return true
}

// tick evaluates what is due without a message.
func (d *Dispatcher) tick(rec *message.Record) {
	if rec.TickBegins() {
		d.state.Begin(rec.ReceivedAt)
	}
	d.state.Advance(rec.ReceivedAt)
	if d.current.worker == nil {
		return
	}
	d.limits.Reach(rec.ReceivedAt, rec.Seq)
	d.scratch = d.current.worker.Eval(rec, d.scratch[:0])
	d.divide(d.scratch, nil)
	for _, p := range d.pipelines {
		if len(p.eval.decisions) > 0 { // it counts as received only if it causes a message for the sink
			p.eval.received++
			p.eval.ticks++
		}
	}
	d.offer(rec)
}
