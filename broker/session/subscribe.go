package session

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// Session is one connection's hold on its session. Once another connection has taken the session over, or
// after Detach, its methods do nothing. It is safe for concurrent use.
type Session struct {
	st    *state
	gen   uint32
	ready <-chan struct{}
}

// AwaitReady returns when what the connection publishes may go into the journal. It takes a moment at most.
func (s *Session) AwaitReady() {
	if s.ready != nil {
		<-s.ready
	}
}

// live reports whether the connection still holds the session. The caller holds the state's lock.
func (s *Session) live() bool {
	return s.st.gen == s.gen && s.st.link.conn != nil && !s.st.ended
}

// Start begins the delivery: the connection calls it once the CONNACK is queued.
func (s *Session) Start() {
	s.st.mu.Lock()
	defer s.st.unlock()
	if !s.live() || s.st.link.started {
		return
	}
	s.st.link.started = true
	s.st.tellReady()
	s.st.pump()
}

// Expiry is how long the session outlives the connection: what was asked, within the manager's limit.
func (s *Session) Expiry() time.Duration {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	return s.st.expiry
}

// SetPermissions replaces the permissions and the token's end after a token refresh.
func (s *Session) SetPermissions(p Permissions, notAfter time.Time) {
	s.st.mu.Lock()
	defer s.st.unlock()
	if !s.live() {
		return
	}
	s.st.link.perm, s.st.notAfter = p, millis(notAfter)
	s.st.dropRefused()
	s.st.changed(false)
}

// Detach ends the connection's hold on the session, after its last journal append. normal means that the client
// sent DISCONNECT 0x00: the will is discarded. reason is why the connection ended, unless the manager ended it. expiry, when not nil, replaces the session's expiry
// (MQTT 5, 3.14.2.2.2), but for a session that was to have none. When it returns, everybody has been told: what a later
// connection of the client has told comes after.
func (s *Session) Detach(normal bool, reason Reason, expiry *time.Duration) {
	s.st.mu.Lock()
	defer s.st.unlockTold()
	if s.st.gen != s.gen || s.st.link.conn == nil {
		return
	}
	s.st.disconnect(normal, reason, expiry)
}

// tellReady has OnReady called if the client can be sent commands, and OnPresence the first time.
func (st *state) tellReady() {
	if !st.ready() {
		return
	}
	if !st.link.told {
		st.link.told = true
		st.tellPresence(Presence{Connected: true, Ready: true})
	}
	if fn := st.m.onReady; fn != nil {
		st.after = append(st.after, func() { fn(st.id) })
	}
}

// Subscribe adds subscriptions and calls done with a reason code of MQTT 5 per filter (granted QoS or
// failure) when they are durable, which for a session without expiry is before Subscribe returns.
// Deliveries to the client pause until then, so that done can queue the SUBACK before retained messages.
// done must not block; it is not called when the connection no longer holds the session. id is the
// subscription identifier, 0 none; it replaces the ID in subs. Others are let in between two filters.
func (s *Session) Subscribe(subs []Subscription, id uint32, done func(codes []byte)) {
	st := s.st
	if !s.hold() {
		return
	}
	codes := make([]byte, len(subs))
	for i := range subs {
		sub := subs[i]
		sub.ID = id
		codes[i] = s.subscribe(sub)
	}
	st.mu.Lock()
	defer st.unlock()
	if !s.live() {
		return
	}
	s.whenDurable(func() {
		done(codes)
		st.mu.Lock()
		if s.live() {
			st.tellReady()
		}
		st.unlock()
	})
}

// hold lets nothing be sent until whenDurable has run what it is given. False when the connection no longer holds the
// session.
func (s *Session) hold() bool {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	if !s.live() {
		return false
	}
	s.st.link.holds++
	return true
}

// whenDurable runs fn when the session's subscriptions are in the state file, and ends a hold.
// A client that subscribes anew to what it had, as many do after a reconnect, does not wait.
func (s *Session) whenDurable(fn func()) {
	st := s.st
	finish := func() {
		st.mu.Lock()
		held := s.live()
		st.unlock()
		if !held {
			return
		}
		fn()
		st.mu.Lock()
		if s.live() {
			st.link.holds--
			st.pump()
		}
		st.unlock()
	}
	if !st.durable || st.file.subsBatch <= st.m.writer.committed.Load() {
		st.after = append(st.after, finish)
		return
	}
	later := func() {
		st.mu.Lock()
		st.after = append(st.after, finish)
		st.unlock()
	}
	if cell := st.m.o.Cell; cell != nil && st.vehicle {
		st.m.writer.after(func() { cell.Stored(st.id, later) })
		return
	}
	st.m.writer.after(later)
}

