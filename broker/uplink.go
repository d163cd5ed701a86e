package broker

import (
	"errors"
	"strings"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
)

// dispatch handles one whole frame. It returns false if the connection ends.
func (c *conn) dispatch(f []byte, h frame.Header) bool {
	switch h.Type {
	case frame.TypePublish:
		return c.publish(f, h)
	case frame.TypePubrel:
		return c.pubrel(f, h)
	case frame.TypePuback, frame.TypePubrec, frame.TypePubcomp:
		return c.acknowledged(f, h)
	case frame.TypePingreq:
		if err := frame.CheckPingreq(h); err != nil {
			return c.flush() && c.violation(err)
		}
		c.reader.seen++
		c.control(pingresp[:])
		return true
	}
	c.reader.seen++
	// The remaining types are rare, and may depend on earlier PUBLISHes.
	return c.flush() && c.request(f, h)
}

var pingresp = [2]byte{frame.TypePingresp << 4}

// publish handles one PUBLISH: usually it becomes a record of the batch.
func (c *conn) publish(f []byte, h frame.Header) bool {
	in := &c.reader.scratch.in
	if err := frame.ScanPublish(f, h, c.version, in); err != nil {
		return c.flush() && c.violation(err)
	}
	c.reader.seen++
	if in.QoS > 0 && !c.takeCredit() {
		return false
	}
	topic, err := c.topic(in)
	if err != nil {
		return c.flush() && c.violation(err)
	}
	if message.Levels(topic) > c.b.limits.Load().MaxTopicLevels {
		return c.refuse(in, topic, whyTopicLevels)
	}
	class, allowed := c.allowed(topic)
	switch {
	case !allowed && c.isCommand(topic):
		return c.refuseCommand(in, topic)
	case !allowed:
		return c.refuse(in, topic, whyTopic)
	case class == tokenClass:
		return c.flush() && c.publishToken(in)
	case c.isCommand(topic):
		return c.command(in, topic)
	}
	return c.take(in, topic, class)
}

// takeCredit enforces the window: the Receive Maximum on MQTT 5, back-pressure on 3.1.1.
func (c *conn) takeCredit() bool {
	if c.reader.credit > 0 {
		c.reader.credit--
		return true
	}
	if !c.flush() {
		return false
	}
	window := int(c.announced.window)
	if c.version == frame.Version5 {
		c.mu.Lock()
		c.reader.credit = window - c.writer.used
		c.mu.Unlock()
		if c.reader.credit <= 0 {
			c.b.reject("receive_maximum")
			return c.violation(&frame.Violation{Reason: frame.ReasonReceiveMaximum, Why: "more messages than the receive maximum"})
		}
	} else if !c.waitForCredit(window) {
		return false
	}
	c.reader.credit--
	return true
}

// waitForCredit waits until less than window messages are unacknowledged. It returns false if the connection ends first.
func (c *conn) waitForCredit(window int) bool {
	c.b.metrics.windowsFull.Inc()
	defer c.b.metrics.windowsFull.Dec()
	return c.waitFor(func() bool { c.reader.credit = window - c.writer.acks.len(); return c.reader.credit > 0 })
}

// topic resolves a topic alias (MQTT 5, 3.3.2.3.4). The result is valid as long as the scratch.
func (c *conn) topic(in *frame.Inbound) (string, error) {
	if !in.HasProps || !in.Props.HasAlias() {
		return frame.Text(in.Topic), nil
	}
	n := int(in.Props.Alias)
	if n > maxAliases {
		return "", &frame.Violation{Reason: frame.ReasonTopicAliasInvalid, Why: "topic alias above the announced maximum"}
	}
	if len(in.Topic) == 0 {
		if n > len(c.reader.aliases) || c.reader.aliases[n-1] == "" {
			return "", &frame.Violation{Reason: frame.ReasonProtocolError, Why: "topic alias that was never set"}
		}
		return c.reader.aliases[n-1], nil
	}
	return c.setAlias(n, in.Topic)
}

// maxAliasBytes bounds the topics of one connection's aliases, in bytes.
const maxAliasBytes = 32 << 10

