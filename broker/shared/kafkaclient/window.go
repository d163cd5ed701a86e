package kafkaclient

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// window is a writer's unanswered batches, in order. Normally batches follow one another; after any failure all
// unanswered batches are sent again one by one, with the same bytes, as if each had been alone: the leader recognises
// those that it has.
type window struct {
	mu      sync.Mutex
	flights []*flight
	err     error // of the failed flight
	spare   [][]byte
}

// flight is a batch in flight.
type flight struct {
	recs   []*Record
	buf    []byte
	state  producerState // under which it is encoded
	sent   time.Time
	ticket *flowTicket
}

func (w *window) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.flights)
}

func (w *window) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// add returns false if an earlier flight has failed: then f must not be sent yet.
func (w *window) add(f *flight) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flights = append(w.flights, f)
	return w.err == nil
}

// takeFirst removes the first flight once the leader has its batch. It returns false if a flight has failed, which the
// writer then handles.
func (w *window) takeFirst(f *flight) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || len(w.flights) == 0 || w.flights[0] != f {
		return false
	}
	w.flights = slices.Delete(w.flights, 0, 1)
	if len(w.spare) < MaxInFlight {
		w.spare = append(w.spare, f.buf)
	}
	return true
}

func (w *window) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// buffer returns an unused buffer.
func (w *window) buffer() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.spare); n > 0 {
		b := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return b
	}
	return nil
}

func (l *partitionWriter) hasRoom() bool { return l.window.len() < max(1, l.t.p.o.InFlight) }

// pipelines reports whether the next batch may follow those in flight. It may not before the leader has taken one of
// this producer id: until then the leader accepts any first batch, so a later one could overtake.
func (l *partitionWriter) pipelines() bool {
	return l.t.p.o.InFlight > 1 && l.own.identified && l.own.proven && !l.own.plain && !l.t.leaving(l)
}

// post sends a batch after those in flight.
func (l *partitionWriter) post(batch []*Record) {
	p := l.t.p
	f := &flight{recs: slices.Clone(batch), state: l.own.state}
	var err error
	f.buf, err = p.encoders.encode(l.window.buffer(), f.recs, f.state)
	if err == nil {
		f.ticket, err = p.o.Flow.enter(p.ctx, l.wireSize(len(f.buf)), rawSize(f.recs))
	}
	l.own.state.advance(len(f.recs))
	if well := l.window.add(f); err == nil && well {
		err = l.launch(f)
	}
	if err != nil {
		l.window.fail(err)
	}
}

func (l *partitionWriter) launch(f *flight) error {
	if l.own.pipe != nil && l.own.pipe.ended.Err() != nil {
		l.closePipe() // it was idle for long, or its last response was an error
	}
	if l.own.pipe == nil {
		pipe, conn, err := l.openPipe()
		if err != nil {
			return err
		}
		l.own.pipe, l.own.conn = pipe, conn
	}
	err := l.own.pipe.send(l.own.conn, f)
	if err != nil {
		l.own.pipe.end() // the others get no answers
	}
	return err
}

func (l *partitionWriter) closePipe() {
	if l.own.pipe != nil {
		l.own.pipe.close()
		l.own.pipe, l.own.conn = nil, nil
	}
}

// answered handles the response to the first flight. It returns false if the pipe must end; the writer then sends the
// unanswered flights again.
func (l *partitionWriter) answered(f *flight, err error) bool {
	p := l.t.p
	p.o.Flow.leave(f.ticket, err != nil)
	size := len(f.buf)
	if judge(err) != taken || !l.window.takeFirst(f) {
		l.window.fail(err)
		l.signal()
		return false
	}
	l.taken(len(f.recs), size)
	l.complete(f.recs, nil)
	l.landed(len(f.recs))
	l.signal()
	return true
}

// endResponses records that no more responses will come.
func (l *partitionWriter) endResponses() {
	if l.window.len() > 0 {
		l.window.fail(errPipe)
		l.signal()
	}
}

// empty waits until nothing is in flight.
func (l *partitionWriter) empty() {
	for l.window.len() > 0 {
		if l.window.failed() != nil {
			l.sendAgain()
		} else {
			<-l.wake
		}
	}
}

// sendAgain sends the unanswered batches again, one after the other.
func (l *partitionWriter) sendAgain() {
	p := l.t.p
	if l.own.pipe != nil {
		l.own.pipe.finish()
		l.own.pipe, l.own.conn = nil, nil
	}
	l.window.mu.Lock()
	flights, err := l.window.flights, l.window.err
	l.window.flights = nil
	l.window.mu.Unlock()
	for _, f := range flights {
		p.o.Flow.leave(f.ticket, true)
	}
	if err != nil && p.ctx.Err() == nil {
		p.retried(err)
	}
	if len(flights) > 0 {
		l.own.state = flights[0].state
	}
	for _, f := range flights {
		l.own.buf = f.buf
		same := l.own.identified && l.own.state == f.state && f.buf != nil
		l.resend(f.recs, same)
		l.landed(len(f.recs))
	}
	l.own.buf = nil
	l.window.mu.Lock()
	l.window.err = nil
	l.window.mu.Unlock()
}

// resend delivers a flight's records. If the leader refuses some, the sequence numbers of later flights no longer
// follow: they are encoded again under another id, so that copies still in flight are rejected.
func (l *partitionWriter) resend(recs []*Record, encoded bool) {
	err := l.redeliver(recs, encoded)
	if errors.Is(err, ErrRefused) {
		l.own.identified = l.own.plain
	}
	l.settle(recs, err)
}
