package session

import (
	"slices"

	"cellgate/broker/shared/message"
)

// body is a message as its subscribers share it; it never changes.
type body struct {
	topic   string
	payload []byte
	props   message.Properties
	expires int64 // ms; 0 never
	seq     uint64
	qos     byte // as published
	retain  bool // as published
}

// entryOverhead is what a queued message costs beside its content, in bytes.
const entryOverhead = 128

func (b *body) size() int64 {
	n := entryOverhead + len(b.topic) + len(b.payload) + len(b.props.ContentType) + len(b.props.ResponseTopic) + len(b.props.Correlation)
	for i := range b.props.User {
		n += 32 + len(b.props.User[i].Name) + len(b.props.User[i].Value)
	}
	return int64(n)
}

// newBody copies a record.
func (m *Manager) newBody(r *message.Record) *body {
	c := r.Clone()
	return bodyOf(&c, m.expiry(&c))
}

// bodyOf takes a record over that does not change any more.
func bodyOf(c *message.Record, expires int64) *body {
	return &body{topic: c.Topic, payload: c.Payload, props: c.Props, seq: c.Seq, qos: c.QoS, retain: c.Retain, expires: expires}
}

// stage is how far a message has come; it only rises. Its numbers are in the state file.
type stage uint8

const (
	waiting  stage = 0 // without a packet identifier
	assigned stage = 1 // has its packet identifier and is to be sent, or was
	released stage = 2 // QoS 2: the client has it, PUBREL is to be sent, or was
)

// entry is one message in one session's queue.
type entry struct {
	body *body
	d    *message.Delivery // a directed message's callbacks; nil for others
	ids  []uint32          // subscription identifiers
	// shared are the shared filters for which the message came here: another member gets it when the session ends.
	shared []string
	order  uint64 // rises within the session; the key in the state file
	id     uint16 // packet identifier from stage assigned on

	qos    byte
	retain bool
	stage  stage
	stored stage // QoS 2: the stage that the state file is known to have

	sent    bool // a PUBLISH has been sent, on whichever connection
	counted bool // it was sent on this connection, so it takes of the client's Receive Maximum
	relDue  bool // a PUBREL is to be sent although the entry is after flow.next

	durable   bool // to be kept in the state file
	persisted bool // in the state file, or will be before any later batch is written
	dirty     bool // in flow.dirty or flow.moved
	gone      bool // out of the queue
}

// urgent messages are directed ones that were asked for so.
func (e *entry) urgent() bool { return e.d != nil && e.d.Urgent }

// flow is a session's outgoing messages.
type flow struct {
	waiting  fifo
	inflight []*entry // in the order in which they were first sent
	// next is the first of inflight that has not been sent on this connection.
	next int
	// window counts the PUBLISH packets of this connection that are not settled.
	window   int
	releases int // entries with relDue
	bytes    int64
	order    uint64
	// expiring is not after the earliest expiry of any waiting message, in ms; 0 when none expires.
	expiring int64

	dirty   []*entry // to be written
	moved   []*entry // in the state file, and further than that knows
	removed []uint64 // orders to be removed from the state file

	aliases map[string]uint16 // topic aliases that the client knows on this connection
}

func (f *flow) len() int { return f.waiting.len() + len(f.inflight) }

// find returns the place of a packet identifier in flight, or -1. Clients acknowledge in order, so it is
// nearly always the first place.
func (f *flow) find(id uint16) int {
	return slices.IndexFunc(f.inflight, func(e *entry) bool { return e.id == id })
}

// fifo is a queue that reuses its array.
type fifo struct {
	list []*entry
	head int
}

func (q *fifo) len() int      { return len(q.list) - q.head }
func (q *fifo) front() *entry { return q.list[q.head] }
func (q *fifo) push(e *entry) { q.list = append(q.list, e) }

// pushUrgent puts an entry before all that are not urgent, and after those that are.
func (q *fifo) pushUrgent(e *entry) {
	at := q.head
	for at < len(q.list) && q.list[at].urgent() {
		at++
	}
	q.list = slices.Insert(q.list, at, e)
}

