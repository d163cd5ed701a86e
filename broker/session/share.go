package session

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// Owner tells whose a session is: issuer, role and subject of the token that it was opened with, in the form of a session
// key. What a client may take of something that all share is counted by owner, whatever client identifiers it uses.
type Owner string

// ownerOfClient is the owner of what was kept for, or by, a client when nothing but the key of its session is known:
// services use {name} or {name}/… for an identifier.
func ownerOfClient(key string) Owner {
	id, role, issuer := message.SplitSessionKey(key)
	name, _, _ := strings.Cut(id, "/")
	if role == "" {
		return Owner(name)
	}
	return Owner(message.SessionKey(name, role, issuer))
}

// Subject is the owner's name, for people.
func (o Owner) Subject() string {
	name, _, _ := message.SplitSessionKey(string(o))
	return name
}

// share is what one owner holds. A vehicle has none: it has one session, whose own bounds are its share.
type share struct {
	owner    Owner
	sessions int          // under shares.mu
	subs     atomic.Int64 // of all its sessions, see places
	bytes    atomic.Int64 // queued for all its sessions
}

// shares are the owners that have sessions.
type shares struct {
	mu      sync.Mutex
	byOwner map[Owner]*share
}

// join gives the owner's share one session more; nil when it has limit already.
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

// levelsAPlace: a filter takes one place among its owner's subscriptions for so many levels. What a message costs the
// index is the levels of the filters that begin like its topic.
const levelsAPlace = 8

// places are how many places filters take.
func places(subs ...Subscription) (n int64) {
	for i := range subs {
		n += int64(message.Levels(subs[i].Filter)+levelsAPlace-1) / levelsAPlace
	}
	return n
}

// subscribe takes the places of one more filter.
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

// unsubscribe gives the places of filters back.
func (sh *share) unsubscribe(subs ...Subscription) {
	if sh != nil {
		sh.subs.Add(-places(subs...))
	}
}

// overBound tells which bound stands in the way of a message for the owner. It holds at most its share, and never more
// than what is left for all others: whoever comes finds room.
func (sh *share) overBound(o *Bounds, free, size int64) string {
	switch held := sh.bytes.Load(); {
	case held+size > o.MaxQueuedBytesPerSubject:
		return dropOwnerBytes
	case held+size > free:
		return dropTotalBytes
	}
	return ""
}

// commandPart of MaxTotalBytes, one in so many, is for messages that are directed to one client: commands and notices.
const commandPart = 4

// forSubscribers is how much of MaxTotalBytes copies for subscribers may take.
func (b *Bounds) forSubscribers() int64 { return b.MaxTotalBytes - b.MaxTotalBytes/commandPart }

// assign makes the session an owner's. Its place there must be taken already, or need none.
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

// owned is the owner of a session that has one.
func (st *state) owned() Owner {
	if st.share == nil {
		return ""
	}
	return st.share.owner
}

// shortages remember which bounds of what all share, or of one owner, somebody has met lately.
type shortages struct {
	mu   sync.Mutex
	last map[string]Shortage
}

// Shortage is a bound that somebody has met.
type Shortage struct {
	// Bound is the reason that session_dropped_total or rejected_total counts it under.
	Bound string
	// Owner met it last; empty for a vehicle, or where it does not matter.
	Owner Owner
	Since time.Time // of an unbroken series of minutes
	last  time.Time
}

// shortageLasts is how long a bound that was met counts as a shortage.
const shortageLasts = time.Minute

// note remembers that a bound was met, and reports whether that is news.
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

// Shortages are the bounds that somebody has met within the last minute, and why others may have lost messages.
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

// meet counts a bound that a client has met, and tells the operator when that is news.
func (m *Manager) meet(bound string, owner Owner) {
	if m.shortages.note(bound, owner, m.o.Now()) {
		m.log.Warn("session limit reached", "bound", bound, "subject", owner.Subject())
	}
}

// dropsNoted: of so many dropped messages one is remembered as a shortage. There are as many as a hundred a record.
const dropsNoted = 64

// drop counts a message that a bound keeps out of a queue.
func (st *state) drop(reason string) {
	st.m.metrics.dropped.WithLabelValues(reason).Inc()
	switch reason {
	case dropOwnerBytes, dropTotalBytes, dropStateFull:
		if st.m.drops.Add(1)%dropsNoted == 1 {
			st.m.meet(reason, st.owned())
		}
	}
}

// reject counts a request that a bound refuses.
func (m *Manager) reject(reason string, owner Owner) {
	m.o.Rejected(reason)
	m.meet(reason, owner)
}
