package session

import (
	"encoding/binary"

	"cellgate/broker/shared/message"
)

// incoming are the packet identifiers of QoS 2 messages that the client has sent and not released (MQTT 5,
// 4.3.3). At most 65,535 by the size of the number.
//
// They are not written when they change, but with the fan-out position; what happened since is
// in the journal and is replayed. An identifier is written only together with the sequence of
// its message: at the next start it counts only if the journal still ends after that. Without this an
// identifier whose message was lost with the journal's tail would make the client's repeat, by which that
// message would come again, look like a duplicate.
type incoming struct {
	ids   map[uint16]receipt
	dirty bool
}

// receipt tells where a message is in the journal.
type receipt struct {
	seq uint64
	// pending: the message is on its way to the journal; it will come after seq.
	pending bool
}

func (in *incoming) dropPending() {
	for id, r := range in.ids {
		if r.pending {
			delete(in.ids, id)
		}
	}
}

// ReceiveQoS2 notes the packet identifier of a QoS 2 PUBLISH from the client, before its journal append.
// duplicate means that the identifier is in use: the message is in the journal under seq, or on its way to it (seq is then
// before it), and must not be appended again; its PUBREC waits for it.
func (s *Session) ReceiveQoS2(id uint16) (seq uint64, duplicate bool) {
	st := s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if !s.live() {
		return 0, false
	}
	if st.incoming == nil {
		st.incoming = &incoming{ids: make(map[uint16]receipt)}
	}
	if r, duplicate := st.incoming.ids[id]; duplicate {
		return r.seq, true
	}
	st.incoming.ids[id] = receipt{seq: st.m.journal.Last(), pending: true}
	st.incomingChanged()
	return 0, false
}

// JournaledQoS2 tells the journal sequence of a QoS 2 PUBLISH that ReceiveQoS2 has noted; the connection
// calls it right after the append. Only from then on is the identifier persisted.
func (s *Session) JournaledQoS2(id uint16, seq uint64) {
	s.changeQoS2(id, func(ids map[uint16]receipt) { ids[id] = receipt{seq: seq} })
}

// CancelQoS2 forgets an identifier whose append failed.
func (s *Session) CancelQoS2(id uint16) {
	s.changeQoS2(id, func(ids map[uint16]receipt) { delete(ids, id) })
}

// ReleaseQoS2 frees the identifier on the client's PUBREL. known is false when it was not in use (MQTT 5:
// PUBCOMP 0x92).
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
		st.tellCell()
	}
}

// ReplayFrom is the first sequence that the fan-out loop would have to read if the process started now: at
// most Position()+1. The journal must keep everything from there on.
func (m *Manager) ReplayFrom() uint64 { return m.stored.replay.Load() + 1 }

// Replay restores the QoS 2 identifiers that clients use from one journal record. The fan-out loop calls it at
// start-up, before any Attach, for all records from ReplayFrom, in order.
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
		st.incoming.ids[rec.PacketID] = receipt{seq: rec.Seq}
	case message.KindRelease:
		delete(st.incoming.ids, rec.PacketID)
	default:
		clear(st.incoming.ids)
	}
	st.incomingChanged()
}

// encode appends the identifiers that are in the journal; after is the lowest place after which one that
// is not yet there will come, if there is any.
func (in *incoming) encode(dst []byte) (out []byte, after uint64, pending bool) {
	for id, r := range in.ids {
		if r.pending {
			if !pending || r.seq < after {
				after, pending = r.seq, true
			}
			continue
		}
		dst = binary.BigEndian.AppendUint16(dst, id)
		dst = binary.AppendUvarint(dst, r.seq)
	}
	return dst, after, pending
}

// decodeIncoming reads what encode wrote. last is the journal's end: what is after it is lost.
func decodeIncoming(b []byte, last uint64) (*incoming, bool) {
	in := &incoming{ids: make(map[uint16]receipt)}
	for len(b) > 0 {
		if len(b) < 3 {
			return nil, false
		}
		id := binary.BigEndian.Uint16(b)
		seq, n := binary.Uvarint(b[2:])
		if n <= 0 {
			return nil, false
		}
		if seq <= last {
			in.ids[id] = receipt{seq: seq}
		}
		b = b[2+n:]
	}
	return in, true
}
