package broker

import "cellgate/broker/frame"

// ack is a pending acknowledgement. Acknowledgements leave in the order of the PUBLISHes, each once its mode allows it.
type ack struct {
	seq    uint64 // record sequence, or command number of the connection; 0: due right after those before it
	id     uint16
	typ    byte // PUBACK, PUBREC or PUBCOMP
	reason byte
	why    why // what a refusing one is about
	mode   AckMode
	again  bool  // a repetition: opens no exchange
	record uint8 // within a batch: 1 + the index of its record, 0 for none
}

// ackQueue holds a connection's pending acknowledgements. The connection's lock guards it.
type ackQueue struct {
	q    []ack
	head int
	// decisions holds those of commands by number, until their acknowledgements leave. At most a
	// window.
	decisions map[uint64]decision
}

// decide records the decision for a command's acknowledgement, which may not be queued yet.
func (a *ackQueue) decide(seq uint64, d decision) {
	if a.decisions == nil {
		a.decisions = make(map[uint64]decision)
	}
	a.decisions[seq] = d
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

// inKafkaLocked reports whether Kafka has a record. If not, Settled is called when to ask again. Later acknowledgements
// have to wait anyway, so the connection waits for one record at a time.
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

// encodeAcksLocked appends every acknowledgement that may leave to dst. PUBACK, PUBCOMP and a refusing PUBREC end an
// exchange of the Receive Maximum (MQTT 5, 4.9).
func (c *conn) encodeAcksLocked(dst []byte) []byte {
	a, ended, traced := &c.writer.acks, 0, c.b.trace.On()
	for c.ackReadyLocked() {
		e := &a.q[a.head]
		text := ""
		if e.mode == ackCommand {
			d := a.decisions[e.seq]
			e.reason, text = d.reason, d.text
			delete(a.decisions, e.seq)
		} else if traced && e.seq != 0 && e.typ != frame.TypePubcomp {
			c.b.trace.Acknowledged(e.seq, e.reason)
		}
		if e.why != 0 {
			text = c.b.explain(e.why).text
		}
		dst = c.appendAck(dst, e, text)
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

// appendAck appends an acknowledgement, with the text if the client takes it.
func (c *conn) appendAck(dst []byte, e *ack, text string) []byte {
	if text != "" {
		if out := frame.AppendRefusal(dst, e.typ, e.id, e.reason, text); c.takesText(len(out) - len(dst)) {
			return out
		}
	}
	return frame.AppendAck(dst, e.typ, e.id, e.reason, c.version)
}

// takesText reports whether a packet of this size may carry a reason string (MQTT 5, 3.1.2.11.4 and 3.1.2.11.7).
func (c *conn) takesText(size int) bool {
	return c.explains && (c.maxPacket == 0 || size <= c.maxPacket)
}

// release frees the memory of empty queues.
func (a *ackQueue) release() {
	if a.len() == 0 {
		a.q, a.head = nil, 0
	}
	if len(a.decisions) == 0 { // otherwise the reader has not queued the acknowledgement yet
		a.decisions = nil
	}
}
