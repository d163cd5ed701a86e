package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
	"cellgate/rules/sink"
)

// stateMoves moves the operators' state of a vehicle from the gateway that had it to the one that has it. Session and
// commands are in Redis and need no move.
type stateMoves struct {
	m       *member
	live    *liveness
	asks    *asks
	claims  *claims
	rules   *sink.Dispatcher
	metrics *cellMetrics
	log     *slog.Logger
	places  chan struct{} // one for each vehicle that is waited for

	wait atomic.Int64 // configs.CellOperatorsWait; longer in tests

	looks sync.Mutex // one look at the living gateways at a time

	mu           sync.Mutex
	answers      map[string]time.Time // when a gateway last answered
	unresponsive map[string]silence   // gateways that did not
}

// silence is until when no vehicle waits for a boot of a gateway that did not answer. It may have been killed, and the next boot
// has vehicles of its own.
type silence struct {
	boot  string
	until time.Time
}

func newStateMoves(p *peers, rules *sink.Dispatcher) *stateMoves {
	t := &stateMoves{
		m: p.member, live: p.liveness, asks: p.asks, claims: p.claims, rules: rules, metrics: p.cellStats, log: p.log,
		places: make(chan struct{}, configs.CellOperatorMoves), answers: map[string]time.Time{}, unresponsive: map[string]silence{},
	}
	t.wait.Store(int64(configs.CellOperatorsWait))
	return t
}

// givenState is the answer to the gateway that now has a vehicle.
type givenState struct {
	State []byte `json:"state,omitempty"` // empty: the rules remember nothing
	Why   string `json:"why,omitempty"`   // why it is not given
}

// whyBack is the Why of a gateway that has the vehicle again.
const whyBack = "the vehicle is here"

// give exports what the rules here remember of a vehicle that moved to another gateway, and forgets it.
func (t *stateMoves) give(ctx context.Context, q *question) givenState {
	if !t.claims.left(ctx, cell.Successor{VIN: q.VIN, Epoch: q.Epoch, Since: q.Since}) {
		t.metrics.stateGone(stateRefused, 0)
		return givenState{Why: whyBack}
	}
	if !t.rules.Remembers() {
		t.metrics.stateGone(stateNone, 0)
		return givenState{}
	}
	state, err := t.rules.Export(ctx, q.VIN)
	switch {
	case err != nil:
		t.metrics.stateGone(stateRefused, 0)
		return givenState{Why: err.Error()}
	case state == nil:
		t.metrics.stateGone(stateNone, 0)
	default:
		t.metrics.stateGone(stateGiven, len(state))
	}
	return givenState{State: state}
}

// hold keeps what a connection publishes out of the journal until it ends. The connection is not over before.
type hold struct {
	once sync.Once
	open chan struct{}

	mu       sync.Mutex // orders Import and Forget
	imported bool
}

func (h *hold) end() { h.once.Do(func() { close(h.open) }) }

func (h *hold) ended() bool {
	select {
	case <-h.open:
		return true
	default:
		return false
	}
}

// arrive imports what the previous gateway's rules remember of a vehicle, and then ends the hold. The hold waits askLimit
// for a gateway that listens, and briefly for one that does not. The rules merge state that comes later with their own.
// test/model has the histories of vehicles that move while their state does (travel.go).
func (t *stateMoves) arrive(ctx context.Context, vin string, got *cell.Claimed, h *hold) {
	former := got.Former
	if former.Node == "" || former.Node == t.m.self.Node || !t.rules.Remembers() {
		h.end()
		return
	}
	select {
	case t.places <- struct{}{}:
	default:
		t.metrics.stateCame(stateBusy, 0)
		t.endWithout(vin, h)
		return
	}
	if t.isUnresponsive(former) {
		t.endWithout(vin, h)
	}
	began := time.Now()
	limit := time.AfterFunc(time.Duration(t.asks.limit.Load()), func() {
		t.isLate(former, began)
		t.endWithout(vin, h)
	})
	unheard := func() {
		if limit.Stop() {
			limit.Reset(time.Duration(t.wait.Load()))
		}
	}
	go func() {
		defer func() { <-t.places }()
		defer h.end()
		defer limit.Stop()
		t.fetch(context.WithoutCancel(ctx), vin, got, h, unheard)
	}()
}

