package session

import (
	"strings"
	"sync"

	"cellgate/broker/shared/heap"
	"cellgate/broker/shared/message"
)

// retained is the account of the retained messages, whose contents the Index holds.
//
// ClaimRetained decides whether there is room before a message is journaled, so that an acknowledged message is always
// retained. Until the message is fanned out, its claim counts as used room.
type retained struct {
	// dirty holds the changes that the writer has not taken yet; nil removes. Manager.fan.mu guards it.
	dirty map[string]*message.Record

	mu         sync.Mutex // a leaf
	topics     map[string]*kept
	publishers map[Owner]*published
	count      int // topics with a message
	bytes      int64
	expiring   heap.Heap[*kept]
}

// kept is the account of one topic.
type kept struct {
	topic   string
	by      *published
	size    int64  // of the stored message; 0 none
	claimed int64  // of the last message claimed and not fanned out; none if negative
	claims  int    // claims whose messages are not in the journal yet
	last    uint64 // journal sequence of the last claimed message
	fanned  uint64 // the last record that was fanned out
	expires int64  // ms; 0 never
	place   int32  // in the heap
}

// charge returns the room that the topic takes once all claimed messages are fanned out.
func (k *kept) charge() int64 {
	if k.claimed >= 0 {
		return k.claimed
	}
	return k.size
}

const noClaim = -1

// published counts the retained messages of one publisher.
type published struct {
	owner  Owner
	refs   int // topics, including those whose message is being removed
	topics int
	bytes  int64
}

// retainedPart is the divisor for one publisher's share: at most MaxRetainedBytes / retainedPart.
const retainedPart = 64

func (r *retained) init() {
	r.topics = make(map[string]*kept)
	r.publishers = make(map[Owner]*published)
	r.dirty = make(map[string]*message.Record)
}

// takeDirty passes the changes to the writer. The caller holds fan.mu.
func (r *retained) takeDirty() map[string]*message.Record {
	dirty := r.dirty
	r.dirty = make(map[string]*message.Record)
	return dirty
}

func retainedSize(rec *message.Record) int64 {
	if len(rec.Payload) == 0 {
		return 0
	}
	return int64(entryOverhead + len(rec.Topic) + len(rec.Payload))
}

