package app

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/session"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
)

// claims holds the vehicles that this gateway has or had last, as the cell knows them. It implements session.Cell. It
// publishes their presence through cellPresence.
type claims struct {
	m        *member
	live     *liveness
	sessions *session.Manager                            // set before anything connects
	durable  func(ctx context.Context, seq uint64) error // waits for the journal
	presence *cellPresence
	moves    *stateMoves // set before anything connects
	metrics  *cellMetrics
	// onClaimed is called for a vehicle that was connected and ready before the cell had answered. Set before anything
	// connects.
	onClaimed func(vin string)
	wait      atomic.Int64 // configs.ClaimWait; longer in tests
	log       *slog.Logger

	number  atomic.Uint64
	current atomic.Bool // claims have been compared since the last pause
	doubted atomic.Bool // notices may have been lost: compare claims soon
	seed    maphash.Seed
	clock   redisClock

	mu     sync.Mutex // leaf lock, but for that of clock
	byVIN  map[string]*claim
	dirty  map[string]*storing
	stores chan struct{} // capacity 1: something is dirty
	// underWay has the vehicles whose session is being stored.
	underWay map[string]struct{}
}

// claim is one connection of a vehicle. claims.mu guards the fields that change.
type claim struct {
	vin    string
	number uint64    // the session's number of the connection
	began  time.Time // monotonic

	conn     cell.Connection // Epoch is 0 until the cell has answered
	until    int64           // epoch of its records until the cell answers: later than earlier connections', before its own
	asking   bool            // a script is under way
	turning  bool            // the epoch is another one, and the end of the session before is not queued yet
	former   *claim          // the connection before, while its end has not been reported
	attached bool            // the connection has its session
	ended    bool            // the connection has ended
	lost     bool            // another gateway has the vehicle
	late     bool            // it was admitted before the cell had answered
	forgot   bool            // Redis was seen to know only earlier connections of the vehicle
	stored   uint64          // hash of the session stored in the cell; 0 for none
	taken    cell.Successor  // latest notice received while a script was under way
	over     chan struct{}   // closed when the connection has ended
	hold     hold            // holds back what the connection publishes
}

func newClaims(p *peers) *claims {
	c := &claims{
		m: p.member, live: p.liveness, durable: p.journal.WaitDurable, log: p.log, metrics: p.cellStats, seed: maphash.MakeSeed(), clock: redisClock{began: time.Now()},
		byVIN: map[string]*claim{}, dirty: map[string]*storing{}, underWay: map[string]struct{}{}, stores: make(chan struct{}, 1),
	}
	c.current.Store(true)
	c.wait.Store(int64(configs.ClaimWait))
	return c
}

// Claim implements session.Cell. It waits at most configs.ClaimWait, no longer than until the claim has failed, and not at
// all while Redis is known to be away.
func (c *claims) Claim(ctx context.Context, vin string) session.Claim {
	one := &claim{vin: vin, number: c.number.Add(1), began: time.Now(), over: make(chan struct{}), hold: hold{open: make(chan struct{})}}
	one.conn = cell.Connection{Node: c.m.self.Node, Boot: c.m.self.Boot, Number: one.number}
	out := session.Claim{Number: one.number, Epoch: func() uint64 { return c.epoch(one) }}
	away := c.m.isAwayFor(vin)
	c.mu.Lock()
	one.asking = !away
	one.until = c.clock.now()
	if former := c.byVIN[vin]; former != nil {
		one.stored = former.stored
		one.former = former.unended()
		one.until = max(one.until, former.conn.Epoch+1, former.until+1)
	}
	_, unstored := c.dirty[vin]
	_, storing := c.underWay[vin]
	unstored = unstored || storing
	c.byVIN[vin] = one
	c.mu.Unlock()
	if away {
		one.hold.end()
		c.admitted(one)
		return out
	}
	out.Ready = one.hold.open
	answer := make(chan *cell.Claimed, 1) // nil: Redis gave none
	go func() {
		if got, ok := c.ask(context.WithoutCancel(ctx), one); ok {
			answer <- &got
			return
		}
		answer <- nil
	}()
	limit := time.NewTimer(time.Duration(c.wait.Load()))
	defer limit.Stop()
	select {
	case got := <-answer:
		switch {
		case got == nil:
			c.admitted(one)
			return out
		case got.Verdict != cell.OK:
			return out
		}
		out.Known, out.Session, out.Ended = true, got.Session, got.Ended
		out.Here = got.Former.Node == "" || got.Former.Node == c.m.self.Node
		if out.Here && unstored { // Redis has an older session than the one that ended here
			out.Session = nil
		}
	case <-limit.C:
		c.admitted(one)
	case <-ctx.Done():
	}
	return out
}

