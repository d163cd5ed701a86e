package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
)

const (
	// commitBytes is the amount of unwritten queued content at which the writer commits before its interval ends.
	commitBytes = 4 << 20
	// commitRetry is the delay after a failed commit. The whole batch is written again, every page of it, so pages that
	// the kernel dropped after a failed fsync do not matter.
	commitRetry = time.Second
)

// writer writes changes to the state file from one goroutine. Each transaction contains everything that became due
// while the previous one was being committed. All others only mark changes.
//
// It works in rounds. A round begins with a cut, the current fan-out position, and ends with the transaction that makes
// this position durable. By then every message up to the cut that is still queued is in the file. A round is spread
// over several small transactions, so that other writers of the state file, above all the command service, never wait
// for the queues of all sessions. After a crash within a round, messages of QoS 1 already in the file are fanned out
// again; those of QoS 2 are written last, together with the position. Sessions' own records, which clients wait for, go
// first in every transaction.
//
// Transactions are committed strictly in order; a failed one is repeated until it succeeds. Meanwhile changes
// accumulate in the sessions, within their bounds.
type writer struct {
	m    *Manager
	kick chan struct{} // holds one element when somebody waits

	next      atomic.Uint64 // number of the pass that takes current changes, unless the pass before it does
	committed atomic.Uint64 // the last pass that is durable

	mu       sync.Mutex
	list     []*state // sessions with changes, in the order in which they were marked
	onCommit []func() // run when the records of everything marked before are durable
	done     []func() // run when queues and positions are durable, too
	bytes    int64    // queued content since the last round
}

func newWriter(m *Manager) *writer {
	w := &writer{m: m, kick: make(chan struct{}, 1)}
	w.next.Store(1)
	return w
}

// mark puts a session on the list. The caller holds the session's lock.
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

// grow adds n bytes to the content waiting to be written; n is negative for content that need not be written any more.
func (w *writer) grow(n int64) {
	w.mu.Lock()
	w.bytes = max(w.bytes+n, 0) // the writer may already have taken it
	full := w.bytes >= commitBytes
	w.mu.Unlock()
	if full {
		w.wake()
	}
}

// after runs fn on the writer's goroutine once the records of all sessions marked before are durable.
func (w *writer) after(fn func()) {
	w.mu.Lock()
	w.onCommit = append(w.onCommit, fn)
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

// wait returns when after, or afterAll, runs its function.
func (w *writer) wait(ctx context.Context, after func(fn func())) error {
	durable := make(chan struct{})
	after(func() { close(durable) })
	select {
	case <-durable:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.m.closed.Done():
		return errClosed
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

// store commits a batch, repeating it until it succeeds. It returns false if the manager is closed first.
func (w *writer) store(b *batch) bool {
	for err := w.commit(b); err != nil; err = w.commit(b) {
		w.m.metrics.commitErrors.Inc()
		w.m.log.Error("session state not written, trying again", "err", err, "retry_in", commitRetry)
		if !remote.Pause(w.m.closed, commitRetry) {
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
