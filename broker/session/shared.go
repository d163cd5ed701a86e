package session

import "cellgate/broker/shared/message"

// movable reports whether another member of the shared group gets the message when the session ends (MQTT 5, 4.8.2). A
// QoS 2 message that was sent is not movable, since two members could get it.
func (e *entry) movable() bool {
	return len(e.shared) > 0 && e.d == nil && e.qos > 0 && (e.qos == 1 || !e.sent)
}

// reassign gives the messages of a client's ended session to another member of each shared group that they matched. A
// message without such a member is dropped and counted.
func (m *Manager) reassign(client string, moved []*entry) {
	for _, st := range m.offerToOthers(client, moved) {
		st.mu.Lock()
		st.unlock()
	}
}

// offerToOthers offers the messages and returns the sessions whose callbacks are due.
func (m *Manager) offerToOthers(from string, moved []*entry) (late []*state) {
	for _, e := range moved {
		rec := e.body.record(m)
		rec.QoS, rec.Retain = max(rec.QoS, e.qos), rec.Retain || e.retain
		given := false
		for _, filter := range e.shared {
			client, sub, ok := m.index.Member(filter, from)
			st := m.lookup(client)
			if !ok || st == nil {
				continue
			}
			match := Matched{QoS: sub.QoS, RetainAsPublished: sub.RetainAsPublished, Shared: []string{filter}}
			if sub.ID != 0 {
				match.IDs = []uint32{sub.ID}
			}
			if _, due := st.offer(&rec, &match, e.body); due {
				late = append(late, st)
			}
			given = true
		}
		if !given {
			m.metrics.dropped.WithLabelValues(dropSessionEnded).Inc()
		}
	}
	return late
}

// record returns the message as a record, to be offered again.
func (b *body) record(m *Manager) message.Record {
	return message.Record{
		Kind: message.KindPublish, Topic: b.topic, Payload: b.payload, Props: b.props, QoS: b.qos, Retain: b.retain, Seq: b.seq,
		ReceivedAt: m.instant(b.expires).UnixMilli() - int64(b.props.Expiry)*1000, // meaningless, and not looked at, without an expiry
	}
}
