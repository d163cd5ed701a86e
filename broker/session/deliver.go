package session

import (
	"slices"

	"cellgate/broker/frame"
)

// progress is the result of an attempt to send.
type progress uint8

const (
	sent  progress = iota // sent, or dropped: continue with the next
	stuck                 // no room in the connection, window full, or waiting for the disk
)

// pump sends what may be sent: first what was in flight when the connection began, then the waiting messages.
func (st *state) pump() {
	f := st.flow
	if f == nil || st.link.conn == nil || !st.link.started || st.link.holds > 0 || st.link.blocked || st.ended {
		return
	}
	if st.sendReleases(f) == stuck {
		return
	}
	now := st.m.now()
	for {
		for f.next < len(f.inflight) {
			if st.sendInflight(f, now) == stuck {
				return
			}
		}
		if !st.fill(f, now) {
			break
		}
	}
	st.rest()
}

// sendReleases sends the PUBRELs due for entries before flow.next.
func (st *state) sendReleases(f *flow) progress {
	for i := 0; i < f.next && f.releases > 0; i++ {
		if e := f.inflight[i]; e.relDue {
			if !st.sendRelease(e.id, 0) {
				return stuck
			}
			e.relDue = false
			f.releases--
		}
	}
	return sent
}

func (st *state) sendRelease(id uint16, code byte) bool {
	var room [8]byte
	if st.link.conn.Enqueue(frame.AppendAck(room[:0], frame.TypePubrel, id, code, st.version)) {
		return true
	}
	st.link.blocked = true
	return false
}

// sendInflight sends the PUBLISH or PUBREL of the entry at flow.next.
func (st *state) sendInflight(f *flow, now int64) progress {
	e := f.inflight[f.next]
	if e.stage == assigned {
		if reason, err := st.refusal(e, now); err != nil {
			if e.qos < 2 || !e.sent {
				st.discard(f, f.cut(f.next), reason, err)
				return sent
			}
			// The client may still hold the identifier and would treat another message under it as a repeat. A PUBREL
			// frees it without sending the content again.
			e.stage = released
			st.advance(e)
		}
	}
	if e.qos == 2 && e.durable && e.stored < e.stage {
		return stuck // until the writer has it
	}
	if e.stage == released {
		if !st.sendRelease(e.id, 0) {
			return stuck
		}
		f.next++
		return sent
	}
	if f.window >= st.limit() {
		return stuck
	}
	switch ok, fits := st.send(e, now); {
	case !fits:
		st.discard(f, f.cut(f.next), dropTooLarge, ErrTooLarge)
		return sent
	case !ok:
		return stuck
	}
	e.sent, e.counted = true, true
	f.window++
	f.next++
	return sent
}

// fill moves waiting messages into the window and assigns their packet identifiers. It reports whether it moved or sent
// any.
func (st *state) fill(f *flow, now int64) bool {
	moved := false
	for f.waiting.len() > 0 {
		e := f.waiting.front()
		reason, err := st.refusal(e, now)
		switch {
		case err != nil:
			st.discard(f, f.waiting.pop(), reason, err)
		case e.qos == 0:
			if len(f.inflight) > f.next {
				return moved
			}
			ok, fits := st.send(e, now)
			switch {
			case !fits:
				st.discard(f, f.waiting.pop(), dropTooLarge, ErrTooLarge)
			case !ok:
				return false
			default:
				st.discharge(f, f.waiting.pop())
			}
		case len(f.inflight) >= st.limit():
			return moved
		default:
			e.id, e.stage = st.newID(f), assigned
			f.inflight = append(f.inflight, f.waiting.pop())
			st.advance(e)
		}
		moved = true
	}
	return moved
}

// advance records an entry's new stage for the state file. QoS 1 does not wait for that, since a repeat after a crash
// is allowed.
func (st *state) advance(e *entry) {
	if e.durable {
		st.save(e, e.qos == 2)
	}
}

func (st *state) limit() int { return min(int(st.link.receiveMax), st.m.bounds.Load().MaxInflight) }

// newID returns the next unused packet identifier. There always is one: the window is smaller than the number space.
func (st *state) newID(f *flow) uint16 {
	for {
		st.nextID++
		if st.nextID != 0 && f.find(st.nextID) < 0 {
			return st.nextID
		}
	}
}

// refusal returns why a message may not be sent to this client now. A message that was sent no longer expires (MQTT 5,
// 4.3.3 and 4.4), except a directed one: a vehicle must not get an expired command again.
func (st *state) refusal(e *entry, now int64) (reason string, err error) {
	switch {
	case e.body.expires != 0 && e.body.expires <= now && (!e.sent || e.d != nil):
		return dropExpired, errExpired
	case !st.link.perm.Receive(e.body.topic):
		return dropNotPermitted, errNotPermitted
	}
	return "", nil
}

// send encodes a PUBLISH and offers it to the connection. fits is false when the packet exceeds the client's maximum
// size.
func (st *state) send(e *entry, now int64) (ok, fits bool) {
	p := frame.Publish{
		Topic: e.body.topic, Payload: e.body.payload, QoS: e.qos, Retain: e.retain, Dup: e.sent,
		PacketID: e.id, Props: e.body.props, SubscriptionIDs: e.ids,
	}
	if at := e.body.expires; at != 0 {
		p.HasExpiry, p.ExpiryLeft = true, secondsLeft(at, now)
	}
	ok, fits = st.transmit(&p, e.d == nil)
	if ok && e.d != nil && e.d.Sent != nil {
		st.after = append(st.after, e.d.Sent)
	}
	return ok, fits
}

