package session

import (
	"context"
	"slices"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// target is one subscriber of the record being fanned out.
type target struct {
	client string
	m      Matched
}

func (m *Manager) collectTarget(client string, match Matched) {
	match.IDs, match.Shared = slices.Clone(match.IDs), slices.Clone(match.Shared)
	m.loop.targets = append(m.loop.targets, target{client, match})
}

// Fanout delivers one durable PUBLISH to all matching subscriptions and updates the retained message. Only the fan-out
// loop calls it, in journal order. It never waits for a client or the disk, and copies what it keeps of rec. It skips
// records up to the position already reached, and records of other kinds.
func (m *Manager) Fanout(rec *message.Record) {
	if !m.beginFanout(rec) {
		return
	}
	m.index.Match(rec, m.loop.collect)
	var shared *body
	for i := range m.loop.targets {
		st := m.lookup(m.loop.targets[i].client)
		if st == nil {
			continue
		}
		var due bool
		if shared, due = st.offer(rec, &m.loop.targets[i].m, shared); due {
			st.mu.Lock()
			st.unlock()
		}
	}
	clear(m.loop.targets)
	m.loop.targets = m.loop.targets[:0]
	m.fan.under.Store(0)
}

// beginFanout marks the record as being fanned out, and stores it if it is retained. From then on a new subscription
// begins after the record and finds it among the retained messages. It returns false if no session gets the record.
func (m *Manager) beginFanout(rec *message.Record) bool {
	m.fan.mu.Lock()
	defer m.fan.mu.Unlock()
	if rec.Seq <= m.fan.reached {
		return false
	}
	defer m.notifyCaughtUp()
	m.fan.reached = rec.Seq
	if rec.Kind != message.KindPublish {
		return false
	}
	if at := m.expiry(rec); at != 0 && at <= m.now() {
		m.metrics.dropped.WithLabelValues(dropExpired).Inc()
		if rec.Retain {
			m.unretain(rec.Topic, rec.Seq) // it replaces the previous one
		}
		return false
	}
	if rec.Retain {
		m.retain(rec)
	}
	if m.index.Count() == 0 {
		return false
	}
	m.fan.under.Store(rec.Seq)
	return true
}

// Advance records that every record up to seq has been fanned out or needs no fan-out.
func (m *Manager) Advance(seq uint64) {
	m.fan.mu.Lock()
	m.fan.reached = max(m.fan.reached, seq)
	m.notifyCaughtUp()
	m.fan.mu.Unlock()
}

// AwaitFanout returns when every record up to seq has been fanned out. Before a SUBSCRIBE it makes
// sure that earlier messages are found retained, or removed, and do not come live. The error is the context's, or
// errClosed.
func (m *Manager) AwaitFanout(ctx context.Context, seq uint64) error {
	for {
		m.fan.mu.Lock()
		if m.fan.reached >= seq {
			m.fan.mu.Unlock()
			return nil
		}
		if m.fan.caughtUp == nil {
			m.fan.caughtUp, m.fan.awaited = make(chan struct{}), seq
		}
		m.fan.awaited = min(m.fan.awaited, seq)
		caughtUp := m.fan.caughtUp
		m.fan.mu.Unlock()
		select {
		case <-caughtUp:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.closed.Done():
			return errClosed
		}
	}
}

// notifyCaughtUp wakes the callers of AwaitFanout. The caller holds fan.mu.
func (m *Manager) notifyCaughtUp() {
	if m.fan.caughtUp != nil && m.fan.reached >= m.fan.awaited {
		close(m.fan.caughtUp)
		m.fan.caughtUp = nil
	}
}

// StoreIntakePosition stores the sequence up to which the command service has processed the journal, so that a start need not read
// it again: see IntakePosition. The manager only persists it.
func (m *Manager) StoreIntakePosition(seq uint64) {
	m.fan.mu.Lock()
	m.fan.intake = max(m.fan.intake, seq)
	m.fan.mu.Unlock()
}

// IntakePosition returns the first sequence that the command service would have to read if the process started now.
func (m *Manager) IntakePosition() uint64 { return m.stored.settled.Load() + 1 }

// Checkpoint is like Advance, but returns when the position and the queues are durable. The error is errClosed or
// ctx's.
func (m *Manager) Checkpoint(ctx context.Context, seq uint64) error {
	m.Advance(seq)
	return m.writer.wait(ctx, m.writer.afterAll)
}

// marked returns the marks that the state file has.
func (m *Manager) marked() mark {
	return mark{fanned: m.stored.fanned.Load(), replay: m.stored.replay.Load(), settled: m.stored.settled.Load()}
}

// Wanted calls read with whether the index has any subscription, so that the fan-out loop may skip records that no client
// wants. No subscription is added while read runs with false: a new one gets everything that read has not skipped. read
// must not block or call the manager.
func (m *Manager) Wanted(read func(any bool)) {
	m.fan.mu.Lock()
	if m.index.Count() > 0 {
		m.fan.mu.Unlock()
		read(true)
		return
	}
	defer m.fan.mu.Unlock()
	read(false)
}

// Position returns the durable fan-out position; after a restart the fan-out resumes after it. 0 is the beginning of
// the journal.
func (m *Manager) Position() uint64 { return m.stored.fanned.Load() }

// offer gives the session its copy of a record that its subscriptions match. The body is made once for all sessions
// that must keep it. due reports that callbacks are to be run, which must not happen under fan.mu.
func (st *state) offer(rec *message.Record, match *Matched, shared *body) (_ *body, due bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return shared, false
	}
	qos := min(rec.QoS, match.QoS)
	if st.vehicle {
		qos = min(qos, 1)
	}
	retain := rec.Retain && match.RetainAsPublished
	if qos == 0 && (st.link.conn == nil || st.link.holds == 0) {
		st.offerNow(rec, match, retain)
		return shared, false
	}
	if shared == nil {
		shared = st.m.newBody(rec)
	}
	l := letter{durable: qos > 0 && st.durable, size: shared.size()}
	if st.admit(l) == "" {
		st.push(&entry{body: shared, ids: match.IDs, shared: match.Shared, qos: qos, retain: retain, durable: l.durable}, l.size)
		st.m.metrics.fanned.Inc()
		st.pump()
	}
	return shared, len(st.after) > 0
}