// ClaimRetained reserves room for a retained message before it is journaled. On errRetained, which is counted, the
// message must not be journaled. A publisher can always remove its own message, or replace it by one that is not
// larger. Each claim must be ended by JournaledRetained or CancelRetained. Removing a message that does not exist needs
// no claim.
func (m *Manager) ClaimRetained(rec *message.Record) (claimed bool, err error) {
	r, owner, size := &m.retained, ownerOfClient(rec.Client), retainedSize(rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.topics[rec.Topic]
	if rec.IsCommand() || (k == nil && size == 0) { // commands go to the command service and are not retained
		return false, nil
	}
	if bound := r.over(k, owner, size, m.bounds.Load()); bound != "" {
		m.reject(bound, owner)
		return false, errRetained
	}
	if k == nil {
		k = &kept{topic: strings.Clone(rec.Topic), claimed: noClaim}
		r.topics[k.topic] = k
	}
	k.claims++
	r.set(k, owner, k.size, size)
	m.gaugeRetained()
	return true, nil
}

// over returns the bound that refuses a message of that size on a topic.
func (r *retained) over(k *kept, owner Owner, size int64, o *Bounds) string {
	by := r.publishers[owner]
	if by == nil {
		by = &published{}
	}
	var held, own int64 // charged to the topic now; the publisher's part of it
	if k != nil {
		held = k.charge()
	}
	if k != nil && k.by == by {
		own = held
	}
	switch {
	case size == 0, size <= own:
		return ""
	case held == 0 && r.count >= o.MaxRetainedMessages, r.bytes+size-held > o.MaxRetainedBytes:
		return rejectRetained
	case own == 0 && by.topics >= o.MaxRetainedPerSubject, by.bytes+size-own > o.MaxRetainedBytes/retainedPart:
		return rejectRetainedShare
	}
	return ""
}

func (r *retained) set(k *kept, owner Owner, size, claimed int64) {
	r.add(k, -1)
	if k.by == nil || k.by.owner != owner {
		r.unassign(k)
		if k.by = r.publishers[owner]; k.by == nil {
			k.by = &published{owner: owner}
			r.publishers[owner] = k.by
		}
		k.by.refs++
	}
	k.size, k.claimed = size, claimed
	r.add(k, 1)
}

// add adds a topic to the totals, or removes it with sign -1.
func (r *retained) add(k *kept, sign int) {
	charge := k.charge()
	if k.by == nil || charge == 0 {
		return
	}
	r.count += sign
	k.by.topics += sign
	r.bytes += int64(sign) * charge
	k.by.bytes += int64(sign) * charge
}

// unassign detaches the topic, already removed from the totals, from its publisher.
func (r *retained) unassign(k *kept) {
	if k.by == nil {
		return
	}
	if k.by.refs--; k.by.refs == 0 {
		delete(r.publishers, k.by.owner)
	}
	k.by = nil
}

// JournaledRetained ends a claim and records the journal sequence of its message.
func (m *Manager) JournaledRetained(topic string, seq uint64) { m.claimEnded(topic, seq) }

// CancelRetained ends a claim whose message is not journaled.
func (m *Manager) CancelRetained(topic string) { m.claimEnded(topic, 0) }

func (m *Manager) claimEnded(topic string, seq uint64) {
	r := &m.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.topics[topic]; k != nil && k.claims > 0 {
		k.claims--
		k.last = max(k.last, seq)
		r.releaseClaims(k)
		m.gaugeRetained()
	}
}

// releaseClaims releases what claims have reserved once no claimed message is outstanding, and removes the topic if it has no
// message.
func (r *retained) releaseClaims(k *kept) {
	if k.claims > 0 || k.fanned < k.last {
		return
	}
	if r.set(k, k.by.owner, k.size, noClaim); k.size == 0 {
		r.unassign(k)
		r.expire(k, 0)
		delete(r.topics, k.topic)
	}
}

// covered reports whether the record was claimed, or fits into the bounds anyway. A record journaled by an older
// version, or under other bounds, may not.
func (r *retained) covered(rec *message.Record, o *Bounds) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.topics[rec.Topic]
	if k != nil && (k.claims > 0 || k.last >= rec.Seq) {
		return true
	}
	size := retainedSize(rec)
	held := int64(0)
	if k != nil {
		held = k.charge()
	}
	return (held > 0 || r.count < o.MaxRetainedMessages) && r.bytes+size-held <= o.MaxRetainedBytes
}

// retain stores or removes the retained message of the record's topic (MQTT 5, 3.3.1.3). The caller holds fan.mu.
func (m *Manager) retain(rec *message.Record) {
	m.dropExpiredRetained(expiredAtOnce)
	switch {
	case len(rec.Payload) == 0:
		m.unretain(rec.Topic, rec.Seq)
	case !m.retained.covered(rec, m.bounds.Load()):
		m.metrics.dropped.WithLabelValues(dropRetained).Inc()
		m.meet(dropRetained, ownerOfClient(rec.Client))
		m.unretain(rec.Topic, rec.Seq) // the older message would be stale
	default:
		c := rec.Clone()
		c.Client, c.Topic = strings.Clone(c.Client), strings.Clone(c.Topic)
		m.keepRetained(&c)
		m.retained.dirty[c.Topic] = &c
		m.writer.grow(retainedSize(&c))
	}
}

// keepRetained puts a message into the account and the index.
func (m *Manager) keepRetained(c *message.Record) {
	r := &m.retained
	r.mu.Lock()
	k := r.topics[c.Topic]
	if k == nil {
		k = &kept{topic: c.Topic, claimed: noClaim}
		r.topics[c.Topic] = k
	}
	k.fanned = c.Seq
	r.set(k, ownerOfClient(c.Client), retainedSize(c), k.claimed)
	r.expire(k, m.expiry(c))
	r.releaseClaims(k)
	m.gaugeRetained()
	r.mu.Unlock()
	m.index.Retain(c)
}