// admitted records that a connection continues without the cell's answer.
func (c *claims) admitted(one *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.late = true
	c.metrics.unclaimed.Inc()
}

// ask runs the claim script and records its result. It returns false when there was no answer.
func (c *claims) ask(ctx context.Context, one *claim) (cell.Claimed, bool) {
	ctx, cancel := context.WithTimeout(ctx, configs.CellTimeout)
	defer cancel()
	c.mu.Lock()
	one.asking = true
	conn, known := one.conn, one.conn.Epoch
	conn.Epoch = max(conn.Epoch, one.until) // the cell assigns a later one
	c.mu.Unlock()
	began := time.Now()
	got, err := c.m.store.Claim(ctx, one.vin, conn, time.Since(one.began), false)
	if err == nil {
		c.clock.heard(got.Now, began, time.Now())
	}
	c.metrics.claimed(&got, err, known, time.Since(began))
	c.mu.Lock()
	one.asking = false
	if err != nil {
		c.mu.Unlock()
		one.hold.end()
		return got, false
	}
	if got.Verdict == cell.OK {
		one.turning = known != 0 && known != got.Epoch
		one.conn.Epoch, one.conn.Since = got.Epoch, got.Since
		one.stored = c.hash(got.Session)
	}
	attached, late := one.attached && !one.ended, one.late && known == 0
	taken := one.taken
	c.mu.Unlock()
	if late && got.Verdict == cell.OK && got.Former.Node != c.m.self.Node {
		c.sessions.Merge(one.vin, one.number, got.Session)
	}
	switch {
	case got.Verdict != cell.OK:
		c.lose(one)
		one.hold.end()
	case known != 0:
		one.hold.end()
	default:
		c.moves.arrive(ctx, one.vin, &got, &one.hold)
	}
	switch {
	case got.Verdict != cell.OK:
	case known != got.Epoch:
		if f := got.Former.Node; f != "" && f != c.m.self.Node {
			c.metrics.taken.Inc()
			c.metrics.sent(cell.NoticeTaken) // the script sends it
		}
		c.claimed(one, known, attached)
	}
	if got.Verdict == cell.OK && taken.Epoch > got.Epoch {
		c.takenOver(ctx, one, taken)
	}
	c.presence.wakeUp()
	return got, true
}

// claimed handles a new epoch. A claim that had one before was made again because Redis lost something: then presence
// is published again and the session is stored again.
func (c *claims) claimed(one *claim, before int64, attached bool) {
	again := before != 0
	c.mu.Lock()
	forgot := one.forgot
	one.forgot = false
	c.mu.Unlock()
	if again || attached {
		c.Changed(one.vin)
	}
	if again {
		c.presence.again(one, before, forgot, attached)
		c.mu.Lock()
		one.turning = false
		c.mu.Unlock()
	}
	if !attached {
		return
	}
	if info, known := c.sessions.Get(one.vin); known && info.Ready {
		c.onClaimed(one.vin)
	}
}

// Attached implements session.Cell.
func (c *claims) Attached(vin string, number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byVIN[vin]
	if one == nil || one.number != number || one.lost {
		return false
	}
	one.attached = true
	return true
}

// lose ends the connection and the session of a vehicle that another gateway has.
func (c *claims) lose(one *claim) {
	c.mu.Lock()
	one.lost = true
	act := one.attached
	if !one.attached || one.ended {
		c.removeLocked(one)
	}
	c.mu.Unlock()
	if act {
		c.sessions.Moved(one.vin, one.number)
	}
}

// onNotice handles the notice that another gateway has a vehicle. A notice received while a script is under way is kept: it
// may be later than the script's decision.
func (c *claims) onNotice(ctx context.Context, text string) {
	t, err := cell.ParseSuccessor(text)
	if err != nil {
		return
	}
	c.mu.Lock()
	one := c.byVIN[t.VIN]
	wait := one != nil && (one.asking || one.conn.Epoch == 0)
	if wait && t.Epoch > one.taken.Epoch {
		one.taken = t
	}
	c.mu.Unlock()
	switch {
	case one == nil:
		c.sessions.Moved(t.VIN, 0)
	case !wait:
		c.takenOver(ctx, one, t)
	}
}