func (c *conn) setAlias(n int, topic []byte) (string, error) {
	for len(c.reader.aliases) < n {
		c.reader.aliases = append(c.reader.aliases, "")
	}
	old := c.reader.aliases[n-1]
	if old == frame.Text(topic) {
		return old, nil
	}
	c.reader.aliasBytes += len(topic) - len(old)
	if c.reader.aliasBytes > maxAliasBytes {
		return "", &frame.Violation{Reason: frame.ReasonQuotaExceeded, Why: "topics of aliases are too long"}
	}
	c.reader.aliases[n-1] = string(topic)
	return c.reader.aliases[n-1], nil
}

// tokenClass is the class that allowed returns for v1/{id}/token.
const tokenClass = -1

// allowed reports whether the client may publish on the topic, and returns the topic's class for metrics.
func (c *conn) allowed(topic string) (class int, ok bool) {
	if c.vehicle && len(topic) > len(c.own)+3 && topic[:len(c.own)] == c.own && topic[len(c.own):len(c.own)+3] == "up/" {
		name, _, _ := strings.Cut(topic[len(c.own)+3:], "/")
		return c.b.counters.classOf(name), true // every vehicle may publish on these topics
	}
	if !c.shared.perm.Load().Publish(topic) {
		return 0, false
	}
	vin, branch, rest := message.SplitTopic(topic)
	switch {
	case branch == "token" && rest == "":
		return tokenClass, vin == c.shared.identity.Load().Subject
	case branch == "token", topic[0] == '$':
		return 0, false
	case branch == "up":
		name, _, _ := strings.Cut(rest, "/")
		return c.b.counters.classOf(name), true
	}
	return 0, true
}

// refuse refuses a PUBLISH. On MQTT 5 the acknowledgement has the reason, and QoS 0 is dropped. On 3.1.1, which has no
// refusing acknowledgement, the connection ends.
func (c *conn) refuse(in *frame.Inbound, topic string, w why) bool {
	r := &c.b.refusals[w]
	c.b.reject(r.label)
	c.traceRefusal(in, topic, r.reason, r.label)
	return c.deny(in, w)
}

// deny is refuse for what is already counted.
func (c *conn) deny(in *frame.Inbound, w why) bool {
	if c.version != frame.Version5 {
		if c.flush() {
			c.end(c.b.farewell(c.b.refusals[w].reason))
		}
		return false
	}
	c.reply(in, w)
	return true
}

// reply acknowledges a PUBLISH without a record, after those before it; 0 accepts it.
func (c *conn) reply(in *frame.Inbound, w why) {
	typ := frame.TypePuback
	switch in.QoS {
	case 0:
		return
	case 2:
		typ = frame.TypePubrec
	}
	c.stage(ack{id: in.PacketID, typ: typ, reason: c.b.refusals[w].reason, why: w})
}

// take adds the PUBLISH to the batch as a record, which aliases the scratch.
func (c *conn) take(in *frame.Inbound, topic string, class int) bool {
	if in.QoS == 0 && c.b.shed() {
		c.b.dropQoS0()
		c.traceRefusal(in, topic, frame.ReasonQuotaExceeded, "journal_full")
		return true
	}
	a := ack{id: in.PacketID, typ: frame.TypePuback}
	if in.QoS == 2 {
		a.typ = frame.TypePubrec
		if _, again := c.session.ReceiveQoS2(in.PacketID, in.Dup, topic, in.Payload); again {
			return c.repeat(a, in, topic)
		}
	}
	s := c.reader.scratch
	if in.Retain && !c.claimRetained(in, topic) {
		if in.QoS == 2 {
			c.session.CancelQoS2(in.PacketID)
		}
		return c.unretainable(in, topic)
	}
	s.qos2 = s.qos2 || in.QoS == 2
	c.b.counters.received[class][in.QoS].Inc()
	s.records = append(s.records, message.Record{
		Kind: message.KindPublish, QoS: in.QoS, Retain: in.Retain, Dup: in.Dup, PacketID: in.PacketID,
		Client: c.key, Topic: topic, Payload: in.Payload,
	})
	rec := &s.records[len(s.records)-1]
	if in.HasProps {
		c.properties(in, rec)
	}
	if in.Dup && in.QoS == 1 {
		c.markRepeated(rec)
	}
	if in.QoS > 0 {
		a.mode = c.b.ackMode(rec)
		a.record = uint8(len(s.records)) //nolint:gosec // at most batchRecords
		c.stage(a)
	}
	return len(s.records) < batchRecords || c.flush()
}

