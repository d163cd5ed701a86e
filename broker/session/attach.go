package session

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cellgate/broker/message"
)

// What a Presence gives as the reason of a disconnect.
const (
	reasonDisconnect = "disconnect"
	reasonLost       = "lost"
	reasonTakenOver  = "taken over"
	reasonAdmin      = "admin"
)

// Attach gives the connection its session. An older connection of the client identifier is kicked and
// awaited first; attaches of one client identifier are serialised. present tells that an existing session
// was resumed. It returns after everything that must survive the CONNACK is durable: a new session that
// outlives its connection, and the end of an old one that a clean start discards.
//
// Nothing is sent to the connection until Session.Start.
//
// Errors: ErrClientID, ErrWillNotPermitted, ErrTakeover (with the context's error), ErrSessionEnded (purged meanwhile),
// ErrClosed, the journal's error when an older will cannot be appended, the context's error.
func (m *Manager) Attach(ctx context.Context, a Attach) (s *Session, present bool, err error) {
	if a.ClientID == "" || len(a.ClientID) > MaxClientIDBytes {
		return nil, false, ErrClientID
	}
	if a.Will != nil && !willPermitted(a.Perm, a.Will.Topic) {
		m.o.Rejected("will_not_permitted")
		return nil, false, ErrWillNotPermitted
	}
	a.ClientID = strings.Clone(a.ClientID)
	if err := m.gates.lock(ctx, a.ClientID); err != nil {
		return nil, false, err
	}
	defer m.gates.unlock(a.ClientID)
	if err := m.evict(ctx, a.ClientID); err != nil {
		return nil, false, err
	}
	if err := m.settleWill(&a); err != nil {
		return nil, false, err
	}
	st, present, wait := m.open(&a)
	if wait {
		if err := m.writer.wait(ctx); err != nil {
			st.abandon()
			return nil, false, err
		}
	}
	if m.closed.Err() != nil {
		return nil, false, ErrClosed
	}
	s, err = st.connect(&a, present)
	return s, present, err
}

// evict ends an older connection of the client identifier: kicked, awaited until it appends no more to the
// journal, and detached if it has not detached itself.
func (m *Manager) evict(ctx context.Context, id string) error {
	st := m.lookup(id)
	if st == nil {
		return nil
	}
	st.mu.Lock()
	conn, gen := st.conn, st.gen
	if conn != nil {
		conn.Kick(ReasonTakenOver)
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
		return ErrClosed
	}
	st.mu.Lock()
	if st.gen == gen && st.conn != nil {
		st.disconnect(reasonTakenOver, nil)
	}
	st.unlock()
	return nil
}

// open finds the session to resume or makes a new one. wait tells that the connection may only learn of it
// when the writer has made it durable.
func (m *Manager) open(a *Attach) (st *state, present, wait bool) {
	expiry := min(a.Expiry, m.bounds.Load().MaxSessionExpiry)
	if old := m.lookup(a.ClientID); old != nil {
		old.mu.Lock()
		if !old.ended && !a.CleanStart && !old.expired(m.now()) {
			old.setExpiry(expiry)
			old.unlock()
			return old, true, false
		}
		wait = old.saved || old.unsaved
		old.end(ErrSessionEnded)
		old.leave()
		old.unlock()
	}
	now := m.now()
	st = &state{
		m: m, id: a.ClientID, vehicle: a.Vehicle, durable: expiry > 0, expiry: expiry,
		since: now, endsAt: deadline(now, expiry), floor: m.journal.Last(),
	}
	m.mu.Lock()
	m.sessions[st.id] = st
	m.mu.Unlock()
	m.metrics.sessions.Inc()
	st.mu.Lock()
	defer st.unlock()
	st.changed(true)
	st.schedule() // should the attach fail, the session expires like any other
	return st, false, wait || st.durable
}

// abandon ends a new session of which its client cannot be told: it must not find it present the next time, with
// none of the subscriptions that it would rely on.
func (st *state) abandon() {
	st.mu.Lock()
	defer st.unlock()
	st.end(ErrSessionEnded)
}

// setExpiry changes how long the session outlives its connection. From 0 it never rises again: a session
// without expiry does not live to be resumed.
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
	st.forgetDurable()
	if st.saved {
		st.wipe = true
		st.m.writer.mark(st, true)
	}
}

// connect binds the connection to the session and begins a new generation.
func (st *state) connect(a *Attach, resumed bool) (*Session, error) {
	st.mu.Lock()
	defer st.unlock()
	if st.ended {
		return nil, ErrSessionEnded
	}
	st.gen++
	st.conn, st.perm, st.version, st.vehicle = a.Conn, a.Perm, a.Version, a.Vehicle
	st.online.Store(true)
	st.started, st.blocked, st.holds = false, false, 0
	st.receiveMax, st.maxPacket = a.ReceiveMaximum, a.MaxPacket
	if st.receiveMax == 0 {
		st.receiveMax = 65535
	}
	st.aliasMax = min(a.AliasMaximum, uint16(min(st.m.bounds.Load().MaxAliases, 65535))) //nolint:gosec // within 16 bits by min
	st.since, st.endsAt, st.willAt = st.m.now(), 0, 0
	st.will, st.notAfter = cloneWill(a.Will), millis(a.NotAfter)
	st.m.timers.set(st, 0)
	if resumed {
		st.dropRefused()
	}
	st.changed(resumed)
	st.tellPresence("")
	st.m.metrics.connected.Inc()
	return &Session{st: st, gen: st.gen}, nil
}

// dropRefused takes away the resumed subscriptions that the client's permissions no longer allow.
func (st *state) dropRefused() {
	kept := st.subs[:0:0]
	for _, sub := range st.subs {
		if st.perm.Subscribe(sub.Filter) {
			kept = append(kept, sub)
			continue
		}
		if _, plain, _ := message.SplitShare(sub.Filter); !st.own(plain) {
			st.m.index.Unsubscribe(st.id, sub.Filter)
		}
		st.m.o.Rejected("subscription_not_permitted")
	}
	st.subs = kept
}

// disconnect ends the connection's hold: what was in flight waits to be sent again, the will and the
// session's end are due from now. expiry, when not nil, replaces the session's.
func (st *state) disconnect(reason string, expiry *time.Duration) {
	perm := st.perm
	if reason == reasonLost && st.kicked {
		reason = reasonAdmin
	}
	st.kicked = false
	st.conn, st.perm, st.started, st.blocked, st.holds = nil, nil, false, false, 0
	st.online.Store(false)
	st.m.metrics.connected.Dec()
	st.since = st.m.now()
	if expiry != nil && st.expiry > 0 {
		st.setExpiry(min(*expiry, st.m.bounds.Load().MaxSessionExpiry))
	}
	if st.incoming != nil {
		st.incoming.dropPending()
	}
	st.rewind()
	st.armWill(reason, perm)
	st.tellPresence(reason)
	switch {
	case st.ended:
		if st.willAt == 0 {
			st.leave()
		}
	case st.expiry == 0:
		st.end(ErrSessionEnded)
	default:
		st.endsAt = deadline(st.since, st.expiry)
		st.changed(false)
	}
	st.schedule()
}

func (st *state) tellPresence(reason string) {
	fn := st.m.onPresence
	if fn == nil {
		return
	}
	p := Presence{
		ClientID: st.id, Vehicle: st.vehicle, Connected: reason == "", Epoch: st.gen,
		At: time.UnixMilli(st.since), Reason: reason,
	}
	st.after = append(st.after, func() { fn(p) })
}
