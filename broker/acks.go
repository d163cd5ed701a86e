package broker

import "cellgate/broker/frame"

// ack is an acknowledgement that waits for its turn: they leave in the order of the PUBLISHes, each when
// its record is not beyond the mark of its mode.
type ack struct {
	seq    uint64 // of the record, or of the command in the connection; 0: ready as soon as those before it are
	id     uint16
	typ    byte // PUBACK, PUBREC or PUBCOMP
	reason byte
	mode   AckMode
	again  bool  // a repetition: it opens no exchange of its own
	record uint8 // while in a batch: 1 + the index of its record; 0 none
}

// ackQueue is a connection's pending acknowledgements, under the connection's lock.
type ackQueue struct {
	q    []ack
	head int
	// decisions are the reason codes of commands by their number, from their decision until their turn. At most a window.
	decisions map[uint64]byte
}

// decide tells the reason code of a command's acknowledgement, which may not be in the queue yet.
func (a *ackQueue) decide(seq uint64, reason byte) {
	if a.decisions == nil {
		a.decisions = make(map[uint64]byte)
	}
	a.decisions[seq] = reason
}

func (a *ackQueue) len() int { return len(a.q) - a.head }

func (a *ackQueue) push(acks []ack) {
	if a.head > 0 && len(a.q)+len(acks) > cap(a.q) {
		n := copy(a.q, a.q[a.head:])
		a.q, a.head = a.q[:n], 0
	}
	a.q = append(a.q, acks...)
}

// ackReadyLocked reports whether the first acknowledgement may leave.
func (c *conn) ackReadyLocked() bool {
	a := &c.writer.acks
	if a.head == len(a.q) {
		return false
	}
	first := &a.q[a.head]
	switch first.mode {
	case AckMemory:
		return true
	case AckKafka:
		return first.seq <= c.writer.durable && c.inKafkaLocked(first.seq)
	case ackCommand:
		_, decided := a.decisions[first.seq]
		return decided
	default:
		return first.seq <= c.writer.durable
	}
}

// inKafkaLocked reports whether Kafka has a record. If not, the connection is told when to ask again: those that follow
// have to wait for it, so one at a time is enough.
func (c *conn) inKafkaLocked(seq uint64) bool {
	if c.writer.unsettled == seq {
		return false
	}
	if c.b.settlement.Settled(seq, c) {
		return true
	}
	c.writer.unsettled = seq
	return false
}

// encodeAcksLocked encodes every acknowledgement that may leave after dst. Some of them end an exchange of MQTT 5's
// Receive Maximum (4.9): PUBACK, PUBCOMP and a refusing PUBREC.
func (c *conn) encodeAcksLocked(dst []byte) []byte {
	a, ended, traced := &c.writer.acks, 0, c.b.trace.On()
	for c.ackReadyLocked() {
		e := &a.q[a.head]
		if e.mode == ackCommand {
			e.reason = a.decisions[e.seq]
			delete(a.decisions, e.seq)
		} else if traced && e.seq != 0 && e.typ != frame.TypePubcomp {
			c.b.trace.Acknowledged(e.seq, e.reason)
		}
		dst = frame.AppendAck(dst, e.typ, e.id, e.reason, c.version)
		if e.typ != frame.TypePubrec || e.reason >= 0x80 {
			ended++
		}
		a.head++
	}
	if a.head == len(a.q) {
		a.q, a.head = a.q[:0], 0
	}
	c.writer.used = max(0, c.writer.used-ended)
	return dst
}

// release gives the memory back if nothing waits.
func (a *ackQueue) release() {
	if a.len() == 0 {
		a.q, a.head = nil, 0
	}
	if len(a.decisions) == 0 { // else one is of an acknowledgement that the reader has not queued yet
		a.decisions = nil
	}
}
