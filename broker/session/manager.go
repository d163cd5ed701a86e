package session

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/frame"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/message"
)

// maxAliases bounds the topic aliases towards one client, whatever it announces.
const maxAliases = 64

// Manager owns all sessions of the gateway. It is safe for concurrent use.
type Manager struct {
	o       Options
	db      DB
	index   Index
	journal Journal
	log     *slog.Logger
	metrics *Metrics
	frames  sync.Pool // *[]byte, room for one encoded frame
	gates   gates
	writer  *writer
	timers  *timers

	onReady    func(clientID string)
	onPresence func(Presence)

	bounds     atomic.Pointer[Bounds]
	shares     shares
	shortages  shortages
	drops      atomic.Uint64 // because a bound shared by several was reached
	totalBytes atomic.Int64  // of all queues

	closing context.CancelFunc
	closed  context.Context
	wg      sync.WaitGroup

	sessions registry
	retained retained
	fan      fanState
	loop     fanLoop
	stored   storedMarks
	willing  []string // vehicles whose wills have waited since before the start; set by Open
}

// fanState orders the records being fanned out, new subscriptions, the retained messages that these find, and the
// writer's cuts. All clients need its lock, so it is held for a bounded number of steps only, however many subscribers,
// filters or retained messages there are.
type fanState struct {
	under atomic.Uint64 // the record being fanned out; 0 none; set under mu

	mu       sync.Mutex    // guards the rest
	reached  uint64        // every record up to here is in the queues, except under
	caughtUp chan struct{} // closed when reached gets to awaited; nil without a waiter
	awaited  uint64
	intake   uint64 // see StoreIntakePosition
}

// fanLoop belongs to the fan-out loop alone.
type fanLoop struct {
	targets []target
	collect func(client string, m Matched)
}

// storedMarks are the marks in the state file; the writer sets them.
type storedMarks struct {
	fanned  atomic.Uint64
	replay  atomic.Uint64 // a start reads the journal after this sequence
	settled atomic.Uint64
}

// Open loads the sessions of the state file and restores their subscriptions and the retained messages into the index.
// Sessions that were connected when the process died count as disconnected from now on.
func Open(o Options) (*Manager, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, db: o.DB, index: o.Index, journal: o.Journal, log: o.Log, metrics: o.Metrics,
		frames: sync.Pool{New: func() any { return new([]byte) }},
	}
	m.bounds.Store(&o.Bounds)
	m.closed, m.closing = context.WithCancel(context.Background())
	m.sessions.init()
	m.gates.busy = make(map[string]*gate)
	m.shares.byOwner = make(map[Owner]*share)
	m.shortages.last = make(map[string]Shortage)
	m.loop.collect = m.collectTarget
	m.retained.init()
	m.writer = newWriter(m)
	m.timers = &timers{wake: make(chan struct{}, 1)}
	if err := m.load(); err != nil {
		return nil, err
	}
	m.wg.Go(m.writer.run)
	m.wg.Go(m.runTimers)
	return m, nil
}

// SetBounds replaces the bounds. Messages, subscriptions and retained messages beyond the new bounds stay, but none are
// added. A session's expiry changes with its next connection.
func (m *Manager) SetBounds(b Bounds) error {
	if err := complete.Check(b); err != nil {
		return err
	}
	m.bounds.Store(&b)
	return nil
}

// Close writes pending changes and stops the manager's goroutines. Detach all connections before. An error means that
// the last changes could not be written before ctx ended.
func (m *Manager) Close(ctx context.Context) error {
	err := m.writer.wait(ctx, m.writer.afterAll)
	m.closing()
	m.wg.Wait()
	return err
}

// OnReady sets a function that is called when a connected client has a subscription, new or resumed, that matches its
// v1/{id}/cmd topics. Set it before the first Attach. It must not block.
func (m *Manager) OnReady(fn func(clientID string)) { m.onReady = fn }

// OnPresence sets a function that is called for every connect and disconnect, and when a client becomes ready. Set it
// before the first Attach. It must not block.
func (m *Manager) OnPresence(fn func(Presence)) { m.onPresence = fn }

func (m *Manager) now() int64 { return m.o.Now().UnixMilli() }

func (m *Manager) wall() int64 { return m.o.Wall().UnixMilli() }

// passed converts a wall clock time to a time of now; instant converts the other way, for display. 0 stays 0.
func (m *Manager) passed(wall int64) int64 {
	if wall == 0 {
		return 0
	}
	return wall - m.wall() + m.now()
}

func (m *Manager) instant(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return instant(at - m.now() + m.wall())
}

// expiry returns when the record's message expires, as a time of now; 0 means never.
func (m *Manager) expiry(rec *message.Record) int64 {
	at, ok := rec.ExpiresAt()
	if !ok {
		return 0
	}
	return m.passed(at.UnixMilli())
}

func (m *Manager) lookup(clientID string) *state {
	return m.sessions.get(clientID)
}

// Connected reports whether the client has a connection. It takes no session's lock, so the Index may call it.
func (m *Manager) Connected(clientID string) bool {
	st := m.lookup(clientID)
	return st != nil && st.online.Load()
}

// Disconnect ends a client's connection with a reason code, and a server reference if it is not empty. It reports
// whether the client was connected. why is the reason in presence events.
func (m *Manager) Disconnect(clientID string, reason byte, serverRef string, why Reason) bool {
	st := m.lookup(clientID)
	if st == nil {
		return false
	}
	st.mu.Lock()
	defer st.unlock()
	if st.link.conn == nil {
		return false
	}
	st.link.kick(why)
	st.link.conn.Kick(reason, serverRef)
	return true
}

// PurgeOwned purges the sessions of the owners that match accepts. A vehicle is its own owner.
func (m *Manager) PurgeOwned(match func(Owner) bool) {
	for _, st := range m.sessions.all("") {
		st.mu.Lock()
		owner := st.owned()
		st.unlock()
		if owner == "" {
			owner = Owner(st.id)
		}
		if match(owner) {
			m.Purge(st.id)
		}
	}
}

// Purge ends a client's connection and its session with all queued messages; its will is not sent. It reports whether
// there was a session.
func (m *Manager) Purge(clientID string) bool {
	st := m.lookup(clientID)
	if st == nil {
		return false
	}
	st.mu.Lock()
	defer st.unlock()
	known := !st.ended
	st.will, st.willAt = nil, 0
	if st.link.conn != nil {
		st.link.kick(ReasonAdmin)
		st.link.conn.Kick(frame.ReasonAdministrative, "")
	}
	st.end(errSessionEnded)
	if st.link.conn == nil {
		st.leave()
	}
	return known
}
