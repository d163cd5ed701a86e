package session

import (
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// state is the gateway's state of one session. There is one per session, so fields that a quiet vehicle does not need
// are behind nil pointers.
type state struct {
	m  *Manager
	id string

	timer timerPlace

	mu sync.Mutex // guards the rest

	link     link
	file     inFile
	subs     []Subscription // ordered by filter
	flow     *flow          // messages waiting and in flight; nil when there are none
	share    *share         // nil for a vehicle
	incoming *incoming      // QoS 2 identifiers in use by the client; nil when there are none
	will     *Will
	after    []func() // callbacks due; unlock runs them

	expiry   time.Duration // how long the session outlives its connection
	since    int64         // ms of the wall clock; when the connection began or ended
	endsAt   int64         // ms; when the session ends; 0 while connected, or never
	willAt   int64         // ms; when the will is due; 0 while it is not
	notAfter int64         // ms of the wall clock; the token's end; 0 none
	// permitted is the token's end as a time of now, set with willAt: the will may be sent until then. 0 means no
	// limit.
	permitted int64
	// floor is the journal's end when the session began: earlier QoS 2 records belong to another session.
	floor uint64

	claim   uint64 // of the current or last connection; 0 none
	gen     uint32 // counts the connections; a Session of another generation is void
	nextID  uint16 // the packet identifier assigned last
	version byte

	vehicle bool
	durable bool // outlives its connection, so it is in the state file
	ended   bool // out of the registry, or in it only until its connection has ended and its will is sent
	moved   bool // another gateway has the vehicle: the session ends with the connection
	running bool // a goroutine is running the callbacks

	online atomic.Bool // link.conn is not nil; readable without mu
}

// link is the session's part of its connection; the zero value while there is none. The session's lock guards it.
type link struct {
	conn          Outbound
	perm          Permissions
	maxPacket     uint32 // 0 no limit
	receiveMax    uint16
	aliasMax      uint16
	holds         uint16 // subscribe calls waiting for the disk; nothing is sent meanwhile
	started       bool   // the CONNACK is queued
	blocked       bool   // Enqueue has returned false since the last Writable
	readyReported bool   // OnPresence was called with Ready
	resumed       bool   // the session was present at CONNECT, and the client knows
	kicked        Reason // why the gateway ends the connection, "" while it does not
}

// kick records why the gateway ends the connection. The first reason counts.
func (l *link) kick(why Reason) {
	if l.kicked == "" {
		l.kicked = why
	}
}

// inFile is the state of a session with regard to the state file. The session's lock guards it.
type inFile struct {
	subsBatch uint64 // the writer's pass that has the last change of subs
	wipes     uint32 // messages that wipe removes
	listed    bool   // in the writer's list
	unsaved   bool   // the session record has changed since it was written
	saved     bool   // the state file has a record, or will have before any later batch is written
	wipe      bool   // everything in the state file is to go before anything else is written
}

// timerPlace is a session's place among the timers, guarded by their lock.
type timerPlace struct {
	at    int64 // ms
	place int32 // in the heap
}

// unlock releases mu and runs the callbacks that became due under it, one at a time and in order, even if several
// goroutines made them due.
func (st *state) unlock() {
	if st.running || len(st.after) == 0 {
		st.mu.Unlock()
		return
	}
	st.running = true
	defer func() {
		st.running = false
		st.mu.Unlock()
	}()
	for len(st.after) > 0 {
		st.runAfter()
	}
}

// runAfter runs the callbacks that are due, without mu. If one panics, those after it stay due.
func (st *state) runAfter() {
	due := st.after
	st.after = nil
	st.mu.Unlock()
	defer func() {
		st.mu.Lock()
		st.after = append(due, st.after...)
	}()
	for len(due) > 0 {
		fn := due[0]
		due = due[1:]
		fn()
	}
}

// unlockWait is like unlock, but returns only when all callbacks due by now have run, on any goroutine. It must not be
// called from a callback.
func (st *state) unlockWait() {
	if !st.running {
		st.unlock()
		return
	}
	ran := make(chan struct{})
	st.after = append(st.after, func() { close(ran) })
	st.mu.Unlock()
	<-ran
}

// expired reports whether a session without a connection has outlived its expiry.
func (st *state) expired(now int64) bool {
	return st.link.conn == nil && st.endsAt != 0 && st.endsAt <= now
}

// own reports whether a plain filter or topic is below the vehicle's own v1/{id}/cmd or v1/{id}/sys, where only the
// gateway publishes (Deliver).
func (st *state) own(plain string) bool {
	if !st.vehicle {
		return false
	}
	vin, branch, _ := message.SplitTopic(plain)
	return vin == st.id && (branch == "cmd" || branch == "sys")
}

// ready reports whether the client can be sent commands now.
func (st *state) ready() bool {
	if st.link.conn == nil || !st.link.started {
		return false
	}
	commands := "v1/" + st.id + "/cmd/+/+"
	for i := range st.subs {
		if _, plain, _ := message.SplitShare(st.subs[i].Filter); message.Overlaps(plain, commands) {
			return true
		}
	}
	return false
}

// changed marks the session record to be written; urgent when something waits for it.
func (st *state) changed(urgent bool) {
	if !st.durable || st.ended {
		return
	}
	st.file.unsaved = true
	st.m.writer.mark(st, urgent)
	st.notifyCell()
}

// subsChanged marks the subscriptions to be written.
func (st *state) subsChanged() {
	st.file.subsBatch = st.m.writer.next.Load()
	st.changed(true)
}

// schedule sets the timer to the session's next will or end.
func (st *state) schedule() {
	next := st.willAt
	if st.endsAt != 0 && (next == 0 || st.endsAt < next) {
		next = st.endsAt
	}
	st.m.timers.set(st, next)
}

// end removes the session from the index, the queues and the state file, and from the registry unless its connection is
// still there or its will is due. The caller has kicked the connection if there is one.
func (st *state) end(err error) {
	if st.ended {
		return
	}
	st.ended = true
	st.link.started = false
	st.notifyCell()
	for i := range st.subs {
		if _, plain, _ := message.SplitShare(st.subs[i].Filter); !st.own(plain) {
			st.m.index.Unsubscribe(st.id, st.subs[i].Filter)
		}
	}
	st.share.unsubscribe(st.subs...)
	st.subs, st.incoming, st.endsAt = nil, nil, 0
	st.wipeAll(false)
	st.failAll(err)
	if st.share != nil {
		st.m.shares.leave(st.share)
		st.share = nil
	}
	st.m.metrics.sessions.Dec()
	if st.willAt == 0 && st.link.conn == nil {
		st.leave()
	}
}

// wipeAll makes the writer remove everything that the state file has of the session.
func (st *state) wipeAll(urgent bool) {
	if !st.file.saved {
		return
	}
	st.file.wipe = true
	if st.flow != nil {
		st.file.wipes = uint32(st.flow.len() + len(st.flow.removed)) //nolint:gosec // bounded by MaxQueuedMessages
	}
	st.m.writer.mark(st, urgent)
}

// leave removes an ended session from the registry and the timers.
func (st *state) leave() {
	st.m.timers.set(st, 0)
	st.m.sessions.remove(st)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// deadline adds a duration to a time in ms. It returns 0, never, for MaxExpiry.
func deadline(now int64, d time.Duration) int64 {
	if d == MaxExpiry {
		return 0
	}
	return now + d.Milliseconds()
}