// repeat acknowledges a repeated QoS 2 PUBLISH when the ack mode of its first record is met.
func (c *conn) repeat(a ack, in *frame.Inbound, topic string) bool {
	if !c.flush() {
		return false
	}
	if a.again = true; c.version == frame.Version5 {
		c.reader.credit++ // the exchange already has its place in the window (4.9)
	}
	a.mode = c.b.ackMode(&message.Record{
		Kind: message.KindPublish, QoS: in.QoS, Retain: in.Retain, Client: c.key, Topic: topic, Payload: in.Payload,
	})
	var again bool
	if a.seq, again = c.session.ReceiveQoS2(in.PacketID, in.Dup, topic, in.Payload); !again { // another connection has taken the session over
		return c.endNow(whyTakenOver)
	}
	if a.seq > c.b.journal.Durable() {
		go c.awaitDurable(a.seq) // this connection appended nothing, so the journal does not notify it
	} else {
		c.Durable(a.seq)
	}
	c.stage(a)
	return true
}

// awaitDurable waits for a record that this connection has not appended, and calls Durable.
func (c *conn) awaitDurable(seq uint64) {
	if c.b.journal.WaitDurable(c.b.ctx, seq) == nil {
		c.Durable(seq)
	}
}

// properties copies the forwarded MQTT 5 properties into the record.
func (c *conn) properties(in *frame.Inbound, rec *message.Record) {
	p := &in.Props
	rec.Props = p.Forwarded()
	if p.Users() > 0 {
		s := c.reader.scratch
		from := len(s.users)
		p.EachUser(func(name, value []byte) {
			s.users = append(s.users, message.UserProperty{Name: frame.Text(name), Value: frame.Text(value)})
		})
		rec.Props.User = s.users[from:len(s.users):len(s.users)]
	}
}

// pubrel releases a QoS 2 identifier. PUBCOMP waits for the record of the release.
func (c *conn) pubrel(f []byte, h frame.Header) bool {
	in, err := frame.ScanAck(f, h, c.version)
	if err != nil {
		return c.flush() && c.violation(err)
	}
	s := c.reader.scratch
	if !c.session.ReleaseQoS2(in.PacketID) {
		c.reader.seen++ // a known one is counted with its PUBLISH
		c.stage(ack{id: in.PacketID, typ: frame.TypePubcomp, reason: frame.ReasonPacketIDNotFound, why: whyPacketID})
		return len(s.acks) < batchRecords || c.flush()
	}
	s.records = append(s.records, message.Record{Kind: message.KindRelease, Client: c.key, PacketID: in.PacketID})
	c.stage(ack{
		id: in.PacketID, typ: frame.TypePubcomp,
		record: uint8(len(s.records)), //nolint:gosec // at most batchRecords
	})
	return len(s.records) < batchRecords || c.flush()
}

func (c *conn) stage(a ack) { c.reader.scratch.acks = append(c.reader.scratch.acks, a) }

// flush appends the batch to the journal and queues its acknowledgements. It returns false if the connection ends.
func (c *conn) flush() bool {
	s := c.reader.scratch
	if len(s.records) == 0 && len(s.acks) == 0 {
		return !c.shared.stopping.Load()
	}
	start := c.b.elapsed().Nanoseconds()
	if len(s.records) > 0 && !c.append() {
		return false
	}
	if len(s.acks) > 0 {
		c.queueAcks(start)
	}
	clear(s.records)
	s.records, s.acks, s.users, s.claims = s.records[:0], s.acks[:0], s.users[:0], 0
	return !c.shared.stopping.Load() && c.waitFor(c.ackRoomLocked)
}

// ackRoomLocked bounds the pending acknowledgements of PUBRELs; the window bounds those of PUBLISHes.
func (c *conn) ackRoomLocked() bool {
	return c.writer.acks.len() <= 2*int(c.announced.window)+batchRecords
}

