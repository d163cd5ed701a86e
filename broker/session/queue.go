package session

import (
	"slices"

	"cellgate/broker/shared/message"
)

// body is the content of a message, shared by its subscribers. It never changes.
type body struct {
	topic   string
	payload []byte
	props   message.Properties
	expires int64 // ms; 0 never
	seq     uint64
	qos     byte // as published
	retain  bool // as published
}

// entryOverhead is the memory in bytes that a queued message takes in addition to its content.
const entryOverhead = 128

func (b *body) size() int64 {
	n := entryOverhead + len(b.topic) + len(b.payload) + len(b.props.ContentType) + len(b.props.ResponseTopic) + len(b.props.Correlation)
	for i := range b.props.User {
		n += 32 + len(b.props.User[i].Name) + len(b.props.User[i].Value)
	}
	return int64(n)
}

// newBody makes a body from a copy of the record.
func (m *Manager) newBody(r *message.Record) *body {
	c := r.Clone()
	return bodyOf(&c, m.expiry(&c))
}

// bodyOf makes a body from a record that no longer changes.
func bodyOf(c *message.Record, expires int64) *body {
	return &body{topic: c.Topic, payload: c.Payload, props: c.Props, seq: c.Seq, qos: c.QoS, retain: c.Retain, expires: expires}
}

// stage is the progress of a message; it only rises. The numbers are stored in the state file.
type stage uint8

const (
	waiting  stage = 0 // without a packet identifier
	assigned stage = 1 // has a packet identifier; its PUBLISH is to be sent, or was
	released stage = 2 // QoS 2: the client has it; PUBREL is to be sent, or was
)

type entry struct {
	body *body
	d    *message.Delivery // a directed message's callbacks; nil for others
	ids  []uint32          // subscription identifiers
	// shared lists the shared filters that the message matched: another member gets it when the session ends.
	shared []string
	order  uint64 // rises within the session; part of the key in the state file
	id     uint16 // packet identifier, from stage assigned on

	qos    byte
	retain bool
	stage  stage
	stored stage // QoS 2: the stage known to be in the state file

	sent    bool // a PUBLISH has been sent, on any connection
	counted bool // sent on this connection, so it counts towards the client's Receive Maximum
	relDue  bool // a PUBREL is due, and the entry is before flow.next

	durable   bool // to be kept in the state file
	persisted bool // in the state file, or will be before any later batch is written
	dirty     bool // in flow.dirty or flow.moved
	gone      bool // out of the queue
}

// urgent reports whether the message is a directed one marked urgent.
func (e *entry) urgent() bool { return e.d != nil && e.d.Urgent }

type flow struct {
	waiting  fifo
	inflight []*entry // in the order in which they were first sent
	// next is the index of the first entry of inflight that has not been sent on this connection.
	next int
	// window counts the PUBLISH packets of this connection that are not yet acknowledged.
	window   int
	releases int // entries with relDue
	bytes    int64
	order    uint64
	// expiring is a lower bound of the waiting messages' expiries, in ms; 0 when none expires.
	expiring int64

	dirty   []*entry // to be written
	moved   []*entry // in the state file at an earlier stage
	removed []uint64 // orders to be removed from the state file

	aliases map[string]uint16 // topic aliases that the client knows on this connection
}

func (f *flow) len() int { return f.waiting.len() + len(f.inflight) }

// find returns the index of a packet identifier in inflight, or -1. Clients acknowledge in order, so it is nearly
// always 0.
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

// pushUrgent inserts an entry before all that are not urgent, and after those that are.
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

// remove removes all entries for which fn returns true.
func (q *fifo) remove(fn func(*entry) bool) {
	q.list = append(q.list[:0], slices.DeleteFunc(q.list[q.head:], fn)...)
	clear(q.list[len(q.list):cap(q.list)])
	q.head = 0
}

// enqueue appends a message to the queue, or fails with errQueueFull.
func (st *state) enqueue(e *entry) error {
	size := e.body.size()
	if st.admit(letter{directed: e.d != nil, durable: e.durable, size: size}) != "" {
		return errQueueFull
	}
	st.push(e, size)
	return nil
}

// letter has the data of a message that the bounds need.
type letter struct {
	directed bool // to this client alone
	durable  bool
	size     int64
}

// admit checks the bounds for a message. It returns the bound that refuses it, and counts the message as dropped then.
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
		if st.link.conn == nil {
			st.notifyCell() // Portable includes it
		}
	}
}

// fullFor drops expired messages, and older ones if the policy is DropOldest, to make room. It returns the bound that
// still refuses the message.
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
			st.discard(f, f.waiting.pop(), dropOldest, errQueueFull)
			bound = st.overBound(f, l)
		}
	}
	return bound
}

// overBound returns the bound that a message exceeds. Directed messages (commands) have room that copies for
// subscribers cannot take: a part of MaxTotalBytes, and the state file while the disk is short.
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

// dropExpired drops the expired waiting messages and computes the next expiry.
func (st *state) dropExpired(f *flow, now int64) {
	f.expiring = 0
	f.waiting.remove(func(e *entry) bool {
		at := e.body.expires
		if at != 0 && at <= now {
			st.discard(f, e, dropExpired, errExpired)
			return true
		}
		if at != 0 && (f.expiring == 0 || at < f.expiring) {
			f.expiring = at
		}
		return false
	})
}

// discard drops an entry that is already out of the queue and will not reach the client.
func (st *state) discard(f *flow, e *entry, reason string, err error) {
	st.discharge(f, e)
	st.m.metrics.dropped.WithLabelValues(reason).Inc()
	if e.d != nil && e.d.Failed != nil {
		failed := e.d.Failed
		st.after = append(st.after, func() { failed(err) })
	}
}

// discharge removes an entry from the accounts and from the state file.
func (st *state) discharge(f *flow, e *entry) {
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

// save marks an entry to be written; urgent when the client waits for it.
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

// failAll drops everything queued or in flight because the session has ended.
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
		st.discharge(f, e)
		moved = append(moved, e)
	}
	st.flow = nil
	if len(moved) > 0 {
		st.after = append(st.after, func() { st.m.reassign(st.id, moved) })
	}
}

// forgetDurable keeps all messages in memory only from now on.
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

// rewind makes everything in flight due again for the next connection, and drops what does not outlive a connection:
// aliases, and messages of QoS 0.
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
		st.discard(f, e, dropOffline, errNotConnected)
		return true
	})
	st.rest()
}

// rest releases an empty flow.
func (st *state) rest() {
	f := st.flow
	if f != nil && f.len() == 0 && len(f.dirty) == 0 && len(f.removed) == 0 && f.aliases == nil {
		st.flow = nil
	}
}

// account adds to the totals over all sessions and over those of the owner.
func (st *state) account(messages, bytes int64) {
	m := st.m
	m.totalBytes.Add(bytes)
	if st.share != nil {
		st.share.bytes.Add(bytes)
	}
	m.metrics.queued.Add(float64(messages))
	m.metrics.queuedBytes.Add(float64(bytes))
}
