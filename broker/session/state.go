package session

import (
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/message"
)

// state is what the gateway knows of one client identifier. It exists for every session, so whatever a
// quiet vehicle does not need hangs behind a nil pointer.
type state struct {
	m  *Manager
	id string

	timer timerPlace

	mu sync.Mutex // guards the rest

	link     link
	file     inFile
	subs     []Subscription // ordered by filter
	flow     *flow          // messages waiting and in flight; nil when there are none
	share    *share         // its owner's; nil for a vehicle
	incoming *incoming      // QoS 2 identifiers in use by the client; nil when there are none
	will     *Will
	after    []func() // callbacks due; unlock runs them

	expiry   time.Duration // how long the session outlives its connection
	since    int64         // ms of the wall clock; when the connection began or ended
	endsAt   int64         // ms; when the session ends; 0 while connected, or never
	willAt   int64         // ms; when the will is due; 0 while it is not
	notAfter int64         // ms of the wall clock; the token's end; 0 none
	// permitted is the token's end by now, set with willAt: up to then the will may be sent. 0: for ever.
	permitted int64
	// floor is where the journal stood when the session began: QoS 2 records up to it are another session's.
	floor uint64

	claim   uint64 // of the connection, and the last one; 0 none
	gen     uint32 // counts the connections; a Session of another generation is void
	nextID  uint16 // the packet identifier given last
	version byte

	vehicle bool
	durable bool // outlives its connection, so it is in the state file
	ended   bool // out of the manager's map, or there only until its connection is gone and its will sent
	moved   bool // another gateway has the vehicle: the session ends with the connection
	running bool // some goroutine is running the callbacks

	online atomic.Bool // link.conn is not nil: for who does not take mu
}

// link is what a session has of its connection; the zero value while there is none. The session's lock guards it.
type link struct {
	conn       Outbound
	perm       Permissions
	maxPacket  uint32 // 0 no limit
	receiveMax uint16
	aliasMax   uint16
	holds      uint16 // subscribe calls that wait for the disk: nothing is sent meanwhile
	started    bool   // the CONNACK is queued
	blocked    bool   // Enqueue has returned false since the last Writable
	told       bool   // that the client is ready
	resumed    bool   // and the client was told
	kicked     Reason // why the gateway ends the connection, "" while it does not
}

// kick notes why the gateway ends the connection. The first reason is the one.
func (l *link) kick(why Reason) {
	if l.kicked == "" {
		l.kicked = why
	}
}

// inFile is what the writer is to write of a session, and has written. The session's lock guards it.
type inFile struct {
	subsBatch uint64 // the writer's batch that has the last change of subs
	wipes     uint32 // messages that wipe removes
	listed    bool   // in the writer's list
	unsaved   bool   // the session record has changed since it was written
	saved     bool   // the state file has a record, or will have before any later batch is written
	wipe      bool   // everything in the state file is to go before anything else is written
}

// timerPlace is a session's place among the timers. Their lock guards it.
type timerPlace struct {
	at    int64 // ms
	place int32 // in the heap
}

// unlock releases mu and runs the callbacks that became due under it: one after another, in the order
// in which they became due, whichever goroutines made them due.
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

// runAfter runs the callbacks that are due, without mu. What is after one that panics stays due.
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

// unlockTold is unlock, and returns when the callbacks that are due by now have run, on whichever goroutine. It is not
// called from a callback.
func (st *state) unlockTold() {
	if !st.running {
		st.unlock()
		return
	}
	told := make(chan struct{})
	st.after = append(st.after, func() { close(told) })
	st.mu.Unlock()
	<-told
}

// expired reports whether a session without a connection has outlived its expiry.
func (st *state) expired(now int64) bool {
	return st.link.conn == nil && st.endsAt != 0 && st.endsAt <= now
}

// own reports whether a plain filter or topic is below the vehicle's own v1/{id}/cmd or v1/{id}/sys: no one
// publishes there but the gateway itself, by Deliver.
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

// changed notes that the session record must be written; urgent when something waits for it.
func (st *state) changed(urgent bool) {
	if !st.durable || st.ended {
		return
	}
	st.file.unsaved = true
	st.m.writer.mark(st, urgent)
	st.tellCell()
}

// subsChanged notes that the subscriptions must be written.
func (st *state) subsChanged() {
	st.file.subsBatch = st.m.writer.next.Load()
	st.changed(true)
}

// schedule sets the timer to the next thing that time alone will do to the session.
func (st *state) schedule() {
	next := st.willAt
	if st.endsAt != 0 && (next == 0 || st.endsAt < next) {
		next = st.endsAt
	}
	st.m.timers.set(st, next)
}

// end finishes the session: out of the index, the queues and the state file, and out of the map unless
// its connection has not gone or its will is due. The caller has kicked the connection if there is one.
func (st *state) end(err error) {
	if st.ended {
		return
	}
	st.ended = true
	st.link.started = false
	st.tellCell()
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

// wipeAll has the writer remove everything that the state file has of the session.
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

// leave takes an ended session out of the map and the timers.
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

// deadline adds a duration to a time in ms; 0, never, when it is MaxExpiry.
func deadline(now int64, d time.Duration) int64 {
	if d == MaxExpiry {
		return 0
	}
	return now + d.Milliseconds()
}
