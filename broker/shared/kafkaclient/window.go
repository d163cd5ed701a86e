package kafkaclient

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// window is what a lane has sent and has no answer to, in order. While it is well, batches follow one another; when one of
// them fails in any way, all that have no answer are sent again one by one, the same bytes, as if each had been alone: the
// leader recognises those that it has.
type window struct {
	mu      sync.Mutex
	flights []*flight
	err     error // of the one that failed
	spare   [][]byte
}

// flight is a batch on its way.
type flight struct {
	recs   []*Record
	buf    []byte
	state  producerState // that it is encoded under
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

// add is false when a flight before it has failed: then it is not to be sent yet.
func (w *window) add(f *flight) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flights = append(w.flights, f)
	return w.err == nil
}

// takeFirst takes the first flight off the window, as its batch is written. It is false when that is not for the caller
// to say, because something has failed.
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

// buffer is one that no flight uses.
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

// hasRoom reports whether the lane may send another batch.
func (l *lane) hasRoom() bool { return l.window.len() < max(1, l.t.p.o.InFlight) }

// pipelines reports whether the next batch may follow those under way: before the leader has taken one of the lane's
// producer id it takes any, so that a later one could come before an earlier.
func (l *lane) pipelines() bool {
	return l.t.p.o.InFlight > 1 && l.own.identified && l.own.proven && !l.own.plain && !l.t.leaving(l)
}

// post sends a batch behind those that are on their way.
func (l *lane) post(batch []*Record) {
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

func (l *lane) launch(f *flight) error {
	if l.own.pipe != nil && l.own.pipe.ended.Err() != nil {
		l.closePipe() // it was idle for long, or its last answer was not well
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
		l.own.pipe.end() // nothing of the rest will be answered
	}
	return err
}

func (l *lane) closePipe() {
	if l.own.pipe != nil {
		l.own.pipe.close()
		l.own.pipe, l.own.conn = nil, nil
	}
}

// answered takes the answer to the first flight. It is false when the pipe is to end: the flights that have no answer
// are the lane's then.
func (l *lane) answered(f *flight, err error) bool {
	p := l.t.p
	p.o.Flow.leave(f.ticket, err != nil)
	size := len(f.buf)
	if judge(err) != taken || !l.window.takeFirst(f) {
		l.window.fail(err)
		l.signal()
		return false
	}
	l.taken(len(f.recs), size)
	l.conclude(f.recs, nil)
	l.landed(len(f.recs))
	l.signal()
	return true
}

// deserted says that nothing more will be answered.
func (l *lane) deserted() {
	if l.window.len() > 0 {
		l.window.fail(errPipe)
		l.signal()
	}
}

// empty waits until nothing is on its way.
func (l *lane) empty() {
	for l.window.len() > 0 {
		if l.window.failed() != nil {
			l.sendAgain()
		} else {
			<-l.wake
		}
	}
}

// sendAgain sends what has no answer again, one batch after the other.
func (l *lane) sendAgain() {
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

// resend delivers a flight's records. When the leader refuses some of them, the flights after it have numbers that are
// not the next any more: they get others, under another id, so that what is still on its way of the old ones comes to
// nothing.
func (l *lane) resend(recs []*Record, encoded bool) {
	err := l.redeliver(recs, encoded)
	if errors.Is(err, ErrRefused) {
		l.own.identified = l.own.plain
	}
	l.settle(recs, err)
}
