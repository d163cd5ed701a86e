package app

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/configs"
)

// cellPresence has the cell number the events of this gateway's vehicles before they are published. Until then they are
// in memory. When the gateway dies, another one publishes the ends of its sessions from Redis. The end of a session
// that Redis lost is published by the next boot, from the outbox on disk.
type cellPresence struct {
	m      *member
	claims *claims
	live   *liveness
	outbox *presence.Outbox // set before anything connects
	log    *slog.Logger
	wake   chan struct{} // capacity 1

	mu    sync.Mutex
	byVIN map[string][]connEvent // events without a number, in order
	busy  map[string]bool        // VINs whose events are being numbered

	// Only watch and what it calls use the fields below.
	boots  map[string]bool      // that lived at the last look
	walk   time.Time            // time of the last one
	left   []cell.Session       // sessions of the last walk whose ends are not published yet
	handed map[ending]time.Time // ends handed to the outbox recently
}

// ending identifies the end of a session.
type ending struct {
	vin   string
	epoch int64
}

// connEvent is an event of a connection.
type connEvent struct {
	of     *claim
	kind   presence.Kind
	at     time.Time
	reason string
	// forgotten means that Redis was seen to know only earlier sessions of the vehicle.
	forgotten bool
}

func newCellPresence(p *peers, c *claims) *cellPresence {
	return &cellPresence{
		m: p.member, claims: c, live: p.liveness, log: p.log, wake: make(chan struct{}, 1),
		byVIN: map[string][]connEvent{}, busy: map[string]bool{}, boots: map[string]bool{}, handed: map[ending]time.Time{},
	}
}

// begin takes the sessions that were open when the gateway was killed. A walk publishes the ends of those that Redis
// has.
func (c *cellPresence) begin(open []presence.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range open {
		c.endLocked(open[i].VIN, open[i].As.Epoch, presence.GatewayLost, false)
	}
}

// endLocked queues the end of a session that this gateway no longer has, before the events of later sessions.
func (c *cellPresence) endLocked(vin string, epoch int64, reason string, forgotten bool) {
	of := &claim{vin: vin, ended: true, conn: cell.Connection{Node: c.m.self.Node, Boot: c.m.self.Boot, Epoch: epoch}}
	at := 0
	if c.busy[vin] {
		at = 1
	}
	c.byVIN[vin] = slices.Insert(c.byVIN[vin], at, connEvent{of, presence.Disconnected, time.Now(), reason, forgotten})
}

// report queues an event of a connection and does not block. For a connection that ended before any of its events were
// numbered, only the end is kept, so that a vehicle's queue stays short however long Redis is away.
func (c *cellPresence) report(of *claim, p *session.Presence) {
	kind := presence.Disconnected
	switch {
	case p.Ready:
		kind = presence.Ready
	case p.Connected:
		kind = presence.Connected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.byVIN[p.Key]
	if kind == presence.Disconnected && !c.busy[p.Key] {
		for len(events) > 0 && events[len(events)-1].of == of {
			events = events[:len(events)-1]
		}
	}
	c.byVIN[p.Key] = append(events, connEvent{of, kind, p.At, string(p.Reason), false})
	c.wakeUp()
}

// again publishes presence for a connection whose claim was made again: the previous session ends, and if the
// connection is still there, another one begins.
func (c *cellPresence) again(of *claim, before int64, forgotten, attached bool) {
	c.mu.Lock()
	c.endLocked(of.vin, before, string(session.ReasonLost), forgotten)
	c.mu.Unlock()
	info, known := c.claims.sessions.Get(of.vin)
	if !attached || !known || !info.Connected {
		return
	}
	c.report(of, &session.Presence{Key: of.vin, Connected: true, At: info.Since})
	if info.Ready {
		c.report(of, &session.Presence{Key: of.vin, Connected: true, Ready: true, At: time.Now()})
	}
}

func (c *cellPresence) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run numbers reported events until ctx ends, and then the remaining ones as long as the cell answers.
func (c *cellPresence) run(ctx context.Context) {
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for ctx.Err() == nil {
		c.numberAll()
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-retry.C:
		}
	}
	for range lastTries { // other gateways publish the rest
		if c.numberAll(); len(c.waiting()) == 0 {
			return
		}
		<-retry.C
	}
}

