package session

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// Session is one connection's handle on its session. After a takeover or Detach its methods do nothing. It is safe for
// concurrent use.
type Session struct {
	st    *state
	gen   uint32
	epoch func() uint64
	ready <-chan struct{}
}

// Epoch returns the epoch of the connection's records; 0 for those of services and in a cell of one gateway, whose records then
// stay readable by builds that do not know epochs. It does not block.
func (s *Session) Epoch() uint64 {
	if s.epoch == nil {
		return 0
	}
	return s.epoch()
}

// AwaitReady returns when the connection's messages may be appended to the journal. It waits only briefly.
func (s *Session) AwaitReady() {
	if s.ready != nil {
		<-s.ready
	}
}

// live reports whether the connection still holds the session. The caller holds the state's lock.
func (s *Session) live() bool {
	return s.st.gen == s.gen && s.st.link.conn != nil && !s.st.ended
}

// Start begins the delivery. The connection calls it once the CONNACK is queued.
func (s *Session) Start() {
	s.st.mu.Lock()
	defer s.st.unlock()
	if !s.live() || s.st.link.started {
		return
	}
	s.st.link.started = true
	s.st.reportReady()
	s.st.pump()
}

// Expiry returns how long the session outlives the connection: the requested time within the manager's limit.
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

// Detach releases the session after the connection's last journal append. normal means that the client sent DISCONNECT
// 0x00: the will is discarded. reason is why the connection ended, unless the manager ended it. expiry, if not nil,
// replaces the session's expiry (MQTT 5, 3.14.2.2.2), except for a session without expiry. Its callbacks have run when
// it returns, so they come before those of a later connection.
func (s *Session) Detach(normal bool, reason Reason, expiry *time.Duration) {
	s.st.mu.Lock()
	defer s.st.unlockWait()
	if s.st.gen != s.gen || s.st.link.conn == nil {
		return
	}
	s.st.disconnect(normal, reason, expiry)
}

// reportReady calls OnReady if the client can be sent commands, and OnPresence the first time.
func (st *state) reportReady() {
	if !st.ready() {
		return
	}
	if !st.link.readyReported {
		st.link.readyReported = true
		st.reportPresence(Presence{Connected: true, Ready: true})
	}
	if fn := st.m.onReady; fn != nil {
		st.after = append(st.after, func() { fn(st.id) })
	}
}

// Subscribe adds subscriptions. It calls done with an MQTT 5 reason code per filter (granted QoS or failure) when they
// are durable; for a session without expiry that is before Subscribe returns. Deliveries to the client pause until
// then, so that done can queue the SUBACK before retained messages. done must not block; it is not called if the
// connection no longer holds the session. id is the subscription identifier, 0 for none; it replaces the ID in subs.
// The lock is released between two filters.
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
			st.reportReady()
		}
		st.unlock()
	})
}

// hold pauses deliveries until whenDurable has run its function. It returns false if the connection no longer holds the
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

// whenDurable runs fn when the session's subscriptions are in the state file, and ends a hold. A client that repeats
// its subscriptions, as many do after a reconnect, does not wait.
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

// subscribe adds or replaces one subscription, queues its retained messages, and returns its reason code.
func (s *Session) subscribe(sub Subscription) byte {
	code, wantsRetained, since := s.enter(&sub)
	if wantsRetained {
		s.sendRetained(&sub, since)
	}
	return code
}

// enter adds a subscription to the session and the index. It begins after the record since.
func (s *Session) enter(sub *Subscription) (code byte, wantsRetained bool, since uint64) {
	st := s.st
	_, plain, isShared := message.SplitShare(sub.Filter)
	st.mu.Lock()
	own := st.own(plain)
	st.mu.Unlock()
	if !own { // only Deliver sends on the vehicle's own topics, so they are not part of the fan-out
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

// refuse returns the reason code for a refused filter, and 0 for one that is allowed. A new allowed filter takes its
// places in the owner's share.
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

const maxFilterBytes = 256 << 10

func (st *state) filterBytes() int {
	n := 0
	for i := range st.subs {
		n += len(st.subs[i].Filter)
	}
	return n
}

// insertSub grows a short slice by exactly one: a vehicle has one or two subscriptions.
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

// Unsubscribe removes subscriptions. done is called as by Subscribe, with 0x00 or 0x11 per filter.
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
