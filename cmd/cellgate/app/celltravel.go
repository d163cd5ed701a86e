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
	"cellgate/configs"
	"cellgate/rules/sink"
)

// travel takes what the rules' operators remember of a vehicle from the gateway that had it to the one that has it. Session and commands need
// no taking: Redis has them.
type travel struct {
	m       *member
	live    *liveness
	asks    *asks
	claims  *claims
	rules   *sink.Dispatcher
	metrics *cellMetrics
	log     *slog.Logger
	places  chan struct{} // vehicles that are waited for

	wait atomic.Int64 // configs.CellOperatorsWait; tests have more patience

	looks sync.Mutex // one looks at a time which gateways live

	mu sync.Mutex
	// heard is when a gateway answered last, dumb until when nobody waits for one that does not.
	heard, dumb map[string]time.Time
}

func newTravel(p *peers, rules *sink.Dispatcher) *travel {
	t := &travel{
		m: p.member, live: p.liveness, asks: p.asks, claims: p.claims, rules: rules, metrics: p.cellStats, log: p.log,
		places: make(chan struct{}, configs.CellOperatorMoves), heard: map[string]time.Time{}, dumb: map[string]time.Time{},
	}
	t.wait.Store(int64(configs.CellOperatorsWait))
	return t
}

// givenState is what a gateway answers who has a vehicle now.
type givenState struct {
	State []byte `json:"state,omitempty"` // none: it remembers nothing
	Why   string `json:"why,omitempty"`   // it does not give it
}

