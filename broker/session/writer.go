package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/statefile"
)

const (
	// commitBytes of queued content that is not yet written make the writer commit before its interval ends.
	commitBytes = 4 << 20
	// commitRetry is how long the writer waits after a failed commit. The whole batch is written again,
	// every page of it, so a page that the kernel dropped after a failed fsync is not relied on.
	commitRetry = time.Second
)

// writer writes what changed to the state file: one goroutine, one transaction for everything that became
// due while the last one was being committed. Everybody else only marks.
//
// It works in rounds. A round begins with a cut, the fan-out position of that moment, and ends with the transaction that
// makes it durable, by when every message up to the cut is in the file that is still in a queue. What does not fit
// into one small transaction is spread over several, so that whoever else writes to the state file, the command service
// above all, never waits for the queues of all sessions. A crash in between leaves messages of QoS 1 in the file that are
// fanned out again; those of QoS 2 and the position come last and together. Sessions' own records, which clients wait
// for, go first in every transaction.
//
// Transactions are committed strictly in order, a failed one is repeated until it succeeds. Meanwhile the changes gather
// in the sessions, within their bounds.
type writer struct {
	m    *Manager
	kick chan struct{} // holds one element when somebody waits

	next      atomic.Uint64 // the number of the pass that takes what changes now, if not the one before does
	committed atomic.Uint64 // the last pass that is durable

	mu    sync.Mutex
	list  []*state // sessions with changes, in the order in which they were marked
	told  []func() // to be run when the records of everything marked before are durable
	done  []func() // to be run when everything else is, too
	bytes int64    // queued content since the last round
}

func newWriter(m *Manager) *writer {
	w := &writer{m: m, kick: make(chan struct{}, 1)}
	w.next.Store(1)
	return w
}

// mark puts a session, whose lock the caller holds, on the list.
func (w *writer) mark(st *state, urgent bool) {
	if !st.file.listed {
		st.file.listed = true
		w.mu.Lock()
		w.list = append(w.list, st)
		w.mu.Unlock()
	}
	if urgent {
		w.wake()
	}
}

// grow counts content that waits to be written, or, by a negative n, has become superfluous.
func (w *writer) grow(n int64) {
	w.mu.Lock()
	w.bytes = max(w.bytes+n, 0) // the writer may have taken what is withdrawn
	full := w.bytes >= commitBytes
	w.mu.Unlock()
	if full {
		w.wake()
	}
}

// after runs fn on the writer's goroutine once the records of all sessions marked before are durable.
func (w *writer) after(fn func()) {
	w.mu.Lock()
	w.told = append(w.told, fn)
	w.mu.Unlock()
	w.wake()
}

// afterAll runs fn once everything marked before is durable, queues and fan-out position included.
func (w *writer) afterAll(fn func()) {
	w.mu.Lock()
	w.done = append(w.done, fn)
	w.mu.Unlock()
	w.wake()
}

// wait returns when after, or afterAll, would run.
func (w *writer) wait(ctx context.Context, after func(fn func())) error {
	durable := make(chan struct{})
	after(func() { close(durable) })
	select {
	case <-durable:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.m.closed.Done():
		return ErrClosed
	}
}

func (w *writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *writer) run() {
	interval := time.NewTicker(w.m.o.CommitInterval)
	defer interval.Stop()
	for {
		select {
		case <-w.kick:
		case <-interval.C:
		case <-w.m.closed.Done():
			return
		}
		r := w.cut()
		for last := false; !last; {
			b := r.gather()
			if !w.store(b) {
				return
			}
			r.finish(b)
			last = b.last
		}
	}
}

// store commits a batch, for as long as that takes; false when the manager is closed before.
func (w *writer) store(b *batch) bool {
	for err := w.commit(b); err != nil; err = w.commit(b) {
		w.m.metrics.commitErrors.Inc()
		w.m.log.Error("session state not written, trying again", "err", err, "retry_in", commitRetry)
		select {
		case <-time.After(commitRetry):
		case <-w.m.closed.Done():
			return false
		}
	}
	return true
}

func (w *writer) commit(b *batch) error {
	if len(b.ops) == 0 && (!b.last || b.mark == w.m.marked()) {
		return nil
	}
	begun := time.Now()
	err := w.m.db.Update(func(tx *statefile.Tx) error { return b.write(tx, w.m.journal.Epoch()) })
	if err != nil {
		return fmt.Errorf("commit %d changes: %w", len(b.ops), err)
	}
	w.m.metrics.commits.Observe(time.Since(begun).Seconds())
	return nil
}