// offerNow sends a message of QoS 0. It is dropped if the client is not connected or its connection has no room.
func (st *state) offerNow(rec *message.Record, match *Matched, retain bool) {
	reason := ""
	switch {
	case st.link.conn == nil || !st.link.started:
		reason = dropOffline
	case st.link.blocked:
		reason = dropNoRoom
	case !st.link.perm.Receive(rec.Topic):
		reason = dropNotPermitted
	}
	if reason == "" {
		p := frame.Publish{
			Topic: rec.Topic, Payload: rec.Payload, Retain: retain, Props: rec.Props, SubscriptionIDs: match.IDs,
		}
		if at := st.m.expiry(rec); at != 0 {
			p.HasExpiry, p.ExpiryLeft = true, secondsLeft(at, st.m.now())
		}
		switch ok, fits := st.transmit(&p, true); {
		case ok:
			st.m.metrics.fanned.Inc()
			return
		case !fits:
			reason = dropTooLarge
		default:
			reason = dropNoRoom
		}
	}
	st.m.metrics.dropped.WithLabelValues(reason).Inc()
}

// Deliver queues a message for one client, connected or not. Errors: errNoSession, ErrNotSubscribed, errNotConnected,
// errQueueFull, errExpired, errNotPermitted; no callback is called then.
func (m *Manager) Deliver(clientID string, d *message.Delivery) error {
	st := m.lookup(clientID)
	if st == nil {
		return errNoSession
	}
	st.mu.Lock()
	defer st.unlock()
	now := m.now()
	if st.ended || st.expired(now) {
		return errNoSession
	}
	e := &entry{body: &body{topic: d.Topic}, d: d}
	if d.Life != 0 {
		e.body.expires = now + d.Life.Milliseconds()
	}
	matched, qos := st.match(d.Topic, &e.ids)
	switch {
	case !matched:
		return ErrNotSubscribed
	case e.body.expires != 0 && e.body.expires <= now:
		return errExpired
	case st.link.conn == nil && qos == 0:
		return errNotConnected
	case st.link.conn != nil && !st.link.perm.Receive(d.Topic):
		return errNotPermitted
	}
	e.qos = min(qos, 1)
	e.durable = d.Durable && e.qos > 0 && st.durable
	rec := message.Record{Payload: d.Payload, Props: d.Props}
	rec = rec.Clone()
	e.body.payload, e.body.props = rec.Payload, rec.Props
	if err := st.enqueue(e); err != nil {
		return err
	}
	if e.durable {
		st.m.writer.mark(st, true)
	}
	m.metrics.directed.Inc()
	st.pump()
	return nil
}

// match merges the subscriptions that match the topic: the highest QoS, and all identifiers.
func (st *state) match(topic string, ids *[]uint32) (matched bool, qos byte) {
	for i := range st.subs {
		sub := &st.subs[i]
		if _, plain, _ := message.SplitShare(sub.Filter); !message.Match(plain, topic) {
			continue
		}
		matched, qos = true, max(qos, sub.QoS)
		if sub.ID != 0 {
			*ids = append(*ids, sub.ID)
		}
	}
	return matched, qos
}