// endWithout ends a hold although the state has not come. What the rules here remember is older than what happened at the previous
// gateway, and could hide the beginning of an alarm, so they forget it.
func (t *stateMoves) endWithout(vin string, h *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.imported && !h.ended() {
		if err := t.rules.Forget(vin); err != nil {
			t.log.Warn("what the rules here remember of a vehicle may be older than what another gateway lost", slog.String("vehicle", vin), slog.Any("err", err))
		}
	}
	h.end()
}

// fetch finds what the previous gateway's rules remember of a vehicle, and imports it. It calls unheard if that gateway
// was not listening to the question.
func (t *stateMoves) fetch(ctx context.Context, vin string, got *cell.Claimed, h *hold, unheard func()) {
	state, how := t.find(ctx, vin, got, unheard)
	switch {
	case state != nil && !t.take(vin, state, got, h):
		state, how = nil, stateLost
	case state != nil && h.ended():
		how = stateLate
	}
	if how == stateLost {
		t.endWithout(vin, h)
	}
	t.metrics.stateCame(how, len(state))
}

// take imports state.
func (t *stateMoves) take(vin string, state []byte, got *cell.Claimed, h *hold) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := t.rules.Import(vin, state)
	if h.imported = err == nil; !h.imported {
		t.log.Error("operators' state of a vehicle from another gateway is lost; the rules here start without it",
			slog.String("vehicle", vin), slog.String("gateway", got.Former.Node), slog.Any("err", err))
	}
	return h.imported
}

// find asks the previous gateway, and reads what that left in Redis if it has stopped.
func (t *stateMoves) find(ctx context.Context, vin string, claimed *cell.Claimed, unheard func()) (state []byte, how string) {
	former := claimed.Former
	ctx, cancel := context.WithTimeout(ctx, time.Duration(t.asks.limit.Load()))
	defer cancel()
	boot := t.livingBoot(ctx, former.Node)
	answers := make(chan *givenState, 1)
	if boot != "" {
		go func() {
			var got *givenState
			q := question{What: "operators", VIN: vin, Epoch: claimed.Epoch, Since: claimed.Since}
			if t.asks.ask(ctx, former.Node, q, unheard, &got) == nil && got != nil {
				t.answered(former.Node)
				answers <- got
			}
		}()
	}
	left := make(chan []byte, 1)
	go t.look(ctx, vin, former, boot, left)
	select {
	case state := <-left:
		if state == nil {
			return nil, stateLost
		}
		return state, stateLeft
	case got := <-answers:
		switch {
		case got.Why == whyBack:
			t.awaitLost(ctx, vin)
			return nil, stateNone
		case got.Why != "":
			return nil, stateLost
		case len(got.State) == 0:
			return nil, stateNone
		}
		return got.State, stateAsked
	case <-ctx.Done():
		return nil, stateLost
	}
}

// awaitLost waits until this gateway knows that another one has the vehicle again. What the connection here still publishes would be evaluated
// without its state.
func (t *stateMoves) awaitLost(ctx context.Context, vin string) {
	for t.claims.here(vin) && remote.Pause(ctx, 5*time.Millisecond) {
	}
}

// look reads Redis, at growing intervals, until the previous gateway has left the vehicle's state there. boot is that of
// the gateway if it is alive; state that an earlier boot left counts only if the gateway does not answer. look sends nil if
// the gateway is not alive and has left nothing.
func (t *stateMoves) look(ctx context.Context, vin string, former cell.Connection, boot string, left chan<- []byte) {
	began := time.Now()
	for wait := configs.CellOperatorsWait / 4; ; wait *= 2 {
		state, by, err := t.m.store.LeftBy(ctx, vin, former)
		late := time.Since(began) > time.Duration(t.wait.Load())/2
		switch {
		case state != nil && (by == boot || boot == "" || late):
			left <- state
			return
		case boot == "" && err == nil:
			left <- nil
			return
		case !remote.Pause(ctx, wait):
			return
		}
	}
}

// livingBoot returns the boot of a gateway that is alive, else "". A gateway missing at the last heartbeat may have
// started since, so Redis is asked again.
func (t *stateMoves) livingBoot(ctx context.Context, node string) string {
	if boot := t.bootOf(node); boot != "" {
		return boot
	}
	t.looks.Lock()
	defer t.looks.Unlock()
	if _, answered := t.live.gateways(); time.Since(answered) > configs.CellOperatorsWait {
		_ = t.live.beat(ctx, configs.CellTimeout) // the next heartbeat handles a refusal
	}
	return t.bootOf(node)
}

