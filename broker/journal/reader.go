package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
)

// Read-ahead of a Reader. It is small after a batch that was passed over, since only the next header may be needed.
const (
	readAhead = 64 << 10
	skipAhead = 4 << 10
)

// Batch is the result of Next. It and everything its records refer to, except strings, are valid until the next call of
// Next or TryNext.
type Batch struct {
	First, Last uint64
	Records     []message.Record
	// Missing is the number of unreadable records right before First; the journal has reported where.
	Missing uint64
}

// Reader reads the journal in order, from a sequence up to the durable mark. It keeps its current segment from being
// recycled, so keep reading or close it. It is for one goroutine, except Position and Close.
type Reader struct {
	j      *Journal
	wake   chan struct{}
	closed chan struct{}
	passed atomic.Uint64

	// Guarded by the notifier's lock: see Await.
	want message.Flags
	due  bool // a wakeup for unwanted records is due

	mu      sync.Mutex // held while reading, so that Close waits for the read
	done    bool
	seg     *segment // pinned; nil until there is one
	file    wal.File
	off     int64
	badFrom int64  // start of a bad range whose end is not known; 0 when none
	next    uint64 // first sequence neither returned nor passed over
	missing uint64 // unreadable records right before next
	win     wal.Window
	dec     message.Decoder
	batch   Batch
}

// NewReader returns a Reader whose first record is from; 0 means the oldest one. It returns ErrTrimmed when from is no
// longer kept, and ErrBeyond when it is after the next record to be appended.
func (j *Journal) NewReader(from uint64) (*Reader, error) {
	if from == 0 {
		from = j.First()
	}
	if from > j.Last()+1 {
		return nil, fmt.Errorf("%w: %d, the last one is %d", ErrBeyond, from, j.Last())
	}
	if err := j.notify.endedWith(); err != nil {
		return nil, err
	}
	r := &Reader{j: j, wake: make(chan struct{}, 1), closed: make(chan struct{}), next: from}
	r.passed.Store(from - 1)
	r.win.Ahead = readAhead
	if err := r.enter(); err != nil && !wal.IsExhausted(err) { // the first read tries again
		return nil, err
	}
	j.notify.attach(r)
	return r, nil
}

// enter pins the segment that holds next, if there is one.
func (r *Reader) enter() error {
	seg, err := r.j.table.pin(r.next, r.j.durable.Load())
	if err != nil {
		return fmt.Errorf("%w: %d, the oldest is %d", err, r.next, r.j.First())
	}
	if seg == nil {
		return nil
	}
	if err := r.open(seg); err != nil {
		r.j.table.unpin(seg)
		return err
	}
	return nil
}

// open makes a pinned segment the current one.
func (r *Reader) open(seg *segment) error {
	f, err := r.j.fs.Open(seg.name)
	if err != nil {
		return fmt.Errorf("open segment: %w", err)
	}
	if err := r.win.Reset(f); err != nil {
		return errors.Join(fmt.Errorf("open segment: %w", err), f.Close())
	}
	if r.file != nil {
		_ = r.file.Close() // it was only read
		r.bad(r.off, seg.base)
	}
	r.seg, r.file, r.off = seg, f, wal.SegmentStart
	r.lose(seg.base)
	return nil
}

// bad reports the bad range that began at badFrom, if any. It ends at to; next is the first sequence after it.
func (r *Reader) bad(to int64, next uint64) {
	if r.badFrom != 0 {
		r.j.corrupt(wal.LostBetween(filepath.Base(r.seg.name), r.badFrom, to, r.next, next))
		r.badFrom = 0
	}
}

// lose skips unreadable records up to the sequence next.
func (r *Reader) lose(next uint64) {
	if next > r.next {
		r.missing += next - r.next
		r.next = next
		r.passed.Store(next - 1)
	}
}

// signal wakes a blocked Next. It never blocks.
func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Position returns the sequence up to which every record has been returned or passed over.
func (r *Reader) Position() uint64 { return r.passed.Load() }

// Next returns the next batch that has a record with one of the flags in want, or any record if want is 0, and waits
// for one. Other batches are passed over by their headers; Position moves with them. Errors: ctx's, ErrClosed when the
// journal or the reader was closed, the journal's sticky error, or a read error. Records lost by the medium are passed
// over: see Batch.Missing.
func (r *Reader) Next(ctx context.Context, want message.Flags) (*Batch, error) {
	for {
		b, ok, err := r.TryNext(want)
		if ok || err != nil {
			return b, err
		}
		if err := r.Await(ctx, want); err != nil {
			return nil, err
		}
	}
}

// TryNext is like Next without waiting. It returns false if there is nothing at present, or no file descriptor to read
// it with.
func (r *Reader) TryNext(want message.Flags) (*Batch, bool, error) {
	return r.TryNextWithin(want, math.MaxInt)
}

// TryNextWithin is like TryNext, but passes over at most passes batches. It also returns false when it has.
func (r *Reader) TryNextWithin(want message.Flags, passes int) (*Batch, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil, false, ErrClosed
	}
	for {
		at, err := r.step(want)
		switch {
		case at == wantedBatch:
			return &r.batch, true, nil
		case at == noBatch || err != nil:
			return nil, false, err
		case at == otherBatch:
			if passes--; passes <= 0 {
				return nil, false, nil
			}
		}
	}
}

