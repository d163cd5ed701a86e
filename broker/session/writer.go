package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/statefile"
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
// A batch is a consistent cut: it is gathered while no record is being fanned out, so that queues and
// fan-out position agree in every transaction. Batches are committed strictly in order, a failed one
// is repeated until it succeeds. Meanwhile the changes gather in the sessions, within their bounds.
type writer struct {
	m    *Manager
	kick chan struct{} // holds one element when somebody waits

	next      atomic.Uint64 // the number of the batch that takes what changes now, if not the one before does
	committed atomic.Uint64 // the last batch that is durable

	mu    sync.Mutex
	list  []*state // sessions with changes, in the order in which they were marked
	done  []func() // to be run when everything marked before is durable
	bytes int64    // queued content since the last batch
}

func newWriter(m *Manager) *writer {
	w := &writer{m: m, kick: make(chan struct{}, 1)}
	w.next.Store(1)
	return w
}

// mark puts a session, whose lock the caller holds, on the list.
func (w *writer) mark(st *state, urgent bool) {
	if !st.listed {
		st.listed = true
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

// after runs fn on the writer's goroutine once everything marked before is durable.
func (w *writer) after(fn func()) {
	w.mu.Lock()
	w.done = append(w.done, fn)
	w.mu.Unlock()
	w.wake()
}

// wait returns when everything marked before is durable.
func (w *writer) wait(ctx context.Context) error {
	durable := make(chan struct{})
	w.after(func() { close(durable) })
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
		b := w.gather()
		for err := w.commit(b); err != nil; err = w.commit(b) {
			w.m.metrics.commitErrors.Inc()
			w.m.log.Error("session state not written, trying again", "error", err, "retry_in", commitRetry)
			select {
			case <-time.After(commitRetry):
			case <-w.m.closed.Done():
				return
			}
		}
		w.finish(b)
	}
}

// batch is one transaction.
type batch struct {
	number   uint64
	ops      []op
	position uint64 // fan-out position
	replay   uint64 // everything up to here is in the QoS 2 identifiers too
	touched  []touched
	again    []*state // to be written again by the next batch
	done     []func()
}

// op puts a key (value not nil), removes it, or removes all keys of a client.
type op struct {
	bucket     bucket
	key, value []byte
	all        bool
}

// touched is a QoS 2 entry and the stage that the batch writes.
type touched struct {
	st    *state
	e     *entry
	stage stage
}

func (b *batch) put(bk bucket, key, value []byte) {
	b.ops = append(b.ops, op{bucket: bk, key: key, value: value})
}
func (b *batch) remove(bk bucket, key []byte) { b.ops = append(b.ops, op{bucket: bk, key: key}) }
func (b *batch) removeAll(bk bucket, client []byte) {
	b.ops = append(b.ops, op{bucket: bk, key: client, all: true})
}

// gather makes the cut.
func (w *writer) gather() *batch {
	m := w.m
	m.fanMu.Lock()
	defer m.fanMu.Unlock()
	b := &batch{number: w.next.Add(1) - 1} // before any session is looked at
	w.mu.Lock()
	list := w.list
	w.list, b.done, w.bytes = nil, w.done, 0
	w.done = nil
	w.mu.Unlock()
	b.position, b.replay = m.fanned, min(m.fanned, m.settled)
	for topic, rec := range m.retained.dirty {
		b.retained(topic, rec)
	}
	clear(m.retained.dirty)
	for _, st := range list {
		st.mu.Lock()
		st.listed = false
		st.gather(b)
		st.mu.Unlock()
	}
	return b
}

// gather adds what has changed of the session.
func (st *state) gather(b *batch) {
	id := []byte(st.id)
	if st.wipe {
		st.wipe, st.saved = false, false
		b.remove(bucketSessions, id)
		b.remove(bucketIncoming, id)
		b.removeAll(bucketQueue, id)
		b.removeAll(bucketInflight, id)
	}
	if st.ended || !st.durable {
		return
	}
	if st.unsaved || !st.saved {
		st.unsaved, st.saved = false, true
		b.put(bucketSessions, id, st.encode())
	}
	st.gatherIncoming(b, id)
	st.gatherFlow(b)
}

func (st *state) gatherIncoming(b *batch, id []byte) {
	in := st.incoming
	if in == nil || !in.dirty {
		return
	}
	value, behind, pending := in.encode(nil)
	if len(value) == 0 {
		b.remove(bucketIncoming, id)
	} else {
		b.put(bucketIncoming, id, value)
	}
	in.dirty = pending
	switch {
	case pending:
		b.replay = min(b.replay, behind)
		b.again = append(b.again, st)
	case len(in.ids) == 0:
		st.incoming = nil
	}
}

func (st *state) gatherFlow(b *batch) {
	f := st.flow
	if f == nil {
		return
	}
	for _, order := range f.removed {
		key := queueKey(st.id, order)
		b.remove(bucketQueue, key)
		b.remove(bucketInflight, key)
	}
	f.removed = nil
	for _, e := range f.dirty {
		e.dirty = false
		if e.gone || !e.durable {
			continue
		}
		key := queueKey(st.id, e.order)
		if !e.persisted {
			e.persisted = true
			b.put(bucketQueue, key, e.encode())
		}
		if e.stage != waiting {
			b.put(bucketInflight, key, encodeInflight(e.id, e.stage))
		}
		if e.qos == 2 {
			b.touched = append(b.touched, touched{st, e, e.stage})
		}
	}
	f.dirty = nil
	st.rest()
}

func (w *writer) commit(b *batch) error {
	if len(b.ops) == 0 && b.position == w.m.position.Load() && b.replay == w.m.replayed.Load() {
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

// finish tells everybody that the batch is durable.
func (w *writer) finish(b *batch) {
	w.m.position.Store(b.position)
	w.m.replayed.Store(b.replay)
	w.committed.Store(b.number)
	for _, st := range b.again {
		st.mu.Lock()
		if !st.ended {
			w.mark(st, false)
		}
		st.mu.Unlock()
	}
	for _, t := range b.touched {
		t.st.mu.Lock()
		t.st.committed(t.e, t.stage)
		t.st.unlock()
	}
	for _, t := range b.touched {
		t.st.mu.Lock()
		t.st.pump()
		t.st.unlock()
	}
	for _, fn := range b.done {
		fn()
	}
}
