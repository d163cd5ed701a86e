package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
)

const (
	// batchTarget is the size at which a batch stops growing. A reader holds one batch in memory.
	batchTarget = 1 << 20
	// keptBatches is how many empty batches are kept for reuse.
	keptBatches = 4
)

// batch is a batch under construction. Its first wal.BatchHeaderLen bytes are reserved for the header.
type batch struct {
	buf      []byte
	first    uint64
	count    uint32
	calls    int // calls of Append so far
	flags    message.Flags
	time     int64
	lastTime int64
	waiters  []Waiter
}

func (b *batch) reset(first uint64, now int64) {
	clear(b.waiters)
	*b = batch{buf: append(b.buf[:0], make([]byte, wal.BatchHeaderLen)...), waiters: b.waiters[:0], first: first, time: now, lastTime: now}
}

// add encodes r after the batch's records, directly into its final form on disk.
func (b *batch) add(r *message.Record) {
	at := len(b.buf)
	b.buf = r.Append(append(b.buf, 0, 0, 0, 0), b.time)
	binary.LittleEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at-wal.RecordLenBytes)) //nolint:gosec // bounded by tooLarge
	b.count++
	b.flags |= r.Flags()
}

func (b *batch) body() int { return len(b.buf) - wal.BatchHeaderLen }

// seal pads the batch, writes its header and returns the bytes for the disk.
func (b *batch) seal(mark uint64, salt uint32) []byte {
	h := wal.BatchHeader{
		Length: uint32(b.body()), //nolint:gosec // below the segment's size, which is below 2 GiB
		Count:  b.count,
		First:  b.first,
		Time:   b.time,
		Mark:   mark,
		Span:   uint32(min(b.lastTime-b.time, 1<<32-1)), //nolint:gosec // times do not decrease within a batch
		Flags:  uint8(b.flags),
	}
	for int64(len(b.buf)) < h.Size() {
		b.buf = append(b.buf, 0)
	}
	h.BodyCRC = wal.Checksum(salt, b.buf[wal.BatchHeaderLen:])
	h.Put(b.buf, salt)
	return b.buf
}

// buffer is the accepting side of the journal: it orders records, stamps them and encodes them into batches, which the
// committer takes one by one.
type buffer struct {
	limit   int           // bytes
	maxBody int           // bytes of records that fit into a segment
	wake    chan struct{} // wakes the committer: a first record, a second batch, enough calls, or the end

	mu     sync.Mutex
	space  sync.Cond     // on mu: the buffer has shrunk, or waiting is pointless
	roomC  chan struct{} // made by waitRoom, closed with every broadcast on space
	queue  []*batch      // oldest first; the last one still grows
	expect int           // see pending
	free   []*batch
	bytes  int // in queue and taken by the committer
	last   uint64
	// messages counts the PUBLISH records appended since Open.
	messages uint64
	time     int64 // ReceivedAt of the last record; 0 when there is none
	watch    clock.Watch
	jump     time.Duration // of the clock, not yet recorded
	full     error         // wraps ErrFull while the journal has no room
	closed   error         // ErrClosed or the sticky error
}

func newBuffer(o *Options, last uint64, lastTime int64) *buffer {
	b := &buffer{
		limit:   o.BufferBytes,
		maxBody: int(o.SegmentBytes) - wal.SegmentStart - wal.BatchHeaderLen - wal.BatchAlign,
		wake:    make(chan struct{}, 1),
		last:    last,
		time:    lastTime,
		watch:   clock.NewWatch(o.Clock),
		jump:    o.Jump,
	}
	b.space.L = &b.mu
	return b
}

// append stamps and encodes recs, after a record of the clock's step if there was one. It accepts all of them or none.
func (b *buffer) append(recs []message.Record, w Waiter) (last uint64, step clock.Step, err error) {
	for i := range recs {
		if size := maxEncoded(&recs[i]); size > b.maxBody {
			return 0, step, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, b.maxBody)
		}
	}
	b.mu.Lock()
	if err := b.admitLocked(); err != nil {
		b.mu.Unlock()
		return 0, step, err
	}
	if len(recs) == 0 {
		defer b.mu.Unlock()
		return b.last, step, nil
	}
	queued := len(b.queue)
	step = b.stampLocked()
	cur := b.putLocked(recs)
	cur.calls++
	if w != nil {
		cur.waiters = append(cur.waiters, w)
	}
	last, wake := b.last, queued != len(b.queue) || cur.calls == b.expect
	b.mu.Unlock()
	if wake {
		b.signal()
	}
	return last, step, nil
}

// look records a step of the clock, unless there is no room: then the next look or append does.
func (b *buffer) look() (step clock.Step) {
	b.mu.Lock()
	if b.closed != nil || b.full != nil || b.bytes >= b.limit || b.last == 0 {
		b.mu.Unlock()
		return step
	}
	step = b.stampLocked()
	b.mu.Unlock()
	if step != (clock.Step{}) {
		b.signal()
	}
	return step
}

// stampLocked sets the time of the next records to the wall clock. If that has stepped, it records the step first, in a
// batch of its own: times do not decrease within a batch, and its span is that of a commit. A step back below
// clock.Tolerance is waited out. It returns the step, zero for none.
func (b *buffer) stampLocked() clock.Step {
	now, step, stepped := b.watch.Look()
	switch {
	case b.time == 0: // nothing to compare with
		stepped = false
	case stepped: // even if a jump at the start is not yet recorded
		step.From = max(step.From, b.time)
	case b.jump != 0 || b.time-now >= clock.Tolerance.Milliseconds():
		step, stepped = clock.Step{From: b.time, To: now}, true
	}
	b.jump = 0
	if !stepped {
		b.time = max(b.time, now)
		return clock.Step{}
	}
	b.time = now
	rec := message.ClockStep(step).Record()
	b.putLocked([]message.Record{rec})
	return step
}