// met is what a reader's step found.
type met uint8

const (
	noBatch      met = iota // at present, or no file descriptor to read it with; or an error
	damagedBatch            // was passed over
	otherBatch              // was passed over: it is not wanted, or was read before
	wantedBatch             // is in r.batch
)

// step reads the next batch, or passes over it.
func (r *Reader) step(want message.Flags) (met, error) {
	ok, err := r.locate()
	if wal.IsExhausted(err) {
		time.AfterFunc(roomRetry, r.signal)
		return noBatch, nil
	}
	if !ok || err != nil {
		return noBatch, err
	}
	h, ok, err := r.win.Header(r.off, r.seg.salt)
	if err != nil {
		return noBatch, r.failed(err)
	}
	if !ok {
		if err := r.resync(); err != nil {
			return noBatch, r.failed(err)
		}
		return damagedBatch, nil
	}
	if h.Next() > r.j.durable.Load()+1 {
		return noBatch, nil // the committer is about to move the mark, and then wakes the reader
	}
	r.bad(r.off, h.First)
	r.lose(h.First)
	if h.Next() <= r.next || (want != 0 && message.Flags(h.Flags)&want == 0) {
		r.pass(&h)
		return otherBatch, nil
	}
	ok, err = r.decode(&h)
	if err != nil {
		return noBatch, r.failed(err)
	}
	if !ok {
		return damagedBatch, nil
	}
	return wantedBatch, nil
}

func (r *Reader) failed(err error) error {
	return fmt.Errorf("read journal segment %s: %w", filepath.Base(r.seg.name), err)
}

// locate sets off to the place of a durable batch, in the next segment if necessary, and reports whether there is one.
func (r *Reader) locate() (bool, error) {
	if r.seg == nil {
		if err := r.enter(); err != nil || r.seg == nil {
			return false, err
		}
	}
	for {
		r.win.Limit = r.seg.end.Load()
		if r.off < r.win.Limit {
			return true, nil
		}
		next, last := r.j.table.following(r.seg)
		if next == nil {
			r.endOfTail(last)
			return false, nil
		}
		// The segment may have grown before it was sealed. Its end no longer moves.
		if end := r.seg.end.Load(); r.off < end {
			r.j.table.stepBack(r.seg, next)
			continue
		}
		if err := r.open(next); err != nil {
			r.j.table.stepBack(r.seg, next)
			return false, err
		}
	}
}

// pass advances past a batch by its header.
func (r *Reader) pass(h *wal.BatchHeader) {
	r.off += h.Size()
	if next := h.Next(); next > r.next {
		r.next = next
		r.passed.Store(next - 1)
	}
	r.win.Ahead = skipAhead
}

// endOfTail accounts for records lost at the end of the newest segment if it was recovered and ends with last. For one
// that is still written, last is 0 and the next batch shows the loss.
func (r *Reader) endOfTail(last uint64) {
	if last != 0 {
		r.bad(r.off, last+1)
		r.lose(last + 1)
	}
}

// resync goes from a bad header to the next good batch, or to the segment's end.
func (r *Reader) resync() error {
	at, h, ok, err := r.win.Find(r.off+wal.BatchAlign, r.seg.salt)
	if err != nil {
		return err
	}
	if r.badFrom == 0 {
		r.badFrom = r.off
	}
	if !ok {
		r.off = r.win.Limit
		return nil
	}
	r.bad(at, h.First)
	r.off = at
	r.lose(h.First)
	return nil
}

// decode reads the records of the batch at off. It returns false if their checksum is wrong.
func (r *Reader) decode(h *wal.BatchHeader) (bool, error) {
	body, ok, err := r.win.Body(r.off, h, r.seg.salt)
	if err != nil {
		return false, err
	}
	if !ok {
		r.j.corrupt(wal.LostBetween(filepath.Base(r.seg.name), r.off, r.off+h.Size(), h.First, h.Next()))
		r.off += h.Size()
		r.lose(h.Next())
		return false, nil
	}
	r.batch.Records = r.batch.Records[:0]
	err = h.EachRecord(body, func(i int, b []byte) error {
		seq := h.First + uint64(i) //nolint:gosec // an index
		if seq < r.next {
			return nil
		}
		n := len(r.batch.Records)
		if n < cap(r.batch.Records) {
			r.batch.Records = r.batch.Records[:n+1] // reuses what the record has allocated
		} else {
			r.batch.Records = append(r.batch.Records, message.Record{})
		}
		rec := &r.batch.Records[n]
		if err := r.dec.Decode(b, h.Time, rec); err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		rec.Seq = seq
		return nil
	})
	if err != nil {
		return false, err
	}
	r.batch.First, r.batch.Last, r.batch.Missing = r.next, h.Next()-1, r.missing
	r.missing = 0
	r.off += h.Size()
	r.next = h.Next()
	r.passed.Store(r.next - 1)
	r.win.Ahead = readAhead
	return true, nil
}

// Close releases the reader. A waiting Next returns ErrClosed; Close waits for one that is reading.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	r.done = true
	close(r.closed)
	r.j.notify.detach(r)
	if r.seg == nil {
		return nil
	}
	r.j.table.unpin(r.seg)
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("close reader: %w", err)
	}
	return nil
}
