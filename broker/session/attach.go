package session

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// Attach opens the session of a connection. It first kicks an older connection of the same client and waits for it to
// end; attaches of one client are serialised. present reports whether an existing session was resumed. Attach returns
// once everything that must survive the CONNACK is durable: a session that outlives its connection if it is new or from another gateway,
// and the end of an old one that a clean start discards.
//
// Nothing is sent to the connection until Session.Start.
//
// Errors: errClientID, ErrWillNotPermitted, ErrWillTopic, ErrSessions, ErrTakeover (with the context's error),
// errSessionEnded (purged meanwhile), errClosed, the journal's error when an older will cannot be appended, the
// context's error.
func (m *Manager) Attach(ctx context.Context, a Attach) (s *Session, present bool, err error) {
	if id, _, _ := message.SplitSessionKey(a.Key); id == "" || len(id) > maxClientIDBytes || len(a.Key) > maxKeyBytes {
		return nil, false, errClientID
	}
	if a.Will != nil && !willPermitted(a.Perm, a.Will.Topic) {
		m.o.Rejected("will_not_permitted")
		return nil, false, ErrWillNotPermitted
	}
	if a.Will != nil && message.Levels(a.Will.Topic) > m.bounds.Load().MaxTopicLevels {
		m.o.Rejected(rejectLevels)
		return nil, false, ErrWillTopic
	}
	if a.Owner == "" {
		a.Owner = ownerOfClient(a.Key)
	}
	a.Key = strings.Clone(a.Key)
	if err := m.gates.lock(ctx, a.Key); err != nil {
		return nil, false, err
	}
	defer m.gates.unlock(a.Key)
	if err := m.evict(ctx, a.Key); err != nil {
		return nil, false, err
	}
	if err := m.finishWill(&a); err != nil {
		return nil, false, err
	}
	if err := m.claim(ctx, &a); err != nil {
		m.log.Error("session of another gateway cannot be read; the vehicle starts a new one", "vin", a.Key, "err", err)
	}
	st, present, wait, err := m.open(&a)
	if err != nil {
		return nil, false, err
	}
	if wait {
		if err := m.writer.wait(ctx, m.writer.after); err != nil {
			st.abandon()
			return nil, false, err
		}
	}
	if m.closed.Err() != nil {
		return nil, false, errClosed
	}
	if s, err = st.connect(&a, present); err != nil {
		return nil, false, err
	}
	if !present {
		m.inCell(ctx, &a)
	}
	if a.claim != 0 && !m.o.Cell.Attached(a.Key, a.claim) {
		m.Moved(a.Key, a.claim)
	}
	return s, present, nil
}

// evict ends an older connection of the client: it kicks it, waits until it appends no more to the journal, and
// detaches it if it has not detached itself.
func (m *Manager) evict(ctx context.Context, id string) error {
	st := m.lookup(id)
	if st == nil {
		return nil
	}
	st.mu.Lock()
	conn, gen := st.link.conn, st.gen
	if conn != nil {
		st.link.kick(ReasonTakeover)
		conn.Kick(frame.ReasonTakenOver, "")
		m.metrics.takeovers.Inc()
	}
	st.unlock()
	if conn == nil {
		return nil
	}
	select {
	case <-conn.Drained():
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrTakeover, ctx.Err())
	case <-m.closed.Done():
		return errClosed
	}
	st.mu.Lock()
	if st.gen == gen && st.link.conn != nil {
		st.disconnect(false, ReasonTakeover, nil)
	}
	st.unlock()
	return nil
}

// open finds the session to resume or makes a new one. wait reports whether the connection must not learn of the
// session until the writer has made it durable. The only error is ErrSessions, which leaves an old session unchanged.
func (m *Manager) open(a *Attach) (st *state, present, wait bool, err error) {
	expiry := min(a.Expiry, m.bounds.Load().MaxExpiry)
	old := m.lookup(a.Key)
	if old != nil {
		old.mu.Lock()
		if !old.ended && !a.CleanStart && !old.expired(m.now()) {
			old.setExpiry(expiry)
			old.unlock()
			return old, true, a.adopted, nil
		}
		old.mu.Unlock() // the gate keeps others from starting a session under this identifier
	}
	sh, err := m.place(a, old)
	if err != nil {
		return nil, false, false, err
	}
	if old != nil {
		old.mu.Lock()
		wait = old.file.saved || old.file.unsaved
		old.end(errSessionEnded)
		old.leave()
		old.unlock()
	}
	now := m.now()
	st = &state{
		m: m, id: a.Key, share: sh, vehicle: a.Vehicle, durable: expiry > 0, expiry: expiry,
		since: m.wall(), endsAt: deadline(now, expiry), floor: m.journal.Last(),
	}
	m.sessions.put(st)
	m.metrics.sessions.Inc()
	st.mu.Lock()
	defer st.unlock()
	st.changed(true)
	st.schedule() // if the attach fails, the session expires like any other
	return st, false, wait || st.durable, nil
}