// takenOver ends the connection and the session of a vehicle that has a later claim elsewhere. When the connection here
// is the younger one, it claims again instead: a Redis that lost data may notify the wrong gateway, and builds whose epochs were
// the times of claims gave older connections later ones.
func (c *claims) takenOver(ctx context.Context, one *claim, t cell.Successor) {
	conn, asking, lost, ended := c.state(one)
	switch {
	case asking || lost || t.Epoch <= conn.Epoch:
	case t.Since >= conn.Since:
		c.lose(one)
	case !ended:
		go c.ask(context.WithoutCancel(ctx), one)
	}
}

// doubt requests a comparison of claims soon.
func (c *claims) doubt() { c.doubted.Store(true) }

// left waits until a vehicle that another gateway has can publish nothing here any more. It returns false when the
// vehicle is back here or ctx has ended.
func (c *claims) left(ctx context.Context, t cell.Successor) bool {
	c.onNotice(ctx, fmt.Sprintf("%d %d %s", t.Epoch, t.Since, t.VIN))
	for {
		c.mu.Lock()
		one := c.byVIN[t.VIN]
		var gone, asking, later bool
		if one != nil {
			gone, asking, later = one.lost || one.ended, one.asking, one.conn.Epoch > t.Epoch
		}
		c.mu.Unlock()
		switch {
		case one == nil:
			return true
		case later || !gone && !asking:
			return false
		case gone:
			select {
			case <-one.over:
				return true
			case <-ctx.Done():
				return false
			}
		case !remote.Pause(ctx, 5*time.Millisecond): // it is being decided which of the two has the vehicle
			return false
		}
	}
}

// here reports whether a vehicle has a connection here, or is getting one.
func (c *claims) here(vin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byVIN[vin]
	return one != nil && !one.ended && !one.lost
}

// latest returns a time, in ms, that is not before the epoch of any claim of this gateway.
func (c *claims) latest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.clock.now()
	for _, one := range c.byVIN {
		at = max(at, one.conn.Epoch)
	}
	return at
}

// of returns the claim of a vehicle's connection (nil for none), and the connection as the cell knows it.
func (c *claims) of(vin string) (*claim, cell.Connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byVIN[vin]
	if one == nil {
		return nil, cell.Connection{}
	}
	return one, one.conn
}

// epoch returns the epoch of the records of a connection.
func (c *claims) epoch(one *claim) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(max(0, cmp.Or(one.conn.Epoch, one.until)))
}

// connection returns the cell's name of a vehicle's connection here. It returns false when there is none, when the cell
// has not answered, and after a pause of the process until claims have been compared.
func (c *claims) connection(vin string) (cell.Connection, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byVIN[vin]
	if one == nil || one.ended || one.lost || one.conn.Epoch == 0 || !c.current.Load() {
		return cell.Connection{}, false
	}
	return one.conn, true
}

// state returns the state of a claim.
func (c *claims) state(one *claim) (conn cell.Connection, asking, lost, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return one.conn, one.asking, one.lost, one.ended
}

// isTurning reports whether the end of the session before has to be queued before any event of the connection is numbered.
func (c *claims) isTurning(one *claim) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return one.turning
}

// presenceReported handles the presence reported by sessions, in order per vehicle.
func (c *claims) presenceReported(p *session.Presence) {
	c.mu.Lock()
	one := c.byVIN[p.Key]
	for one != nil && one.number != p.Claim {
		one = one.former
	}
	switch {
	case one == nil:
	case p.Connected:
		one.attached = true // before its CONNECT is answered: its end will be reported
	default:
		c.endLocked(one)
	}
	c.mu.Unlock()
	if one != nil {
		c.presence.report(one, p)
	}
}

// endLocked records that a connection has ended.
func (c *claims) endLocked(one *claim) {
	if !one.ended {
		close(one.over)
	}
	one.ended = true
	for later := c.byVIN[one.vin]; later != nil; later = later.former {
		if later.former == one {
			later.former = one.former
		}
	}
	if one.lost {
		c.removeLocked(one)
	}
}

// unended returns the latest of a claim and those before it whose connection has not been reported as ended, nil for none. A claim whose
// connection has no session is not reported.
func (c *claim) unended() *claim {
	for c != nil && (!c.attached || c.ended) {
		c = c.former
	}
	return c
}

// removeLocked removes a claim of a vehicle that has no connection here, if it is the latest. The connection before it is closed, but its
// end may not be reported yet: then its claim stays until that.
func (c *claims) removeLocked(one *claim) {
	if c.byVIN[one.vin] != one {
		return
	}
	if former := one.former.unended(); former != nil {
		former.lost = true
		c.byVIN[one.vin] = former
		return
	}
	delete(c.byVIN, one.vin)
}

func (c *claims) hash(session []byte) uint64 {
	if session == nil {
		return 0
	}
	return maphash.Bytes(c.seed, session) | 1
}