func (t *stateMoves) bootOf(node string) string {
	all, _ := t.live.gateways()
	if at := slices.IndexFunc(all, func(g cell.Gateway) bool { return g.Node == node && g.Lives }); at >= 0 {
		return all[at].Boot
	}
	return ""
}

func (t *stateMoves) isUnresponsive(former cell.Connection) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.unresponsive[former.Node]
	return s.boot == former.Boot && time.Now().Before(s.until)
}

// isLate lets the vehicles of a gateway not wait for it for a while when it has not answered since a time: it may just
// have been killed.
func (t *stateMoves) isLate(former cell.Connection, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answers[former.Node].Before(since) {
		t.unresponsive[former.Node] = silence{former.Boot, time.Now().Add(configs.CellTTL)}
	}
}

func (t *stateMoves) answered(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[node] = time.Now()
	delete(t.unresponsive, node)
}

// leave writes what the rules remember to Redis, for the gateways that the vehicles move to when this one stops. The
// vehicles heard most recently come first.
func (t *stateMoves) leave(ctx context.Context) error {
	if t.m.allAway() || !t.rules.Remembers() {
		return nil
	}
	caughtUp := t.rules.CaughtUp(ctx)
	at, bytes := t.claims.latest(), 0
	var failed error
	var some []cell.Left
	put := func() {
		if failed = t.m.store.LeaveOperators(ctx, t.m.self, at, some, configs.CellOperatorsKeep); failed != nil {
			t.metrics.gone.WithLabelValues(stateUnleft).Add(float64(len(some)))
		} else {
			t.metrics.gone.WithLabelValues(stateLeft).Add(float64(len(some)))
		}
		some = some[:0]
	}
	t.rules.Remembered(func(vin string, state []byte) bool {
		if failed != nil || ctx.Err() != nil || t.m.isAwayFor(vin) || bytes+len(state) > configs.CellOperatorsLeft {
			t.metrics.stateGone(stateUnleft, 0)
			return true
		}
		bytes += len(state)
		t.metrics.bytes.WithLabelValues("out").Add(float64(len(state)))
		if some = append(some, cell.Left{VIN: vin, Data: state}); len(some) == compared {
			put()
		}
		return true
	})
	if len(some) > 0 && failed == nil {
		put()
	}
	if err := errors.Join(caughtUp, failed); err != nil {
		t.log.Warn("operators' state was not left for the other gateways completely; they start without it for some vehicles", slog.Any("err", err))
	}
	return nil
}

// run periodically forgets what the rules remember of vehicles that other gateways have, in case those could not ask
// for it.
func (t *stateMoves) run(ctx context.Context) {
	for remote.Pause(ctx, configs.CellWalk) {
		if !t.m.anyAway() {
			_ = t.sweep(ctx, configs.CellOperatorsForgetAfter) // the next one forgets what this one did not
		}
	}
}

// sweep forgets the vehicles that another gateway has had for longer than settled.
func (t *stateMoves) sweep(ctx context.Context, settled time.Duration) error {
	if !t.rules.Remembers() {
		return nil
	}
	before := t.claims.clock.now() - settled.Milliseconds()
	for vins := range slices.Chunk(t.rules.VINs(), compared) {
		limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
		held, err := t.m.store.Held(limit, vins)
		cancel()
		if err != nil {
			return err
		}
		for i, vin := range vins {
			if held[i].Node == "" || held[i].Node == t.m.self.Node || held[i].Claimed > before || t.claims.here(vin) {
				continue
			}
			if err := t.rules.Forget(vin); err != nil {
				return err
			}
			t.metrics.stateGone(stateForgotten, 0)
		}
	}
	return nil
}

// startStateMoves forgets the vehicles that moved while this gateway was stopped, before any operator is due, and starts
// run. At the stop the state is left after the last connection has ended.
func (o *outlets) startStateMoves(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, stopDispatch)
	defer cancel()
	if err := o.moves.sweep(limit, 0); err != nil {
		o.log.Warn("it is not known yet which vehicles have moved to other gateways; rules with silent may fire for them", slog.Any("err", err))
	}
	o.background("vehicles of other gateways", o.moves.run)
	o.life.onStop("what rules remember", stopDispatch, o.moves.leave)
}