// lastTries is how often a stopping gateway tries to number the remaining events.
const lastTries = 5

// waiting returns the vehicles with events that Redis can number now.
func (c *cellPresence) waiting() (vins []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for vin := range c.byVIN {
		if !c.m.isAwayFor(vin) {
			vins = append(vins, vin)
		}
	}
	return vins
}

func (c *cellPresence) numberAll() {
	places := make(chan struct{}, configs.CellConcurrent)
	var all sync.WaitGroup
	for _, vin := range c.waiting() {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			c.number(vin)
		})
	}
	all.Wait()
}

// number numbers the events of a vehicle in order, until one has to wait.
func (c *cellPresence) number(vin string) {
	for {
		c.mu.Lock()
		events := c.byVIN[vin]
		if len(events) == 0 {
			delete(c.byVIN, vin)
			c.mu.Unlock()
			return
		}
		c.busy[vin] = true
		c.mu.Unlock()
		done := c.numberOne(vin, &events[0])
		c.mu.Lock()
		delete(c.busy, vin)
		if done {
			c.byVIN[vin] = c.byVIN[vin][1:]
		}
		c.mu.Unlock()
		if !done {
			return
		}
	}
}

// numberOne returns false when the event has to wait. Events of a connection that the cell never knew are dropped. While a claim
// that was made again replaces a session, its end comes first: Redis does not know it, and numberEvent publishes the end of the last
// session of the outbox only.
func (c *cellPresence) numberOne(vin string, e *connEvent) (done bool) {
	if c.claims.isTurning(e.of) {
		return false
	}
	conn, asking, lost, ended := c.claims.state(e.of)
	if conn.Epoch == 0 {
		return !asking && (lost || ended)
	}
	return c.numberEvent(vin, conn, e)
}

// numberEvent numbers an event and passes it to the outbox.
func (c *cellPresence) numberEvent(vin string, conn cell.Connection, e *connEvent) bool {
	ctx, cancel := context.WithTimeout(context.Background(), c.m.limit())
	defer cancel()
	n, verdict, err := c.m.store.Presence(ctx, vin, conn, e.kind.String(), e.reason, e.at, 0)
	if err != nil {
		return false
	}
	switch verdict {
	case cell.OK:
		c.hand(vin, conn, e.kind, n)
		return true
	case cell.NotOwner: // of an earlier boot, and Redis has it
		return true
	}
	last, open := c.outbox.Last(vin)
	if !open || last.Kind == presence.Disconnected || e.kind != presence.Disconnected || last.As.Epoch != conn.Epoch {
		return true
	}
	// The last event tells more precisely than the epoch when Redis knew the session: it may be claimed long after it began.
	if _, verdict, err = c.m.store.Presence(ctx, vin, conn, e.kind.String(), e.reason, e.at, last.As.Seq); err != nil {
		return false
	}
	if verdict == cell.Missing || e.forgotten { // no other gateway knows the session
		c.hand(vin, conn, e.kind, cell.Numbered{Seq: last.As.Seq + 1, At: e.at, Reason: e.reason})
		return true
	}
	c.outbox.Forget(&last)
	return true
}

func (c *cellPresence) hand(vin string, conn cell.Connection, kind presence.Kind, n cell.Numbered) {
	e := presence.Event{VIN: vin, Kind: kind, At: n.At.UnixMilli(), Reason: n.Reason, As: presence.Mark{Epoch: conn.Epoch, Seq: n.Seq}}
	if conn.Node != c.m.self.Node {
		e.Node = conn.Node
	}
	c.outbox.Add(e)
}

// published records in Redis that ends are in Kafka. If that fails, a later walk publishes them again.
func (c *cellPresence) published(ctx context.Context, events []presence.Event) {
	for i := range events {
		if e := &events[i]; e.Kind == presence.Disconnected && e.As.Epoch != 0 && !c.m.isAwayFor(e.VIN) {
			_ = c.m.store.EndPublished(ctx, e.VIN, e.As.Epoch)
		}
	}
}
