package session

import "cellgate/broker/shared/message"

// Bounds of one transaction of a round.
const (
	batchOps   = 1024
	batchBytes = 1 << 20
)

// mark says up to which sequence the journal's records are in the state file.
type mark struct {
	fanned  uint64 // in the queues
	replay  uint64 // and in the QoS 2 identifiers
	settled uint64 // processed by the command service, see StoreIntakePosition
}

// round writes the state file up to a cut.
type round struct {
	w        *writer
	mark     mark
	retained []retainedChange
	content  []*state // sessions whose queues are still to be visited
	last     []*state // sessions with messages to be written with the position
	again    []*state // sessions to be visited in the next round
	urgent   bool     // somebody waits for the sessions in again
	done     []func()
	pass     marked
}

// marked is one pass: it writes the records of the sessions that were marked when it began.
type marked struct {
	number    uint64
	list      []*state
	committed []func()
	open      bool
}

type retainedChange struct {
	topic string
	rec   *message.Record // nil: removed
}

// batch is one transaction.
type batch struct {
	ops     []op
	size    int
	bytes   int
	touched []touched
	passed  *marked // the pass that this batch completes
	last    bool    // the last batch of its round
	mark    mark    // only in the last batch
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
	b.add(op{bucket: bk, key: key, value: value}, 1)
}
func (b *batch) remove(bk bucket, key []byte) { b.add(op{bucket: bk, key: key}, 1) }

// removeAll removes the keys of a client, about n.
func (b *batch) removeAll(bk bucket, client []byte, n int) {
	b.add(op{bucket: bk, key: client, all: true}, 1+n)
}

func (b *batch) add(o op, n int) {
	b.ops = append(b.ops, o)
	b.size += n
	b.bytes += len(o.key) + len(o.value)
}

func (b *batch) full() bool { return b.size >= batchOps || b.bytes >= batchBytes }

// cut begins a round. Messages after the cut stay out of it: see gatherFlow.
func (w *writer) cut() *round {
	m := w.m
	r := &round{w: w}
	m.fan.mu.Lock()
	r.mark = mark{fanned: m.fan.reached, replay: m.fan.reached, settled: m.fan.intake}
	if under := m.fan.under.Load(); under != 0 {
		r.mark.fanned, r.mark.replay = under-1, under-1
	}
	m.dropExpiredRetained(expiredAtOnce)
	dirty := m.retained.takeDirty()
	w.mu.Lock()
	r.begin()
	r.done, w.done, w.bytes = w.done, nil, 0
	w.mu.Unlock()
	m.fan.mu.Unlock()
	r.content = append(r.content, r.pass.list...)
	for topic, rec := range dirty {
		r.retained = append(r.retained, retainedChange{topic, rec})
	}
	return r
}

// begin begins a pass. The caller holds writer.mu.
func (r *round) begin() {
	w := r.w
	r.pass = marked{number: w.next.Add(1) - 1, list: w.list, committed: w.onCommit, open: true} // before any session is visited
	w.list, w.onCommit = nil, nil
}

func (r *round) gather() *batch {
	b := &batch{}
	if !r.pass.open {
		r.w.mu.Lock()
		r.begin()
		r.w.mu.Unlock()
		r.again = append(r.again, r.pass.list...)
	}
	if !r.records(b) || !r.queues(b) {
		return b
	}
	for _, st := range r.last {
		st.mu.Lock()
		st.gatherTwice(b, r.mark.fanned)
		st.mu.Unlock()
	}
	b.last, b.mark = true, r.mark
	return b
}

// records adds the records of the pass's sessions. It returns false if the batch is full before the last.
func (r *round) records(b *batch) bool {
	p := &r.pass
	for len(p.list) > 0 && !b.full() {
		st := p.list[0]
		p.list = p.list[1:]
		st.mu.Lock()
		st.file.listed = false
		after, pending := st.gatherRecord(b)
		st.mu.Unlock()
		if pending {
			r.mark.replay = min(r.mark.replay, after)
			r.again = append(r.again, st)
		}
	}
	if len(p.list) > 0 {
		return false
	}
	passed := *p
	b.passed, p.open = &passed, false
	return !b.full()
}

// queues adds the messages queued up to the cut. It returns false if the batch is full before the last.
func (r *round) queues(b *batch) bool {
	for len(r.retained) > 0 && !b.full() {
		c := r.retained[0]
		r.retained = r.retained[1:]
		b.retained(c.topic, c.rec)
	}
	for len(r.content) > 0 && !b.full() {
		st := r.content[0]
		st.mu.Lock()
		found := st.gatherFlow(b, r.mark.fanned)
		st.mu.Unlock()
		if found.left {
			return false
		}
		r.content = r.content[1:]
		r.urgent = r.urgent || found.urgent
		if found.later {
			r.again = append(r.again, st)
		}
		if found.last {
			r.last = append(r.last, st)
		}
	}
	return len(r.retained) == 0 && len(r.content) == 0
}

