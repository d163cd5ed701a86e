package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/field"
)

// Cell knows which gateway of the cell has a vehicle, and keeps the vehicles' sessions for all of them. Only Claim
// waits, and no method calls the manager back.
type Cell interface {
	// Claim says that a vehicle is connected here, and waits briefly for what the cell knows about it.
	Claim(ctx context.Context, key string) Claim
	// Attached says that the connection of a claim has its session. It returns false if another gateway has the vehicle
	// by now.
	Attached(key string, claim uint64) bool
	// Changed says that the vehicle's Portable has changed.
	Changed(key string)
	// Stored calls fn once the cell has stored the state of Portable at the time of the call, or when that takes too
	// long.
	Stored(key string, fn func())
}

// Claim is the cell's answer for a connected vehicle.
type Claim struct {
	// Number identifies the claim; it is never 0.
	Number uint64
	// Known is set when the cell has answered. Then Session is the vehicle's session, nil if it has none, and Ended is
	// when its connection ended, zero if unknown. Here means that this gateway was the last to have the vehicle, so its
	// own state is at least as new.
	Known, Here bool
	Session     []byte
	Ended       time.Time
	// Epoch returns the epoch of the connection's records, also when the connection has ended: its last records may be
	// journaled when the next connection, at another gateway, has a later epoch.
	Epoch func() uint64
	// Ready is closed when the vehicle's messages may be accepted: the cell may first have to put something into the
	// journal. Nil means at once.
	Ready <-chan struct{}
}

// claim claims the vehicle in the cell and takes over the session that the cell has.
func (m *Manager) claim(ctx context.Context, a *Attach) error {
	if m.o.Cell == nil || !a.Vehicle {
		return nil
	}
	c := m.o.Cell.Claim(ctx, a.Key)
	a.claim, a.epoch, a.ready = c.Number, c.Epoch, c.Ready
	old := m.lookup(a.Key)
	if !c.Known || c.Here && old != nil {
		return nil
	}
	a.replaces = c.Session != nil
	if old != nil {
		old.mu.Lock()
		old.cancelWill()
		old.end(errSessionEnded)
		old.leave()
		old.unlock()
	}
	if c.Session == nil {
		return nil
	}
	a.adopted = true
	return m.adopt(a.Key, c.Session, c.Ended)
}

// adopt makes a session from another gateway's Portable.
func (m *Manager) adopt(key string, data []byte, ended time.Time) error {
	st := &state{m: m, id: key, vehicle: true, durable: true, since: m.wall(), floor: m.journal.Last()}
	queued, err := st.decodePortable(data)
	if err != nil {
		return err
	}
	if !ended.IsZero() {
		if st.endsAt = deadline(m.passed(millis(ended)), st.expiry); st.expired(m.now()) {
			return nil
		}
	}
	m.metrics.sessions.Inc()
	m.sessions.put(st)
	st.mu.Lock()
	defer st.unlock()
	for i := range st.subs {
		if _, plain, _ := message.SplitShare(st.subs[i].Filter); !st.own(plain) {
			m.index.Subscribe(key, st.subs[i], st.floor)
		}
	}
	st.requeue(queued)
	st.changed(true)
	st.schedule()
	return nil
}

// requeue queues messages that were queued at another gateway.
func (st *state) requeue(queued []*entry) {
	for _, e := range queued {
		_ = st.enqueue(e) // counted
	}
	if len(queued) > 0 {
		st.m.writer.mark(st, true)
	}
}

// Merge adds the subscriptions and messages of the cell's session to one that was resumed before the cell answered. The
// client was told that its session is present, so it relies on all of them.
func (m *Manager) Merge(key string, claim uint64, data []byte) {
	st, from := m.lookup(key), &state{m: m, id: key}
	if data == nil || st == nil {
		return
	}
	queued, err := from.decodePortable(data)
	if err != nil {
		return
	}
	m.fan.mu.Lock()
	since := m.fan.reached
	m.fan.mu.Unlock()
	st.mu.Lock()
	defer st.unlock()
	if st.claim != claim || st.ended || st.link.conn == nil || !st.link.resumed {
		return
	}
	for _, sub := range from.subs {
		if i, has := st.findSub(sub.Filter); !has && st.refuse(sub.Filter, false) == 0 {
			st.subs = insertSub(st.subs, i, sub)
			if _, plain, _ := message.SplitShare(sub.Filter); !st.own(plain) {
				m.index.Subscribe(key, sub, since)
			}
			st.subsChanged()
		}
	}
	st.requeue(queued)
	st.reportReady()
	st.pump()
}

// Moved drops the state of a vehicle that another gateway of the cell has taken over, and ends its connection. It does
// nothing unless claim is the session's current claim; 0 means a session without a claim in this run.
func (m *Manager) Moved(key string, claim uint64) {
	st := m.lookup(key)
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.unlock()
	if st.claim != claim || st.ended {
		return
	}
	if st.link.conn != nil {
		st.link.kick(ReasonTakeover)
		st.link.conn.Kick(frame.ReasonTakenOver, "")
		m.metrics.takeovers.Inc()
		st.moved = true // the session ends with the connection, whose will may be due then
		return
	}
	st.cancelWill()
	st.end(errSessionEnded)
	st.leave()
}

// cancelWill discards a waiting will because the vehicle is connected elsewhere.
func (st *state) cancelWill() {
	if st.willAt != 0 {
		st.will, st.willAt = nil, 0
		st.m.metrics.wills.WithLabelValues("cancelled").Inc()
	}
}