// give has this gateway's rules forget a vehicle that has gone to another one, and returns what they remembered.
func (t *travel) give(ctx context.Context, q *question) givenState {
	if !t.claims.left(ctx, cell.Successor{VIN: q.VIN, Epoch: q.Epoch, Since: q.Since}) {
		t.metrics.stateGone(stateRefused, 0)
		return givenState{Why: "the vehicle is here"}
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

// hold keeps what a connection publishes out of the journal until it is ended.
type hold struct {
	once sync.Once
	open chan struct{}
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

// arrive has the rules go on with a vehicle where those of the gateway before have left off, and then ends the hold. Somebody else ends it when that
// takes too long: what comes later, the rules join with what they have.
func (t *travel) arrive(ctx context.Context, vin string, got *cell.Claimed, h *hold) {
	former := got.Former.Node
	if former == "" || former == t.m.self.Node || !t.rules.Remembers() {
		h.end()
		return
	}
	select {
	case t.places <- struct{}{}:
	default:
		t.metrics.stateCame(stateBusy, 0)
		h.end()
		return
	}
	if t.isDumb(former) {
		h.end()
	}
	began := time.Now()
	late := time.AfterFunc(time.Duration(t.wait.Load()), func() { t.isLate(former, began) })
	go func() {
		defer func() { <-t.places }()
		defer h.end()
		defer late.Stop()
		t.fetch(context.WithoutCancel(ctx), vin, got, h)
	}()
}

// fetch finds what the gateway before has remembered of a vehicle, and gives it to the rules.
func (t *travel) fetch(ctx context.Context, vin string, got *cell.Claimed, h *hold) {
	state, how := t.find(ctx, vin, got)
	if state != nil {
		if err := t.rules.Import(vin, state); err != nil {
			t.log.Error("what another gateway's rules remember of a vehicle is lost: the rules here begin anew with it",
				slog.String("vehicle", vin), slog.String("gateway", got.Former.Node), slog.Any("err", err))
			state, how = nil, stateLost
		} else if h.ended() {
			how = stateLate
		}
	}
	t.metrics.stateCame(how, len(state))
}

// find asks the gateway before, and looks what it has left if it has stopped.
func (t *travel) find(ctx context.Context, vin string, claimed *cell.Claimed) (state []byte, how string) {
	former := claimed.Former
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	began := time.Now()
	boot := t.lives(ctx, former.Node)
	answers := make(chan *givenState, 1)
	if boot != "" {
		go func() {
			var got *givenState
			if t.asks.ask(ctx, former.Node, question{What: "operators", VIN: vin, Epoch: claimed.Epoch, Since: claimed.Since}, &got) == nil && got != nil {
				t.answered(former.Node)
				answers <- got
			}
		}()
	}
	look := time.NewTicker(configs.CellOperatorsWait / 4)
	defer look.Stop()
	for {
		left, by, err := t.m.store.LeftBy(ctx, vin, former)
		late := time.Since(began) > time.Duration(t.wait.Load())/2
		switch {
		case left != nil && (by == boot || boot == "" || late):
			return left, stateLeft
		case boot == "" && err == nil:
			return nil, stateLost
		}
		select {
		case got := <-answers:
			switch {
			case got.Why != "":
				return nil, stateLost
			case len(got.State) == 0:
				return nil, stateNone
			}
			return got.State, stateAsked
		case <-look.C:
		case <-ctx.Done():
			return nil, stateLost
		}
	}
}

// lives is the boot of a gateway that lives, "" if there is none. One that was not there at the last heartbeat may have started since: Redis
// is asked again.
func (t *travel) lives(ctx context.Context, node string) string {
	if boot := t.heardOf(node); boot != "" {
		return boot
	}
	t.looks.Lock()
	defer t.looks.Unlock()
	if _, heard := t.live.gateways(); time.Since(heard) > configs.CellOperatorsWait {
		_ = t.live.beat(ctx, configs.CellTimeout) // a refusal is met again by the next heartbeat
	}
	return t.heardOf(node)
}

func (t *travel) heardOf(node string) string {
	all, _ := t.live.gateways()
	if at := slices.IndexFunc(all, func(g cell.Gateway) bool { return g.Node == node && g.Lives }); at >= 0 {
		return all[at].Boot
	}
	return ""
}

func (t *travel) isDumb(node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.dumb[node])
}

// isLate has the vehicles that come from a gateway not wait for it for a while, if it has answered nobody since a time: it may have been
// killed a moment ago.
func (t *travel) isLate(node string, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heard[node].Before(since) {
		t.dumb[node] = time.Now().Add(askLimit / 2)
	}
}

func (t *travel) answered(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard[node] = time.Now()
	delete(t.dumb, node)
}

// leave leaves what the rules remember for the gateways that the vehicles go to when this one stops: nobody here answers them then. The
// vehicles that were heard of last come first.
func (t *travel) leave(ctx context.Context) error {
	if t.m.away.Load() || !t.rules.Remembers() {
		return nil
	}
	caughtUp := t.rules.CaughtUp(ctx)
	at, bytes := t.claims.latest(), 0
	var failed error
	var some []cell.Left
	put := func() {
		if failed = t.m.note(t.m.store.LeaveOperators(ctx, t.m.self, at, some, configs.CellOperatorsKeep)); failed != nil {
			t.metrics.gone.WithLabelValues(stateUnleft).Add(float64(len(some)))
		} else {
			t.metrics.gone.WithLabelValues(stateLeft).Add(float64(len(some)))
		}
		some = some[:0]
	}
	t.rules.Remembered(func(vin string, state []byte) bool {
		if bytes += len(state); failed != nil || ctx.Err() != nil || bytes > configs.CellOperatorsLeft {
			t.metrics.stateGone(stateUnleft, 0)
			return true
		}
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
		t.log.Warn("not all that the rules remember is left for the other gateways: they begin anew with some vehicles", slog.Any("err", err))
	}
	return nil
}

// run forgets now and then what the rules remember of vehicles that another gateway has: it may not have been able to ask.
func (t *travel) run(ctx context.Context) {
	for pause(ctx, configs.CellWalk) {
		if !t.m.away.Load() {
			_ = t.m.note(t.sweep(ctx, configs.CellOperatorsSettled))
		}
	}
}

// sweep forgets the vehicles that another gateway has had for so long.
func (t *travel) sweep(ctx context.Context, settled time.Duration) error {
	if !t.rules.Remembers() {
		return nil
	}
	before := t.claims.time() - settled.Milliseconds()
	for vins := range slices.Chunk(t.rules.VINs(), compared) {
		limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
		held, err := t.m.store.Held(limit, vins)
		cancel()
		if err != nil {
			return err
		}
		for i, vin := range vins {
			if held[i].Node == "" || held[i].Node == t.m.self.Node || held[i].Epoch > before || t.claims.here(vin) {
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

// startTravel has the rules forget the vehicles that have gone while this gateway was not there, before anything is due, and has it take part
// from now on until the last connection has ended.
func (o *outlets) startTravel(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, stopDispatch)
	defer cancel()
	if err := o.travel.sweep(limit, 0); err != nil {
		o.log.Warn("which vehicles have gone to other gateways is not known yet: rules may tell that one is silent which is not", slog.Any("err", err))
	}
	o.background("vehicles of other gateways", o.travel.run)
	o.life.onStop("what rules remember", stopDispatch, o.travel.leave)
}