// subscribe adds or replaces one subscription, queues what is retained for it, and returns its reason code.
func (s *Session) subscribe(sub Subscription) byte {
	code, wantsRetained, since := s.enter(&sub)
	if wantsRetained {
		s.sendRetained(&sub, since)
	}
	return code
}

// enter puts a subscription among the session's and into the index. It begins after the record since.
func (s *Session) enter(sub *Subscription) (code byte, wantsRetained bool, since uint64) {
	st := s.st
	_, plain, isShared := message.SplitShare(sub.Filter)
	st.mu.Lock()
	own := st.own(plain)
	st.mu.Unlock()
	if !own { // nobody but Deliver sends on the vehicle's own topics: they have nothing to do with the fan-out
		st.m.fan.mu.Lock()
		defer st.m.fan.mu.Unlock()
		since = st.m.fan.reached
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if !s.live() {
		return frame.ReasonUnspecified, false, 0
	}
	i, existed := st.findSub(sub.Filter)
	if code := st.refuse(sub.Filter, existed); code != 0 {
		return code, false, 0
	}
	sub.QoS = min(sub.QoS, 2)
	if st.vehicle {
		sub.QoS = min(sub.QoS, 1)
	}
	if !existed || st.subs[i] != *sub {
		sub.Filter = strings.Clone(sub.Filter)
		if existed {
			st.subs[i] = *sub
		} else {
			st.subs = insertSub(st.subs, i, *sub)
		}
		if !own {
			st.m.index.Subscribe(st.id, *sub, since)
		}
		st.subsChanged()
	}
	return sub.QoS, !own && !isShared && (sub.RetainHandling == 0 || (sub.RetainHandling == 1 && !existed)), since
}

// refuse returns the reason code for a filter that the client does not get; 0 for one that it does, for which a place
// among its owner's subscriptions is taken then if it has none yet.
func (st *state) refuse(filter string, existed bool) (code byte) {
	o := st.m.bounds.Load()
	switch {
	case message.ValidFilter(filter) != nil:
		return frame.ReasonFilterInvalid
	case message.Levels(filter) > o.MaxTopicLevels:
		st.m.o.Rejected(rejectLevels)
		return frame.ReasonFilterInvalid
	case !st.link.perm.Subscribe(filter):
		st.m.o.Rejected("subscribe_not_permitted")
		if st.link.perm.Withheld(filter) {
			return frame.ReasonUnspecified
		}
		return frame.ReasonNotAuthorized
	case existed:
	case len(st.subs) >= o.MaxSubscriptions || st.filterBytes()+len(filter) > maxFilterBytes:
		st.m.o.Rejected("subscriptions")
		return frame.ReasonQuotaExceeded
	case !st.share.subscribe(filter, o.MaxSubscriptionsPerSubject):
		st.m.reject(rejectSubscriptions, st.share.owner)
		return frame.ReasonQuotaExceeded
	}
	return 0
}

// maxFilterBytes bounds the filters of one session together.
const maxFilterBytes = 256 << 10

func (st *state) filterBytes() int {
	n := 0
	for i := range st.subs {
		n += len(st.subs[i].Filter)
	}
	return n
}

// insertSub grows exactly by one while there are few: a vehicle has one or two.
func insertSub(subs []Subscription, i int, sub Subscription) []Subscription {
	if len(subs) < 4 {
		subs = slices.Grow(slices.Clip(subs), 1)
	}
	return slices.Insert(subs, i, sub)
}

func (st *state) findSub(filter string) (int, bool) {
	return slices.BinarySearchFunc(st.subs, filter, func(s Subscription, f string) int {
		return cmp.Compare(s.Filter, f)
	})
}

// Unsubscribe removes subscriptions; done is called as by Subscribe, with 0x00 or 0x11 per filter.
func (s *Session) Unsubscribe(filters []string, done func(codes []byte)) {
	st := s.st
	st.mu.Lock()
	defer st.unlock()
	if !s.live() {
		return
	}
	st.link.holds++
	codes := make([]byte, len(filters))
	for n, filter := range filters {
		i, ok := st.findSub(filter)
		if !ok {
			codes[n] = frame.ReasonNoSubscription
			continue
		}
		st.share.unsubscribe(st.subs[i])
		st.subs = slices.Delete(st.subs, i, i+1)
		if _, plain, _ := message.SplitShare(filter); !st.own(plain) {
			st.m.index.Unsubscribe(st.id, filter)
		}
		st.subsChanged()
	}
	s.whenDurable(func() { done(codes) })
}
