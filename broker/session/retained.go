package session

import "cellgate/broker/message"

// retained is the account of the retained messages, whose contents the Index holds. Manager.fanMu guards it.
type retained struct {
	topics map[string]retainedInfo
	bytes  int64
	// dirty are the changes that the writer has not taken yet; nil removes.
	dirty map[string]*message.Record
}

type retainedInfo struct {
	size    int64
	expires int64 // ms; 0 never
}

func (r *retained) init() {
	r.topics = make(map[string]retainedInfo)
	r.dirty = make(map[string]*message.Record)
}

// retain stores or removes the retained message of the record's topic (MQTT 5, 3.3.1.3).
func (m *Manager) retain(rec *message.Record) {
	if len(rec.Payload) == 0 {
		m.unretain(rec.Topic)
		return
	}
	r := &m.retained
	c := rec.Clone()
	old, size := r.topics[c.Topic], int64(entryOverhead+len(c.Topic)+len(c.Payload))
	if m.retainedFull(old.size, size) {
		m.dropExpiredRetained()
		old = r.topics[c.Topic]
		if m.retainedFull(old.size, size) {
			m.metrics.dropped.WithLabelValues(dropRetained).Inc()
			m.unretain(c.Topic) // an older message would now be a wrong one
			return
		}
	}
	m.keepRetained(&c, size-old.size)
	r.dirty[c.Topic] = &c
	m.writer.grow(size)
}

func (m *Manager) retainedFull(old, size int64) bool {
	r := &m.retained
	return (old == 0 && len(r.topics) >= m.bounds.Load().MaxRetained) || r.bytes+size-old > m.bounds.Load().MaxRetainedBytes
}

func (m *Manager) keepRetained(c *message.Record, grown int64) {
	r := &m.retained
	info := retainedInfo{size: r.topics[c.Topic].size + grown}
	if at, ok := c.ExpiresAt(); ok {
		info.expires = at.UnixMilli()
	}
	r.topics[c.Topic] = info
	r.bytes += grown
	m.index.Retain(c)
	m.metrics.retained.Set(float64(len(r.topics)))
}

func (m *Manager) unretain(topic string) {
	r := &m.retained
	info, ok := r.topics[topic]
	if !ok {
		return
	}
	delete(r.topics, topic)
	r.bytes -= info.size
	r.dirty[topic] = nil
	m.index.Retain(&message.Record{Kind: message.KindPublish, Topic: topic, Retain: true})
	m.metrics.retained.Set(float64(len(r.topics)))
}

func (m *Manager) dropExpiredRetained() {
	now := m.now()
	for topic, info := range m.retained.topics {
		if info.expires != 0 && info.expires <= now {
			m.unretain(topic)
		}
	}
}

// sendRetained queues the retained messages that a new subscription asks for. The caller holds fanMu, so
// that a message is either found here or fanned out to the subscription, never both and never neither.
func (st *state) sendRetained(sub *Subscription) {
	now := st.m.now()
	st.m.index.Retained(sub.Filter, func(rec *message.Record) {
		at, expires := rec.ExpiresAt()
		if (expires && at.UnixMilli() <= now) || (sub.NoLocal && rec.Client == st.id) {
			return
		}
		e := &entry{body: newBody(rec), qos: min(rec.QoS, sub.QoS), retain: true}
		if sub.ID != 0 {
			e.ids = []uint32{sub.ID}
		}
		e.durable = e.qos > 0 && st.durable
		_ = st.enqueue(e) // a bound that is reached has been counted
	})
}