// gatherRecord adds the session's own record, the QoS 2 identifiers of its client, and the changed stages of stored
// messages. If pending, identifiers are still to come whose messages are after the sequence after.
func (st *state) gatherRecord(b *batch) (after uint64, pending bool) {
	id := []byte(st.id)
	if st.file.wipe {
		b.remove(bucketSessions, id)
		b.remove(bucketIncoming, id)
		b.removeAll(bucketQueue, id, int(st.file.wipes))
		b.removeAll(bucketInflight, id, 0)
		st.file.wipe, st.file.saved, st.file.wipes = false, false, 0
	}
	if st.ended || !st.durable {
		return 0, false
	}
	if st.file.unsaved || !st.file.saved {
		st.file.unsaved, st.file.saved = false, true
		b.put(bucketSessions, id, st.encode())
	}
	if f := st.flow; f != nil {
		for _, e := range f.moved {
			if e.dirty = false; !e.gone {
				st.putInflight(b, e, queueKey(st.id, e.order))
			}
		}
		f.moved = nil
	}
	return st.gatherIncoming(b, id)
}

func (st *state) gatherIncoming(b *batch, id []byte) (after uint64, pending bool) {
	in := st.incoming
	if in == nil || !in.dirty {
		return 0, false
	}
	value, after, pending := in.encode(nil)
	if len(value) == 0 {
		b.remove(bucketIncoming, id)
	} else {
		b.put(bucketIncoming, id, value)
	}
	if in.dirty = pending; !pending && len(in.ids) == 0 {
		st.incoming = nil
	}
	return after, pending
}

func (st *state) putInflight(b *batch, e *entry, key []byte) {
	if e.stage != waiting {
		b.put(bucketInflight, key, encodeInflight(e.id, e.stage))
	}
	if e.qos == 2 {
		b.touched = append(b.touched, touched{st, e, e.stage})
	}
}

func (st *state) putEntry(b *batch, e *entry) {
	e.dirty, e.persisted = false, true
	key := queueKey(st.id, e.order)
	b.put(bucketQueue, key, e.encode())
	st.putInflight(b, e, key)
}

// found says what gatherFlow has not added.
type found struct {
	left   bool // the batch is full
	last   bool // messages of QoS 2, to be written with the position
	later  bool // messages after the cut
	urgent bool // some of these have QoS 2: they are sent only after they are written
}

// gatherFlow adds new messages of the queue and removes those that have left it.
func (st *state) gatherFlow(b *batch, cut uint64) (what found) {
	f := st.flow
	if f == nil || st.ended || !st.durable {
		return found{}
	}
	if !st.file.saved {
		return found{later: true}
	}
	for len(f.removed) > 0 && !b.full() {
		key := queueKey(st.id, f.removed[len(f.removed)-1])
		f.removed = f.removed[:len(f.removed)-1]
		b.remove(bucketQueue, key)
		b.remove(bucketInflight, key)
	}
	kept := f.dirty[:0]
	for _, e := range f.dirty {
		switch {
		case e.gone || !e.durable:
			e.dirty = false
		case e.body.seq > cut:
			what.later, what.urgent = true, what.urgent || e.qos == 2
			kept = append(kept, e)
		case e.qos == 2:
			what.last, kept = true, append(kept, e)
		case b.full():
			what.left, kept = true, append(kept, e)
		default:
			st.putEntry(b, e)
		}
	}
	clear(f.dirty[len(kept):])
	f.dirty = kept
	what.left = what.left || len(f.removed) > 0
	st.rest()
	return what
}

// gatherTwice adds the messages of QoS 2, which must be written with the position: otherwise a crash would fan them out
// twice.
func (st *state) gatherTwice(b *batch, cut uint64) {
	f := st.flow
	if f == nil || st.ended || !st.durable {
		return
	}
	kept := f.dirty[:0]
	for _, e := range f.dirty {
		switch {
		case e.gone:
			e.dirty = false
		case e.qos == 2 && e.body.seq <= cut:
			st.putEntry(b, e)
		default:
			kept = append(kept, e)
		}
	}
	clear(f.dirty[len(kept):])
	f.dirty = kept
	st.rest()
}

// finish notifies everyone who waits for the batch that it is durable.
func (r *round) finish(b *batch) {
	w := r.w
	if b.passed != nil {
		w.committed.Store(b.passed.number)
	}
	if b.last {
		w.m.stored.fanned.Store(b.mark.fanned)
		w.m.stored.replay.Store(b.mark.replay)
		w.m.stored.settled.Store(b.mark.settled)
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
	if b.passed != nil {
		for _, fn := range b.passed.committed {
			fn()
		}
	}
	if !b.last {
		return
	}
	for _, st := range r.again {
		st.mu.Lock()
		if !st.ended {
			w.mark(st, false)
		}
		st.mu.Unlock()
	}
	if r.urgent {
		w.wake()
	}
	for _, fn := range r.done {
		fn()
	}
}