// unretain removes the message of a topic because of the record seq.
func (m *Manager) unretain(topic string, seq uint64) {
	r := &m.retained
	r.mu.Lock()
	k := r.topics[topic]
	there := k != nil && k.size > 0
	if k != nil {
		k.fanned = max(k.fanned, seq)
		r.set(k, k.by.owner, 0, k.claimed)
		r.expire(k, 0)
		r.releaseClaims(k)
		m.gaugeRetained()
	}
	r.mu.Unlock()
	if there {
		r.dirty[topic] = nil
		m.index.Retain(&message.Record{Kind: message.KindPublish, Topic: topic, Retain: true})
	}
}

func (m *Manager) gaugeRetained() {
	m.metrics.retained.Set(float64(m.retained.count))
	m.metrics.retainedBytes.Set(float64(m.retained.bytes))
}

// expiredAtOnce bounds how many expired messages one cut removes.
const expiredAtOnce = 64

// dropExpiredRetained removes up to most expired messages. The caller holds fan.mu.
func (m *Manager) dropExpiredRetained(most int) {
	r, now := &m.retained, m.now()
	for range most {
		r.mu.Lock()
		topic := ""
		if len(r.expiring) > 0 && r.expiring[0].expires <= now {
			topic = r.expiring[0].topic
		}
		r.mu.Unlock()
		if topic == "" {
			return
		}
		m.unretain(topic, 0)
	}
}

// expire sets when a topic's message expires; 0 means never.
func (r *retained) expire(k *kept, at int64) {
	if k.expires = at; at == 0 {
		r.expiring.Remove(k)
	} else {
		r.expiring.Put(k)
	}
}

// Before implements heap.Item.
func (k *kept) Before(other *kept) bool { return k.expires < other.expires }

// Place implements heap.Item.
func (k *kept) Place() *int32 { return &k.place }

// retainedChunk is how many topics are visited, and at most how many messages queued, in one go while other clients
// wait.
const retainedChunk = 256

// sendRetained queues the retained messages for a new subscription: those of records up to upTo. Later ones are fanned
// out to the subscription, so every message comes exactly once. The fan-out stops only while messages are being queued.
// Once a bound is reached the rest is counted as dropped.
func (s *Session) sendRetained(sub *Subscription, upTo uint64) {
	m := s.st.m
	var at RetainedAt
	found := make([]*message.Record, 0, retainedChunk)
	reason := ""
	for more := true; more; {
		found = found[:0]
		more = m.index.Retained(sub.Filter, &at, retainedChunk, func(rec *message.Record) {
			if rec.Seq <= upTo && (!sub.NoLocal || rec.Client != s.st.id) {
				found = append(found, rec)
			}
		})
		switch {
		case len(found) == 0:
		case reason != "":
			m.metrics.dropped.WithLabelValues(reason).Add(float64(len(found)))
		default:
			var live bool
			if reason, live = s.queueRetained(sub, found); !live {
				return
			}
		}
	}
}

// queueRetained queues those messages that are still retained. A message that replaced one of them has been fanned out
// to the subscription. reason is the last bound that was reached.
func (s *Session) queueRetained(sub *Subscription, found []*message.Record) (reason string, live bool) {
	st, m := s.st, s.st.m
	m.fan.mu.Lock()
	st.mu.Lock()
	defer st.unlock()
	defer m.fan.mu.Unlock()
	if !s.live() {
		return "", false
	}
	now := m.now()
	for _, rec := range found {
		expires, held := m.retained.holds(rec)
		if !held || (expires != 0 && expires <= now) {
			continue
		}
		e := &entry{body: bodyOf(rec, expires), qos: min(rec.QoS, sub.QoS), retain: true}
		if sub.ID != 0 {
			e.ids = []uint32{sub.ID}
		}
		e.durable = e.qos > 0 && st.durable
		l := letter{durable: e.durable, size: e.body.size()}
		if why := st.admit(l); why != "" {
			reason = why
			continue
		}
		st.push(e, l.size)
	}
	return reason, true
}

// holds reports whether the record is the one retained on its topic, and when it expires, in ms; 0 means never.
func (r *retained) holds(rec *message.Record) (expires int64, held bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.topics[rec.Topic]
	if k == nil || k.size == 0 || k.fanned != rec.Seq {
		return 0, false
	}
	return k.expires, true
}
