package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
)

// liveness publishes in Redis that this gateway lives, and learns which others do. A cell with one gateway needs it
// too, to refuse a second one. Nothing waits for Redis.
type liveness struct {
	store *cell.Store
	self  cell.Gateway
	log   *slog.Logger
	runs  func() string // returns what the gateway runs

	mu       sync.Mutex
	living   []cell.Gateway
	answered time.Time         // time of the last answer of Redis; zero before
	server   string            // the server that gave it
	refused  cell.RefusedError // the last refusal; empty when the last answer was none
	// complete is when every living gateway has had the time to send a heartbeat since Redis was away or became another server;
	// unheard are those that lived before and have not sent one yet.
	complete time.Time
	unheard  []cell.Gateway
}

// begin returns an error when a running gateway leaves no place for this one. It waits until the entry of a gateway
// that may have been killed expires. When Redis has answered nothing, the gateway starts.
func (l *liveness) begin(ctx context.Context, runs func() string) error {
	l.runs = runs
	limit, cancel := context.WithTimeout(ctx, configs.CellTTL+configs.CellBeat)
	defer cancel()
	var refused *cell.RefusedError // Redis' last answer; it holds while there is no other
	for {
		var answer *cell.RefusedError
		switch err := l.beat(limit, configs.CellTimeout); {
		case err == nil:
			return nil
		case errors.As(err, &answer) && l.final(answer):
			return refusal(answer)
		case answer != nil && refused == nil:
			l.log.Warn("another gateway may be running; waiting for its next heartbeat", slog.Any("other", refusal(answer)))
			refused = answer
		case refused == nil:
			l.log.Warn("Redis does not say whether another gateway runs; starting anyway", slog.Any("err", err))
			return nil
		}
		if !remote.Pause(limit, configs.CellBeat/3) {
			return refusal(refused)
		}
	}
}

// final reports whether a refusal will last: this gateway was replaced, or the other one has sent a heartbeat since the
// first refusal.
func (l *liveness) final(r *cell.RefusedError) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.refused
	l.refused = *r
	return r.Verdict == cell.Replaced || before.Other.Node == r.Other.Node && r.Other.Until.After(before.Other.Until)
}

// refusal says which gateway runs, where, and since when.
func refusal(r *cell.RefusedError) error {
	var runs Runs
	_ = json.Unmarshal([]byte(r.Other.Runs), &runs) // another version may say less
	return fmt.Errorf("cell.node: %s: %w: gateway %s at %s, started %s, is running", r.Remedy(), errRefused,
		r.Other.Node, runs.Address, r.Other.Start.UTC().Format(time.RFC3339))
}

var errRefused = errors.New("this gateway cannot run")

func (l *liveness) beat(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	self := l.self
	self.Runs = l.runs()
	list, server, err := l.store.Alive(ctx, self, configs.CellTTL)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case server != l.server || now.Sub(l.answered) > configs.CellTTL/2:
		l.complete, l.unheard = now.Add(configs.CellTTL), l.living
	case !now.Before(l.complete):
		l.unheard = nil
	}
	l.living, l.unheard = withUnheard(list, l.unheard)
	l.answered, l.server, l.refused = now, server, cell.RefusedError{}
	return nil
}

// withUnheard returns a list of gateways in which those live, too, that lived before and have not been heard of since, and which these are.
// While Redis is away the entries of all expire, and a promoted replica may not have the last heartbeats.
func withUnheard(list, before []cell.Gateway) (all, unheard []cell.Gateway) {
	for _, g := range before {
		at := slices.IndexFunc(list, func(other cell.Gateway) bool { return other.Node == g.Node })
		switch {
		case !g.Lives || at >= 0 && list[at].Lives:
			continue
		case at >= 0:
			list[at] = g
		default:
			list = append(list, g)
		}
		unheard = append(unheard, g)
	}
	return list, unheard
}

// isComplete reports whether Redis' list of gateways can be complete. Until it is, nobody may be taken for dead.
func (l *liveness) isComplete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.answered.IsZero() && !time.Now().Before(l.complete)
}

// run sends heartbeats until ctx ends. It calls fatal when the gateway was replaced or may not run next to another one.
func (l *liveness) run(ctx context.Context, fatal func(error)) {
	for remote.Pause(ctx, configs.CellBeat) {
		var refused *cell.RefusedError
		if err := l.beat(ctx, configs.CellBeat); errors.As(err, &refused) && l.final(refused) {
			fatal(refusal(refused))
			return
		}
	}
}

// gateways returns those that live or lived recently, as Redis last answered, and the time of that answer.
func (l *liveness) gateways() ([]cell.Gateway, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.living, l.answered
}

// leave releases the gateway's name.
func (l *liveness) leave(ctx context.Context) error {
	if _, answered := l.gateways(); answered.IsZero() {
		return nil
	}
	if err := l.store.Leave(ctx, l.self); err != nil {
		l.log.Debug("the other gateways notice this stop only when its lease ends", slog.Any("err", err))
	}
	return nil
}
