package session

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/field"
)

// incoming holds the packet identifiers of QoS 2 messages that the client has sent and not released (MQTT 5, 4.3.3), at
// most 65,535.
//
// They are not written when they change, but with the fan-out position; changes since then are in the journal and are
// replayed. An identifier is written only together with the sequence of its message: at the next start it counts only
// if the journal still contains that sequence. Otherwise, if the journal lost its tail, the client's repeat of the lost
// message would be taken for a duplicate.
type incoming struct {
	ids   map[uint16]receipt
	dirty bool
}

// receipt says where a message is in the journal.
type receipt struct {
	seq uint64 // 0: in that of another gateway
	sum uint64 // of the message of a session that may move to another gateway; 0 if it is not known
	gen uint32 // generation of the session that received it; 0: of an earlier run, or at another gateway
	// pending is set while the message is being appended to the journal; its sequence will be greater than seq.
	pending bool
}

// repeats reports whether a PUBLISH with the receipt's identifier repeats its message. On one connection every PUBLISH does until PUBREL
// (MQTT 5, 4.3.3). If the session can move, an identifier from before the connection is doubted: the client may have released it at another
// gateway that could not store that, or dropped it because it found no session there. Its next message under the identifier must not be
// taken for a repeat: it would be acknowledged and lost. Repeats on a new connection have DUP (3.3.1.1). test/model
// searches for holes in this rule; DECISIONS.md has what is left.
func (st *state) repeats(r *receipt, dup bool, sum uint64) bool {
	switch {
	case r.pending || r.gen == st.gen:
		return true
	case sum == 0:
		return r.seq != 0
	case !dup:
		return false
	case r.sum == 0:
		return r.seq != 0
	default:
		return r.sum == sum
	}
}

// sumOf returns a sum of a message of a session that may move to another gateway, otherwise 0.
func (st *state) sumOf(topic string, payload []byte) uint64 {
	if st.m.o.Cell == nil || !st.vehicle {
		return 0
	}
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(topic) // no errors
	_, _ = d.Write([]byte{0})   // occurs in no topic
	_, _ = d.Write(payload)
	return max(1, d.Sum64())
}

func (in *incoming) dropPending() {
	for id, r := range in.ids {
		if r.pending {
			delete(in.ids, id)
		}
	}
}

// ReceiveQoS2 records the packet identifier of a client's QoS 2 PUBLISH before its journal append. duplicate means that
// the identifier is in use: the message is in the journal under seq (0: in that of another gateway), or is being appended after seq, and
// must not be appended again; its PUBREC waits for it.
func (s *Session) ReceiveQoS2(id uint16, dup bool, topic string, payload []byte) (seq uint64, duplicate bool) {
	st := s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if !s.live() {
		return 0, false
	}
	if st.incoming == nil {
		st.incoming = &incoming{ids: make(map[uint16]receipt)}
	}
	sum := st.sumOf(topic, payload)
	if r, used := st.incoming.ids[id]; used && st.repeats(&r, dup, sum) {
		return r.seq, true
	}
	st.incoming.ids[id] = receipt{seq: st.m.journal.Last(), pending: true, gen: st.gen, sum: sum}
	st.incomingChanged()
	return 0, false
}

// JournaledQoS2 records the journal sequence of a QoS 2 PUBLISH that was passed to ReceiveQoS2. The connection calls it
// right after the append. The identifier is persisted only from then on.
func (s *Session) JournaledQoS2(id uint16, seq uint64) {
	s.changeQoS2(id, func(ids map[uint16]receipt) { ids[id] = receipt{seq: seq, gen: ids[id].gen, sum: ids[id].sum} })
}

// CancelQoS2 removes an identifier whose append failed.
func (s *Session) CancelQoS2(id uint16) {
	s.changeQoS2(id, func(ids map[uint16]receipt) { delete(ids, id) })
}

// ReleaseQoS2 frees the identifier on the client's PUBREL. known is false if it was not in use (MQTT 5: PUBCOMP 0x92).
func (s *Session) ReleaseQoS2(id uint16) (known bool) {
	return s.changeQoS2(id, func(ids map[uint16]receipt) { delete(ids, id) })
}

// changeQoS2 applies a change to an identifier that is in use.
func (s *Session) changeQoS2(id uint16, change func(map[uint16]receipt)) (known bool) {
	st := s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if !s.live() || st.incoming == nil {
		return false
	}
	if _, known = st.incoming.ids[id]; known {
		change(st.incoming.ids)
		st.incomingChanged()
	}
	return known
}

func (st *state) incomingChanged() {
	if st.durable {
		st.incoming.dirty = true
		st.m.writer.mark(st, false)
		st.notifyCell()
	}
}

// ReplayFrom returns the first sequence that the fan-out loop would have to read if the process started now, at most
// Position()+1. The journal must keep everything from there on.
func (m *Manager) ReplayFrom() uint64 { return m.stored.replay.Load() + 1 }

// Replay restores the QoS 2 identifiers that clients use from one journal record. At start-up, before any Attach, the
// fan-out loop calls it in order for all records from ReplayFrom.
func (m *Manager) Replay(rec *message.Record) {
	switch rec.Kind {
	case message.KindPublish:
		if rec.QoS != 2 || rec.PacketID == 0 { // 0: a will
			return
		}
	case message.KindRelease, message.KindSessionReset:
	default:
		return
	}
	st := m.lookup(rec.Client)
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.unlock()
	if !st.durable || rec.Seq <= st.floor {
		return
	}
	if st.incoming == nil {
		st.incoming = &incoming{ids: make(map[uint16]receipt)}
	}
	switch rec.Kind {
	case message.KindPublish:
		st.incoming.ids[rec.PacketID] = receipt{seq: rec.Seq, sum: st.sumOf(rec.Topic, rec.Payload)}
	case message.KindRelease:
		delete(st.incoming.ids, rec.PacketID)
	default:
		clear(st.incoming.ids)
	}
	st.incomingChanged()
}

// encode appends the identifiers whose messages are in the journal. If pending, others are still to come, all with
// sequences greater than after.
func (in *incoming) encode(dst []byte) (out []byte, after uint64, pending bool) {
	var summed []byte
	for id, r := range in.ids {
		switch {
		case r.pending:
			if !pending || r.seq < after {
				after, pending = r.seq, true
			}
		case r.sum == 0:
			dst = binary.AppendUvarint(binary.BigEndian.AppendUint16(dst, id), r.seq)
		default:
			summed = binary.AppendUvarint(binary.BigEndian.AppendUint16(summed, id), r.seq)
			summed = binary.BigEndian.AppendUint64(summed, r.sum)
		}
	}
	if len(summed) > 0 {
		dst = append(append(dst, 0, 0), summed...)
	}
	return dst, after, pending
}

// decodeIncoming decodes the output of encode. last is the journal's end: messages after it are lost.
func decodeIncoming(b []byte, last uint64) (*incoming, bool) {
	in, r, summed := &incoming{ids: make(map[uint16]receipt)}, field.Reader{B: b}, false
	for !r.Bad && len(r.Rest()) > 0 {
		id := uint16(r.Byte())<<8 | uint16(r.Byte())
		if id == 0 && !summed {
			summed = true
			continue
		}
		one := receipt{seq: r.Uvarint()}
		if summed {
			one.sum = r.Uint64()
		}
		if one.seq <= last {
			in.ids[id] = one
		}
	}
	return in, !r.Bad
}