// place reserves a place for one more session of the owner. The session that it replaces releases its own place right
// afterwards.
func (m *Manager) place(a *Attach, old *state) (*share, error) {
	if a.Vehicle {
		return nil, nil
	}
	limit := m.bounds.Load().MaxPerSubject
	if old != nil {
		old.mu.Lock()
		if old.owned() == a.Owner {
			limit++
		}
		old.mu.Unlock()
	}
	sh := m.shares.join(a.Owner, limit)
	if sh == nil {
		m.reject(rejectSessions, a.Owner)
		return nil, ErrSessions
	}
	return sh, nil
}

// abandon ends a new session when its client could not be told about it. Otherwise the client's next connection would
// find it present, without the subscriptions that it relies on.
func (st *state) abandon() {
	st.mu.Lock()
	defer st.unlock()
	st.end(errSessionEnded)
}

// setExpiry changes how long the session outlives its connection. It is never raised from 0, because a session without
// expiry cannot be resumed.
func (st *state) setExpiry(expiry time.Duration) {
	if st.expiry == expiry {
		return
	}
	st.expiry = expiry
	if expiry > 0 {
		st.changed(false)
		return
	}
	st.durable = false
	st.wipeAll(true)
	st.forgetDurable()
}

// connect binds the connection to the session and starts a new generation.
func (st *state) connect(a *Attach, resumed bool) (*Session, error) {
	st.mu.Lock()
	defer st.unlock()
	if st.ended {
		return nil, errSessionEnded
	}
	st.gen++
	st.claim, st.moved = a.claim, false
	st.version, st.vehicle = a.Version, a.Vehicle
	st.link = link{
		conn: a.Conn, perm: a.Perm, maxPacket: a.MaxPacket, receiveMax: cmp.Or(a.ReceiveMaximum, 65535),
		aliasMax: min(a.AliasMaximum, maxAliases), resumed: resumed,
	}
	st.online.Store(true)
	st.since, st.endsAt, st.willAt = st.m.wall(), 0, 0
	st.will, st.notAfter = cloneWill(a.Will), millis(a.NotAfter)
	st.m.timers.set(st, 0)
	if resumed {
		st.resume(a)
	}
	st.changed(resumed)
	st.reportPresence(Presence{Connected: true})
	st.m.metrics.connected.Inc()
	return &Session{st: st, gen: st.gen, epoch: a.epoch, ready: a.ready}, nil
}

// resume assigns a resumed session to the connection's owner if it had another one.
func (st *state) resume(a *Attach) {
	switch {
	case a.Vehicle:
		st.assign(nil)
	case st.owned() != a.Owner:
		st.assign(st.m.shares.join(a.Owner, math.MaxInt))
	}
	st.dropRefused()
}

// dropRefused removes the resumed subscriptions that the client's permissions no longer allow.
func (st *state) dropRefused() {
	kept, levels := st.subs[:0:0], st.m.bounds.Load().MaxTopicLevels
	for _, sub := range st.subs {
		if st.link.perm.Subscribe(sub.Filter) && message.Levels(sub.Filter) <= levels {
			kept = append(kept, sub)
			continue
		}
		if _, plain, _ := message.SplitShare(sub.Filter); !st.own(plain) {
			st.m.index.Unsubscribe(st.id, sub.Filter)
		}
		st.m.o.Rejected("subscription_not_permitted")
		st.share.unsubscribe(sub)
	}
	st.subs = kept
}

// disconnect releases the session from its connection. Messages in flight will be sent again; the delays of the will
// and of the session's end start now. If normal, the will is discarded. expiry, if not nil, replaces the session's.
func (st *state) disconnect(normal bool, reason Reason, expiry *time.Duration) {
	perm := st.link.perm
	if st.link.kicked != "" && reason != ReasonClient {
		reason = st.link.kicked
	}
	st.link = link{}
	st.online.Store(false)
	st.m.metrics.connected.Dec()
	now := st.m.now()
	st.since = st.m.wall()
	if expiry != nil && st.expiry > 0 {
		st.setExpiry(min(*expiry, st.m.bounds.Load().MaxExpiry))
	}
	if st.incoming != nil {
		st.incoming.dropPending()
	}
	st.rewind()
	st.armWill(normal, perm, now)
	st.reportPresence(Presence{Reason: reason})
	switch {
	case st.moved && !st.ended:
		st.leaveMoved(now)
	case st.ended:
		if st.willAt == 0 {
			st.leave()
		}
	case st.expiry == 0:
		st.end(errSessionEnded)
	default:
		st.endsAt = deadline(now, st.expiry)
		st.changed(false)
	}
	st.schedule()
}

func (st *state) reportPresence(p Presence) {
	fn := st.m.onPresence
	if fn == nil {
		return
	}
	p.Key, p.Vehicle, p.Epoch, p.Claim, p.At = st.id, st.vehicle, st.gen, st.claim, time.UnixMilli(st.since)
	if p.Ready {
		p.At = time.UnixMilli(st.m.wall())
	}
	st.after = append(st.after, func() { fn(p) })
}