func (q *fifo) pop() *entry {
	e := q.list[q.head]
	q.list[q.head] = nil
	q.head++
	switch {
	case q.head == len(q.list):
		q.list, q.head = q.list[:0], 0
	case q.head >= 64 && q.head*2 >= len(q.list):
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	return e
}

// remove takes out all entries for which fn returns true.
func (q *fifo) remove(fn func(*entry) bool) {
	q.list = append(q.list[:0], slices.DeleteFunc(q.list[q.head:], fn)...)
	clear(q.list[len(q.list):cap(q.list)])
	q.head = 0
}

// enqueue puts a message after the others, or fails with ErrQueueFull.
func (st *state) enqueue(e *entry) error {
	size := e.body.size()
	if st.admit(letter{directed: e.d != nil, durable: e.durable, size: size}) != "" {
		return ErrQueueFull
	}
	st.push(e, size)
	return nil
}

// letter is what the bounds want to know of a message.
type letter struct {
	directed bool // to this client
	durable  bool
	size     int64
}

// admit tells which bound stands in the way of a message, which is then counted as dropped.
func (st *state) admit(l letter) (reason string) {
	if st.flow == nil {
		st.flow = &flow{}
	}
	if reason = st.fullFor(st.flow, l); reason != "" {
		st.drop(reason)
		st.rest()
	}
	return reason
}

// push puts a message that has been admitted after the others.
func (st *state) push(e *entry, size int64) {
	f := st.flow
	f.order++
	e.order = f.order
	if e.urgent() {
		f.waiting.pushUrgent(e)
	} else {
		f.waiting.push(e)
	}
	f.bytes += size
	st.account(1, size)
	if at := e.body.expires; at != 0 && (f.expiring == 0 || at < f.expiring) {
		f.expiring = at
	}
	if e.durable {
		st.save(e, false)
		st.m.writer.grow(size)
	}
}

// fullFor makes room if the policy and the clock allow, and tells which bound stands in the way.
func (st *state) fullFor(f *flow, l letter) string {
	bound := st.overBound(f, l)
	if bound == "" {
		return ""
	}
	if now := st.m.now(); f.expiring != 0 && f.expiring <= now {
		st.dropExpired(f, now)
		bound = st.overBound(f, l)
	}
	if st.m.bounds.Load().Overflow == DropOldest {
		for bound != "" && bound != dropStateFull && f.waiting.len() > 0 {
			st.discard(f, f.waiting.pop(), dropOldest, ErrQueueFull)
			bound = st.overBound(f, l)
		}
	}
	return bound
}

// overBound tells which bound a message exceeds. One that is directed to this client, a command, has room that copies for
// subscribers cannot take: a part of what all queues may hold, and the state file while the disk is short.
func (st *state) overBound(f *flow, l letter) string {
	size := l.size
	o, total := st.m.bounds.Load(), st.m.totalBytes.Load()
	switch {
	case f.len() >= o.MaxQueuedMessages:
		return dropQueueMessages
	case f.bytes+size > o.MaxQueuedBytes:
		return dropQueueBytes
	case l.directed && total+size > o.MaxTotalBytes:
		return dropTotalBytes
	case l.directed:
		return ""
	case l.durable && st.m.o.DiskShort():
		return dropStateFull
	case st.share != nil:
		return st.share.overBound(o, o.forSubscribers()-total, size)
	case total+size > o.forSubscribers():
		return dropTotalBytes
	}
	return ""
}

// dropExpired drops the waiting messages that have expired, and finds the next expiry.
func (st *state) dropExpired(f *flow, now int64) {
	f.expiring = 0
	f.waiting.remove(func(e *entry) bool {
		at := e.body.expires
		if at != 0 && at <= now {
			st.discard(f, e, dropExpired, ErrExpired)
			return true
		}
		if at != 0 && (f.expiring == 0 || at < f.expiring) {
			f.expiring = at
		}
		return false
	})
}

// discard settles an entry, already out of the queue, that will not reach the client.
func (st *state) discard(f *flow, e *entry, reason string, err error) {
	st.settle(f, e)
	st.m.metrics.dropped.WithLabelValues(reason).Inc()
	if e.d != nil && e.d.Failed != nil {
		failed := e.d.Failed
		st.after = append(st.after, func() { failed(err) })
	}
}

// settle ends an entry's account in memory and in the state file.
func (st *state) settle(f *flow, e *entry) {
	size := e.body.size()
	f.bytes -= size
	st.account(-1, -size)
	e.gone = true
	switch {
	case e.persisted:
		f.removed = append(f.removed, e.order)
		st.m.writer.mark(st, false)
	case e.durable:
		st.m.writer.grow(-size) // it need not be written any more
	}
}

// cut takes an entry out of the in-flight window.
func (f *flow) cut(i int) *entry {
	e := f.inflight[i]
	f.inflight = slices.Delete(f.inflight, i, i+1)
	if i < f.next {
		f.next--
	}
	if e.counted {
		f.window--
	}
	if e.relDue {
		f.releases--
	}
	return e
}

// save notes that an entry must be written; urgent when the client waits for it.
func (st *state) save(e *entry, urgent bool) {
	if f := st.flow; !e.dirty {
		e.dirty = true
		list := &f.dirty
		if e.persisted {
			list = &f.moved
		}
		if len(*list) > 2*f.len()+64 {
			*list = slices.DeleteFunc(*list, func(e *entry) bool { return e.gone })
		}
		*list = append(*list, e)
	}
	st.m.writer.mark(st, urgent)
}

// failAll drops everything that is queued or in flight: the session has ended.
func (st *state) failAll(err error) {
	f := st.flow
	if f == nil {
		return
	}
	var moved []*entry
	for _, e := range slices.Concat(f.inflight, f.waiting.list[f.waiting.head:]) {
		if !e.movable() {
			st.discard(f, e, dropSessionEnded, err)
			continue
		}
		st.settle(f, e)
		moved = append(moved, e)
	}
	st.flow = nil
	if len(moved) > 0 {
		st.after = append(st.after, func() { st.m.reassign(st.id, moved) })
	}
}

// forgetDurable makes every message one that is kept in memory alone.
func (st *state) forgetDurable() {
	f := st.flow
	if f == nil {
		return
	}
	for _, e := range f.inflight {
		e.durable, e.persisted = false, false
	}
	for _, e := range f.waiting.list[f.waiting.head:] {
		e.durable, e.persisted = false, false
	}
	f.dirty, f.moved, f.removed = nil, nil, nil
}

// rewind makes everything in flight due again, for the next connection, and forgets what does not outlive a
// connection: aliases, and messages of QoS 0.
func (st *state) rewind() {
	f := st.flow
	if f == nil {
		return
	}
	f.next, f.window, f.releases, f.aliases = 0, 0, 0, nil
	for _, e := range f.inflight {
		e.counted, e.relDue = false, false
	}
	f.waiting.remove(func(e *entry) bool {
		if e.qos > 0 {
			return false
		}
		st.discard(f, e, dropOffline, ErrNotConnected)
		return true
	})
	st.rest()
}

// rest lets go of a flow that has nothing left to say.
func (st *state) rest() {
	f := st.flow
	if f != nil && f.len() == 0 && len(f.dirty) == 0 && len(f.removed) == 0 && f.aliases == nil {
		st.flow = nil
	}
}

// account keeps the sums over all sessions, and over those of the owner.
func (st *state) account(messages, bytes int64) {
	m := st.m
	m.totalBytes.Add(bytes)
	if st.share != nil {
		st.share.bytes.Add(bytes)
	}
	m.metrics.queued.Add(float64(messages))
	m.metrics.queuedBytes.Add(float64(bytes))
}