// transmit assigns a topic alias to a PUBLISH and offers it to the connection.
func (st *state) transmit(p *frame.Publish, alias bool) (ok, fits bool) {
	fresh := alias && st.alias(p)
	if st.tooLarge(p) {
		p.Alias, p.OmitTopic, fresh = 0, false, false // without the alias it may fit
		if st.tooLarge(p) {
			return false, false
		}
	}
	buf, _ := st.m.frames.Get().(*[]byte)
	*buf = p.Append((*buf)[:0], st.version)
	ok = st.link.conn.Enqueue(*buf)
	if cap(*buf) <= maxPooledFrame {
		st.m.frames.Put(buf)
	}
	switch {
	case !ok:
		st.link.blocked = true
	case fresh:
		st.learnAlias(p)
	}
	return ok, true
}

func (st *state) tooLarge(p *frame.Publish) bool {
	return st.link.maxPacket != 0 && p.Size(st.version) > int(st.link.maxPacket)
}

// maxPooledFrame is the size of the largest encoding buffer kept for reuse.
const maxPooledFrame = 64 << 10

// maxAliasedTopic bounds the memory of one alias.
const maxAliasedTopic = 1024

// alias makes a PUBLISH use a topic alias if the topic has one or one is free. fresh means that this packet defines the
// alias.
func (st *state) alias(p *frame.Publish) (fresh bool) {
	if st.link.aliasMax == 0 || st.version != frame.Version5 || len(p.Topic) > maxAliasedTopic {
		return false
	}
	var known map[string]uint16
	if st.flow != nil {
		known = st.flow.aliases
	}
	if a, ok := known[p.Topic]; ok {
		p.Alias, p.OmitTopic = a, true
		return false
	}
	if len(known) >= int(st.link.aliasMax) {
		return false
	}
	p.Alias = uint16(len(known)) + 1 //nolint:gosec // at most aliasMax
	return true
}

func (st *state) learnAlias(p *frame.Publish) {
	if st.flow == nil {
		st.flow = &flow{}
	}
	if st.flow.aliases == nil {
		st.flow.aliases = make(map[string]uint16)
	}
	st.flow.aliases[p.Topic] = p.Alias
}

// secondsLeft returns the message expiry interval that is left at now, rounded up. It is 0 only for a message that
// expired after it was sent.
func secondsLeft(expires, now int64) uint32 {
	return uint32(min((max(expires-now, 0)+999)/1000, 1<<32-1)) //nolint:gosec // within 32 bits by min, not negative
}

// Puback handles the client's PUBACK.
func (s *Session) Puback(id uint16, code byte) {
	s.acknowledge(id, code, func(e *entry) bool { return e.qos == 1 && e.sent })
}

// Pubcomp handles the client's PUBCOMP.
func (s *Session) Pubcomp(id uint16, code byte) {
	s.acknowledge(id, code, func(e *entry) bool { return e.stage == released })
}

// acknowledge finishes the message in flight under the identifier if fits accepts it.
func (s *Session) acknowledge(id uint16, code byte, fits func(*entry) bool) {
	st := s.st
	st.mu.Lock()
	defer st.unlock()
	if !s.live() || st.flow == nil {
		return
	}
	if i := st.flow.find(id); i >= 0 && fits(st.flow.inflight[i]) {
		st.finish(st.flow, i, code)
		st.pump()
	}
}

func (st *state) finish(f *flow, i int, code byte) {
	e := f.cut(i)
	st.discharge(f, e)
	st.m.metrics.acked.Inc()
	if e.d != nil && e.d.Acked != nil {
		acked := e.d.Acked
		st.after = append(st.after, func() { acked(code) })
	}
	st.rest()
}

// Pubrec handles the client's PUBREC. The session sends the PUBREL itself. In a session that outlives its connection it
// does so only once the state file has the new stage: a PUBLISH repeated after a PUBREL would be a second message.
func (s *Session) Pubrec(id uint16, code byte) {
	st := s.st
	st.mu.Lock()
	defer st.unlock()
	if !s.live() {
		return
	}
	f, i := st.flow, -1
	if f != nil {
		i = f.find(id)
	}
	switch {
	case i < 0:
		if code < 0x80 {
			st.sendRelease(id, frame.ReasonPacketIDNotFound)
		}
		return
	case f.inflight[i].qos != 2 || !f.inflight[i].sent:
		return
	case code >= 0x80:
		st.finish(f, i, code)
	default:
		st.release(f, f.inflight[i])
	}
	st.pump()
}

// release moves a message to its PUBREL stage, also when the client repeats its PUBREC.
func (st *state) release(f *flow, e *entry) {
	if e.stage != released {
		e.stage = released
		st.advance(e)
	}
	if e.relDue || (e.durable && e.stored < released) {
		return // committed makes the PUBREL due
	}
	if slices.Index(f.inflight, e) < f.next {
		e.relDue = true
		f.releases++
	}
}

// committed is called by the writer once the state file has the entry at this stage.
func (st *state) committed(e *entry, stored stage) {
	if e.gone || stored <= e.stored {
		return
	}
	e.stored = stored
	f := st.flow
	if stored == released && f != nil && !e.relDue && slices.Index(f.inflight, e) < f.next {
		e.relDue = true
		f.releases++
	}
}

// Writable resumes the delivery when the connection has space again after Enqueue has returned false.
func (s *Session) Writable() {
	s.st.mu.Lock()
	defer s.st.unlock()
	if s.live() {
		s.st.link.blocked = false
		s.st.pump()
	}
}