// append writes the batch to the journal. While the journal is full it drops QoS 0 records and waits. Any other error
// ends the connection, and nothing of the batch is acknowledged.
func (c *conn) append() bool {
	s := c.reader.scratch
	traced, began := c.b.trace.On(), time.Time{}
	if traced {
		began = time.Now()
	}
	if epoch := c.session.Epoch(); epoch != 0 {
		for i := range s.records {
			s.records[i].Epoch = epoch
		}
	}
	var w journal.Waiter
	if len(s.acks) > 0 {
		w = c
	}
	for {
		if c.shared.stopping.Load() {
			c.rollback()
			return false
		}
		c.shared.busy.Store(true) // Append blocks while the journal's buffer is full
		_, err := c.b.journal.Append(s.records, w)
		c.unbusy()
		switch {
		case err == nil:
			c.passQoS2()
			c.passClaims()
			c.rememberSent()
			if traced {
				c.b.trace.Received(s.records, began)
			}
			return true
		case errors.Is(err, journal.ErrFull):
			if c.dropUnacknowledged(); len(s.records) == 0 {
				return true
			}
			if c.awaitRoom() {
				continue
			}
		default:
			c.b.log.Error("journal refused a batch", "client", c.id, "err", err)
			c.b.reject("journal_failed")
			c.end(c.b.explain(whyJournal))
		}
		c.rollback()
		return false
	}
}

// passQoS2 passes the sequences of the batch's QoS 2 messages to the session.
func (c *conn) passQoS2() {
	if !c.reader.scratch.qos2 {
		return
	}
	c.reader.scratch.qos2 = false
	for i := range c.reader.scratch.records {
		if r := &c.reader.scratch.records[i]; r.Kind == message.KindPublish && r.QoS == 2 {
			c.session.JournaledQoS2(r.PacketID, r.Seq)
		}
	}
}

// rollback forgets the QoS 2 identifiers of a batch that was not journaled: the client sends them again, and they must
// not count as repetitions.
func (c *conn) rollback() {
	for i := range c.reader.scratch.records {
		if r := &c.reader.scratch.records[i]; r.Kind == message.KindPublish && r.QoS == 2 {
			c.session.CancelQoS2(r.PacketID)
		}
	}
	c.cancelClaims()
}

func (c *conn) awaitRoom() bool {
	ctx, done := c.waitContext()
	defer done()
	return c.b.journal.WaitRoom(ctx) == nil
}

// dropUnacknowledged removes the QoS 0 records from a batch.
func (c *conn) dropUnacknowledged() {
	s := c.reader.scratch
	kept := s.records[:0]
	var claims places
	next := 0 // index of the acknowledgement for the next kept record
	for i := range s.records {
		if s.records[i].Kind == message.KindPublish && s.records[i].QoS == 0 {
			c.b.dropQoS0()
			if s.claims.has(i) {
				c.b.sessions.CancelRetained(s.records[i].Topic)
			}
			continue
		}
		if s.claims.has(i) {
			claims.add(len(kept))
		}
		kept = append(kept, s.records[i])
		for next < len(s.acks) && s.acks[next].record == 0 {
			next++
		}
		s.acks[next].record = uint8(len(kept)) //nolint:gosec // at most batchRecords
		next++
	}
	s.records, s.claims = kept, claims
}

// queueAcks moves the batch's acknowledgements to the queue and sets their sequences.
func (c *conn) queueAcks(start int64) {
	s := c.reader.scratch
	var publishes int
	for i := range s.acks {
		a := &s.acks[i]
		if a.record > 0 {
			a.seq = s.records[a.record-1].Seq
		}
		if a.typ != frame.TypePubcomp && !a.again {
			publishes++
		}
	}
	c.mu.Lock()
	c.writer.used += publishes
	c.writer.acks.push(s.acks)
	if last := &s.acks[len(s.acks)-1]; c.writer.sampleSeq == 0 && last.seq != 0 && last.mode != ackCommand {
		c.writer.sampleSeq, c.writer.sampleAt = last.seq, start
	}
	c.acknowledgeLocked()
	c.mu.Unlock()
}

// violation ends the connection after a protocol violation. It returns false.
func (c *conn) violation(err error) bool {
	c.b.reject("violation")
	c.b.log.Debug("protocol violation", "client", c.id, "err", err)
	c.end(c.b.violated(err))
	return false
}

// endNow calls end and returns false.
func (c *conn) endNow(w why) bool {
	c.end(c.b.explain(w))
	return false
}
