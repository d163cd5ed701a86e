package sink

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// This file counts the journal's records that are not evaluated, and determines the age of pending records.

// receivedLocked returns what the sink's ledger has received: records count as soon as they are appended to the
// journal.
func (p *pipeline) receivedLocked() uint64 {
	_, messages := p.env.appended()
	if received := p.base + messages; int64(received-p.now.Received) > 0 { //nolint:gosec // the distance of two counters
		return received
	}
	return p.now.Received
}

// recountDriftLocked recounts once the evaluator has reached the end after records were lost.
func (p *pipeline) recountDriftLocked() {
	if !p.drifted {
		return
	}
	if last, messages := p.env.appended(); last == p.evaluated {
		p.base, p.drifted = p.now.Received-messages, false
	}
}

// ledger returns the current account.
func (p *pipeline) ledger() SinkLedger {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.ledger(p.name, p.receivedLocked(), p.pendingLocked())
}

// pendingLocked counts the unsettled records.
func (p *pipeline) pendingLocked() uint64 { return p.tracker.open + p.backlog + p.parked.records }

// oldestLocked returns the time of the oldest record that is evaluated and not settled, 0 if there is none.
func (p *pipeline) oldestLocked() int64 {
	if e, ok := p.tracker.oldest(); ok && e.at > 0 {
		return e.at
	}
	if p.backlog > 0 {
		return p.waitingAt
	}
	return 0
}

// receivedAt returns the time of a journal record, or of the next readable one; 0 if there is none.
func receivedAt(j Journal, seq uint64) int64 {
	if seq == 0 {
		return 0
	}
	r, err := j.NewReader(seq)
	if err != nil {
		return 0
	}
	defer func() { _ = r.Close() }()
	b, ok, err := r.TryNext(0)
	if err != nil || !ok {
		return 0
	}
	for i := range b.Records {
		if b.Records[i].Seq >= seq {
			return b.Records[i].ReceivedAt
		}
	}
	return 0
}

// unevaluated determines the age of the oldest record that is not evaluated.
type unevaluated struct {
	// at is the time of the oldest record of the current batch, or of one shortly before; 0 while the evaluator waits
	// for a batch.
	at atomic.Int64
	// seen is when a record after the evaluated ones was first seen waiting.
	seen atomic.Pointer[waitingRecord]
}

type waitingRecord struct {
	evaluated uint64
	at        int64
}

// oldest returns the time of the oldest record after evaluated. If the evaluator has not met it, that is when oldest
// was first called for it.
func (u *unevaluated) oldest(evaluated uint64, now time.Time) int64 {
	if at := u.at.Load(); at > 0 {
		return at
	}
	w := u.seen.Load()
	if w == nil || w.evaluated != evaluated {
		w = &waitingRecord{evaluated, now.UnixMilli()}
		u.seen.Store(w)
	}
	return w.at
}

// ahead counts the messages among the records after E, up to Seq, for a checkpoint. A start need not count them again,
// and knows their number if the journal is lost. It is zero if there are none, or none on disk yet.
type ahead struct {
	Seq      uint64 `json:"seq"`
	Messages uint64 `json:"messages"`
}

// aheadOf counts what is on disk: everything appended, or what was appended at the last checkpoint. The evaluator must
// not run.
func (d *Dispatcher) aheadOf() (a ahead) {
	known, durable := d.mark, d.o.Journal.Durable()
	d.mark.Seq, d.mark.Messages = d.o.Journal.Appended()
	if d.mark.Seq <= durable {
		known = d.mark
	}
	p := d.pipelines[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if known.Seq > d.evaluated && known.Seq <= durable && !p.drifted {
		a = ahead{known.Seq, p.base + known.Messages - p.now.Received}
	}
	return a
}

// countAhead counts at the start what is appended and not evaluated.
func (d *Dispatcher) countAhead(known ahead) error {
	last, messages := d.o.Journal.Appended()
	if err := d.o.Journal.WaitDurable(context.Background(), last); err != nil {
		return fmt.Errorf("count what is not evaluated: %w", err)
	}
	from, n := d.evaluated+1, uint64(0)
	if known.Seq > d.evaluated && known.Seq <= last {
		from, n = known.Seq+1, known.Messages
	}
	more, err := d.countMessages(from, last)
	if err != nil {
		return fmt.Errorf("count what is not evaluated: %w", err)
	}
	for _, p := range d.pipelines {
		p.base = p.now.Received + n + more - messages
	}
	return nil
}

// countMessages counts the messages in a range of sequences on disk; records that cannot be read count as messages.
func (d *Dispatcher) countMessages(from, to uint64) (n uint64, err error) {
	if from > to {
		return 0, nil
	}
	r, err := d.o.Journal.NewReader(from)
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }()
	for last := from - 1; last < to; {
		b, ok, err := r.TryNext(0)
		if err != nil {
			return 0, err
		}
		if !ok { // the end cannot be read; the evaluator finds it with the next records
			return n + to - last, nil
		}
		n, last = n+b.Missing, b.Last
		for i := range b.Records {
			if b.Records[i].Kind == message.KindPublish {
				n++
			}
		}
	}
	return n, nil
}