// leaveMoved ends the session of a connection that another gateway has taken over. Its will is sent now or discarded,
// since the other gateway does not know it.
func (st *state) leaveMoved(now int64) {
	if st.willAt > now {
		st.cancelWill()
	}
	st.end(errSessionEnded)
	if st.willAt == 0 {
		st.leave()
	}
}

// The format versions of Portable, its first byte: 2 if there are QoS 2 identifiers.
const (
	portable1 = 1
	portable2 = 2
)

// maxMoved bounds the queued messages in Portable, in bytes.
const maxMoved = 16 << 10

// Portable encodes a vehicle's session for another gateway. It returns false if there is none that outlives its
// connection. It may leave this gateway once the journal is durable up to the sequence needs: otherwise the identifier of a message
// that is lost with the journal's tail could reach another gateway, which would take the client's repeat for a duplicate. Without a connection it includes the oldest queued messages. Those of an open connection are being
// delivered, and commands are kept by the cell itself. The will is not included:
//
//	form      1 byte    1 or 2
//	flags     1 byte    never expires 5
//	version   1 byte    4 or 5
//	expiry    uvarint   ms
//	subs      uvarint   count; each as in the state file
//	incoming  uvarint   count; each: QoS 2 identifier (2); in form 2 also the sum of its message (8), 0 if it is not known
//	queued    messages, if any; each: length uvarint, and as in the state file, with a wall clock time as its expiry
func (m *Manager) Portable(key string) (session []byte, needs uint64, has bool) {
	st := m.lookup(key)
	if st == nil {
		return nil, 0, false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended || !st.durable || !st.vehicle {
		return nil, 0, false
	}
	flags, expiry := byte(0), uint64(st.expiry.Milliseconds()) //nolint:gosec // never negative
	if st.expiry == MaxExpiry {
		flags, expiry = flagNever, 0
	}
	ids := st.journaledIDs()
	form := byte(portable1)
	if len(ids) > 0 {
		form = portable2
	}
	dst := append(make([]byte, 0, 64), form, flags, st.version)
	for _, v := range []uint64{expiry, uint64(len(st.subs))} {
		dst = binary.AppendUvarint(dst, v)
	}
	for i := range st.subs {
		dst = st.subs[i].append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for _, id := range ids {
		r := st.incoming.ids[id]
		dst, needs = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(dst, id), r.sum), max(needs, r.seq)
	}
	if st.link.conn == nil && st.flow != nil {
		dst = st.appendQueued(dst)
	}
	return dst, needs, true
}

// journaledIDs returns the QoS 2 identifiers whose messages are in a journal, in order.
func (st *state) journaledIDs() []uint16 {
	if st.incoming == nil {
		return nil
	}
	var ids []uint16
	for id, r := range st.incoming.ids {
		if !r.pending {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// appendQueued appends the oldest queued messages that the session keeps on disk.
func (st *state) appendQueued(dst []byte) []byte {
	f := st.flow
	end := len(dst) + maxMoved
	for _, list := range [][]*entry{f.inflight, f.waiting.list[f.waiting.head:]} {
		for _, e := range list {
			if !e.durable {
				continue
			}
			moved := *e
			if at := e.body.expires; at != 0 {
				moved.body = &body{}
				*moved.body = *e.body
				moved.body.expires = millis(st.m.instant(at))
			}
			next := field.AppendBytes(dst, string(moved.encode()))
			if len(next) > end {
				return dst
			}
			dst = next
		}
	}
	return dst
}

// decodePortable fills a session from Portable and returns its queued messages. The messages of its QoS 2 identifiers are
// durable in the other gateway's journal.
func (st *state) decodePortable(b []byte) (queued []*entry, err error) {
	r := field.Reader{B: b}
	form := r.Byte()
	if form != portable1 && form != portable2 {
		return nil, fmt.Errorf("%w: form %d of a session from the cell, this version knows %d and %d", errFormat, form, portable1, portable2)
	}
	flags := r.Byte()
	st.version, st.expiry = r.Byte(), time.Duration(r.Uvarint())*time.Millisecond //nolint:gosec // written from a Duration
	if flags&flagNever != 0 {
		st.expiry = MaxExpiry
	}
	for n := r.Count(3); n > 0; n-- {
		st.subs = append(st.subs, subscription(&r))
	}
	if n := r.Count(2); n > 0 {
		st.incoming = &incoming{ids: make(map[uint16]receipt, n)}
		for ; n > 0; n-- {
			id, one := uint16(r.Byte())<<8|uint16(r.Byte()), receipt{}
			if form == portable2 {
				one.sum = r.Uint64()
			}
			st.incoming.ids[id], st.incoming.dirty = one, true
		}
	}
	for dec := (message.Decoder{}); !r.Bad && len(r.Rest()) > 0; {
		e, err := decodeEntry(r.Bytes(), &dec)
		if err != nil {
			return nil, err
		}
		e.persisted, e.body.expires = false, st.m.passed(e.body.expires)
		queued = append(queued, e)
	}
	return queued, whole(&r)
}

// notifyCell notifies the cell that the session has changed. The caller holds the session's lock.
func (st *state) notifyCell() {
	if cell := st.m.o.Cell; cell != nil && st.vehicle {
		cell.Changed(st.id)
	}
}

// inCell waits until the cell has replaced its old session by the new one, so that the vehicle's next connection does
// not find the old one.
func (m *Manager) inCell(ctx context.Context, a *Attach) {
	if !a.replaces {
		return
	}
	stored := make(chan struct{})
	m.o.Cell.Stored(a.Key, func() { close(stored) })
	select {
	case <-stored:
	case <-ctx.Done():
	}
}
