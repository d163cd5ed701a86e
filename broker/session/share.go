package session

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// Owner identifies to whom a session belongs: issuer, role and subject of its token, in the form of a session key.
// Shared resources are counted by owner, whatever client identifiers it uses.
type Owner string

// ownerOfClient derives the owner from a session key when nothing else is known. Services use {name} or {name}/… as
// client identifier.
func ownerOfClient(key string) Owner {
	id, role, issuer := message.SplitSessionKey(key)
	name, _, _ := strings.Cut(id, "/")
	if role == "" {
		return Owner(name)
	}
	return Owner(message.SessionKey(name, role, issuer))
}

// subject returns the owner's name for display.
func (o Owner) subject() string {
	name, _, _ := message.SplitSessionKey(string(o))
	return name
}

// share counts the resources of one owner. A vehicle has none: the bounds of its single session suffice.
type share struct {
	owner    Owner
	sessions int          // under shares.mu
	subs     atomic.Int64 // of all its sessions, see places
	bytes    atomic.Int64 // queued for all its sessions
}

// shares holds the owners that have sessions.
type shares struct {
	mu      sync.Mutex
	byOwner map[Owner]*share
}

// join adds a session to the owner's share. It returns nil if the owner already has limit sessions.
func (s *shares) join(owner Owner, limit int) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.byOwner[owner]
	if sh == nil {
		sh = &share{owner: owner}
		s.byOwner[owner] = sh
	}
	if sh.sessions >= limit {
		return nil
	}
	sh.sessions++
	return sh
}

func (s *shares) leave(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.sessions--; sh.sessions == 0 {
		delete(s.byOwner, sh.owner)
	}
}

// levelsAPlace is the number of levels for which a filter takes one of its owner's subscription places: the index's
// cost per message grows with the levels of the filters.
const levelsAPlace = 8

func places(subs ...Subscription) (n int64) {
	for i := range subs {
		n += int64(message.Levels(subs[i].Filter)+levelsAPlace-1) / levelsAPlace
	}
	return n
}

// subscribe takes the places of one more filter. It returns false if limit would be exceeded.
func (sh *share) subscribe(filter string, limit int) bool {
	n := places(Subscription{Filter: filter})
	if sh == nil {
		return true
	}
	if sh.subs.Add(n) > int64(limit) {
		sh.subs.Add(-n)
		return false
	}
	return true
}

func (sh *share) unsubscribe(subs ...Subscription) {
	if sh != nil {
		sh.subs.Add(-places(subs...))
	}
}

// overBound returns the bound that a message for the owner exceeds. An owner holds at most its share, and at most as
// much as is free for all others, so a newcomer always finds room.
func (sh *share) overBound(o *Bounds, free, size int64) string {
	switch held := sh.bytes.Load(); {
	case held+size > o.MaxQueuedBytesPerSubject:
		return dropOwnerBytes
	case held+size > free:
		return dropTotalBytes
	}
	return ""
}

// commandPart is the divisor for the part of MaxTotalBytes that is reserved for directed messages: commands and
// notices.
const commandPart = 4

// forSubscribers returns how much of MaxTotalBytes copies for subscribers may take.
func (b *Bounds) forSubscribers() int64 { return b.MaxTotalBytes - b.MaxTotalBytes/commandPart }

// assign makes the owner of sh the session's owner. The session's place in sh must have been taken by join, unless sh
// is nil.
func (st *state) assign(sh *share) {
	old := st.share
	if old == sh {
		return
	}
	var bytes int64
	if st.flow != nil {
		bytes = st.flow.bytes
	}
	if st.share = sh; sh != nil {
		sh.subs.Add(places(st.subs...))
		sh.bytes.Add(bytes)
	}
	if old != nil {
		old.subs.Add(-places(st.subs...))
		old.bytes.Add(-bytes)
		st.m.shares.leave(old)
	}
}

// owned returns the session's owner; it is empty for a vehicle.
func (st *state) owned() Owner {
	if st.share == nil {
		return ""
	}
	return st.share.owner
}

// SubjectUse returns, of each bound of a token subject, the part that the subject nearest to it uses.
func (m *Manager) SubjectUse() map[string]float64 {
	o := m.bounds.Load()
	use := map[string]float64{"sessions": 0, "subscriptions": 0, "queued_bytes": 0, "retained": 0}
	note := func(what string, used, bound int64) { use[what] = max(use[what], float64(used)/float64(max(1, bound))) }
	m.shares.mu.Lock()
	for _, sh := range m.shares.byOwner {
		note("sessions", int64(sh.sessions), int64(o.MaxPerSubject))
		note("subscriptions", sh.subs.Load(), int64(o.MaxSubscriptionsPerSubject))
		note("queued_bytes", sh.bytes.Load(), o.MaxQueuedBytesPerSubject)
	}
	m.shares.mu.Unlock()
	r := &m.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, by := range r.publishers {
		note("retained", int64(by.topics), int64(o.MaxRetainedPerSubject))
	}
	return use
}

// shortages records which bounds were reached lately.
type shortages struct {
	mu   sync.Mutex
	last map[string]Shortage
}

// Shortage is a bound that was reached.
type Shortage struct {
	// Bound is the reason that session_dropped_total or rejected_total counts it under.
	Bound string
	// Owner reached it last; empty for a vehicle, or where it does not matter.
	Owner Owner
	Since time.Time // start of an unbroken series of minutes
	last  time.Time
}

// shortageLasts is how long a reached bound counts as a shortage.
const shortageLasts = time.Minute

// note records that a bound was reached. It reports whether this starts a new shortage.
func (s *shortages) note(bound string, owner Owner, now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.last[bound]
	if news = !known || now.Sub(was.last) > shortageLasts; news {
		was.Since = now
	}
	s.last[bound] = Shortage{Bound: bound, Owner: owner, Since: was.Since, last: now}
	return news
}

// Shortages returns the bounds that were reached within the last minute.
func (m *Manager) Shortages() []Shortage {
	s := &m.shortages
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Shortage
	for _, v := range s.last {
		if time.Since(v.last) <= shortageLasts {
			all = append(all, v)
		}
	}
	return all
}

// meet records that a client has reached a bound, and logs the start of a shortage.
func (m *Manager) meet(bound string, owner Owner) {
	if m.shortages.note(bound, owner, time.Now()) { // not the time that the gateway has run: it lags after a stop
		m.log.Warn("session limit reached", "bound", bound, "subject", owner.subject())
	}
}

// dropsNoted is the sampling rate for shortages: one in so many dropped messages is recorded, since one record can
// cause a hundred drops.
const dropsNoted = 64

// drop counts a message that a bound refuses.
func (st *state) drop(reason string) {
	st.m.metrics.dropped.WithLabelValues(reason).Inc()
	switch reason {
	case dropOwnerBytes, dropTotalBytes, dropStateFull:
		if st.m.drops.Add(1)%dropsNoted == 1 {
			st.m.meet(reason, st.owned())
		}
	}
}

func (m *Manager) reject(reason string, owner Owner) {
	m.o.Rejected(reason)
	m.meet(reason, owner)
}