// putLocked assigns sequences to recs and encodes them. It returns the batch that has the last one.
func (b *buffer) putLocked(recs []message.Record) (cur *batch) {
	for i := range recs {
		r := &recs[i]
		b.last++
		r.Seq, r.ReceivedAt = b.last, b.time
		if r.Kind == message.KindPublish {
			b.messages++
		}
		cur = b.openLocked(r, cur)
		before := len(cur.buf)
		cur.add(r)
		b.bytes += len(cur.buf) - before
	}
	return cur
}

// admitLocked waits while the buffer is full. It returns an error if nothing can be appended.
func (b *buffer) admitLocked() error {
	for {
		switch {
		case b.closed != nil:
			return b.closed
		case b.full != nil:
			return b.full
		case b.bytes < b.limit:
			return nil
		}
		b.space.Wait()
	}
}

// openLocked returns the batch for r: the last one, or a new one if that is big enough, would become too big for a
// segment, or r is a step of the clock.
func (b *buffer) openLocked(r *message.Record, cur *batch) *batch {
	if cur == nil && len(b.queue) > 0 {
		cur = b.queue[len(b.queue)-1]
	}
	if cur != nil && r.Kind != message.KindClockStep && cur.body() < batchTarget && (cur.body() == 0 || cur.body()+maxEncoded(r) <= b.maxBody) {
		cur.lastTime = b.time
		return cur
	}
	switch n := len(b.free); {
	case n > 0:
		cur, b.free = b.free[n-1], b.free[:n-1]
	case len(b.queue) > 0: // under load batches grow to their full size
		cur = &batch{buf: make([]byte, 0, batchTarget+batchTarget/8)}
	default:
		cur = new(batch)
	}
	cur.reset(r.Seq, b.time)
	b.queue = append(b.queue, cur)
	return cur
}

// maxEncoded returns an upper bound of r's size in a batch, including its length field.
func maxEncoded(r *message.Record) int {
	const fixed = wal.RecordLenBytes + 2 + 10 + 3 + 2*5 + 1
	n := fixed + len(r.Client) + len(r.Topic) + len(r.Payload)
	if r.Props.IsZero() {
		return n
	}
	const perText = 1 + 5
	n += 3*perText + len(r.Props.ContentType) + len(r.Props.ResponseTopic) + len(r.Props.Correlation) + 8
	for i := range r.Props.User {
		n += 2*perText + len(r.Props.User[i].Name) + len(r.Props.User[i].Value)
	}
	return n
}

// appended returns the last sequence and the number of PUBLISH records up to it since Open.
func (b *buffer) appended() (last, messages uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.messages
}

// signal wakes the committer. It never blocks.
func (b *buffer) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// pending returns the calls and waiters of the oldest batch, whether that batch is complete, and whether the buffer is
// closed. calls is 0 when nothing is pending. The committer is woken when the batch has expect calls.
func (b *buffer) pending(expect int) (calls, waiters int, grown, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	closed = b.closed != nil
	b.expect = expect
	if len(b.queue) == 0 {
		return 0, 0, false, closed
	}
	// A batch may contain only the first part of one call, whose end is in the next batch.
	head := b.queue[0]
	return max(head.calls, 1), len(head.waiters), len(b.queue) > 1 || head.body() >= batchTarget, closed
}

// take removes the oldest batch, which belongs to the committer until release.
func (b *buffer) take() *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return nil
	}
	first := b.queue[0]
	n := copy(b.queue, b.queue[1:])
	b.queue[n] = nil
	b.queue = b.queue[:n]
	return first
}

// release returns a committed batch. size is its length when it was taken, without header.
func (b *buffer) release(done *batch, size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= size
	if len(b.free) < keptBatches && cap(done.buf) <= 2*batchTarget {
		b.free = append(b.free, done)
	}
	if b.full == nil && b.bytes < b.limit {
		b.broadcastLocked()
	}
}

func (b *buffer) broadcastLocked() {
	b.space.Broadcast()
	if b.roomC != nil {
		close(b.roomC)
		b.roomC = nil
	}
}

// setFull sets the reason why there is no room; nil means that there is space again.
func (b *buffer) setFull(reason error) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = (b.full == nil) != (reason == nil)
	if reason != nil {
		reason = fmt.Errorf("%w: %w", ErrFull, reason)
	}
	b.full = reason
	if changed {
		b.broadcastLocked()
	}
	return changed
}

// close ends appending with err. The first error stays, except that a sticky error replaces ErrClosed.
func (b *buffer) close(err error) {
	b.mu.Lock()
	if b.closed == nil || b.closed == ErrClosed { //nolint:errorlint // set here, never wrapped
		b.closed = err
	}
	b.broadcastLocked()
	b.mu.Unlock()
	b.signal()
}

// waitRoom waits until an append would neither block nor be refused.
func (b *buffer) waitRoom(ctx context.Context) error {
	for {
		b.mu.Lock()
		if b.closed != nil || (b.full == nil && b.bytes < b.limit) {
			defer b.mu.Unlock()
			return b.closed
		}
		if b.roomC == nil {
			b.roomC = make(chan struct{})
		}
		c := b.roomC
		b.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lastAppended returns the highest sequence assigned.
func (b *buffer) lastAppended() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// state returns the buffer's part of Stat.
func (b *buffer) state() (last uint64, full error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.full
}
