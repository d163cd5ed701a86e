package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/configs"
)

// liveness says in Redis that this gateway lives, and learns who else does. A cell with one gateway does that too: a second one has
// to be refused. Redis may be away; nobody waits for it.
type liveness struct {
	store *cell.Store
	self  cell.Gateway
	log   *slog.Logger
	tell  func() string // what the gateway runs

	mu      sync.Mutex
	living  []cell.Gateway
	heard   time.Time         // when Redis last told of them; zero before
	refused cell.RefusedError // the last answer, if it was that
}

func newLiveness(store *cell.Store, self cell.Gateway, log *slog.Logger) *liveness {
	return &liveness{store: store, self: self, log: log}
}

// begin returns an error when another gateway runs that leaves no place for this one. One of which Redis still tells, though it has been
// killed, is waited for until its time is over. When Redis does not answer, the gateway starts.
func (l *liveness) begin(ctx context.Context, tell func() string) error {
	l.tell = tell
	limit, cancel := context.WithTimeout(ctx, configs.CellTTL+configs.CellBeat)
	defer cancel()
	for waiting := false; ; waiting = true {
		err := l.beat(limit, configs.CellTimeout)
		var refused *cell.RefusedError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refused):
			l.log.Warn("Redis does not say whether another gateway runs; starting anyway", slog.Any("err", err))
			return nil
		case l.final(refused):
			return refusal(refused)
		case !waiting:
			l.log.Warn("another gateway may be running; waiting for its next heartbeat", slog.Any("other", refusal(refused)))
		}
		if !pause(limit, configs.CellBeat/3) {
			return refusal(refused)
		}
	}
}

// final reports whether the other gateway is known to live: it was replaced by none, and has said that it lives since it was first met.
func (l *liveness) final(r *cell.RefusedError) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.refused
	l.refused = *r
	return r.Verdict == cell.Replaced || before.Other.Node == r.Other.Node && r.Other.Until.After(before.Other.Until)
}

// refusal says which gateway is there, where, and since when.
func refusal(r *cell.RefusedError) error {
	var runs Runs
	_ = json.Unmarshal([]byte(r.Other.Runs), &runs) // of another version it may say less
	return fmt.Errorf("cell.node: %s: %w: gateway %s at %s, started %s, is there", r.Remedy(), errRefused,
		r.Other.Node, runs.Address, r.Other.Start.UTC().Format(time.RFC3339))
}

var errRefused = errors.New("this gateway cannot run")

func (l *liveness) beat(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	self := l.self
	self.Runs = l.tell()
	living, err := l.store.Alive(ctx, self, configs.CellTTL)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.living, l.heard, l.refused = living.Gateways, time.Now(), cell.RefusedError{}
	return nil
}

// run says that the gateway lives until ctx ends. One that has been replaced, or may not run beside another one, dies.
func (l *liveness) run(ctx context.Context, die func(error)) {
	for pause(ctx, configs.CellBeat) {
		var refused *cell.RefusedError
		if err := l.beat(ctx, configs.CellBeat); errors.As(err, &refused) && l.final(refused) {
			die(refusal(refused))
			return
		}
	}
}

// gateways are those that live or have lived lately, as Redis last told, and when that was.
func (l *liveness) gateways() ([]cell.Gateway, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.living, l.heard
}

// leave frees the gateway's name.
func (l *liveness) leave(ctx context.Context) error {
	if _, heard := l.gateways(); heard.IsZero() {
		return nil
	}
	if err := l.store.Leave(ctx, l.self); err != nil {
		l.log.Debug("the other gateways notice this stop only when its lease ends", slog.Any("err", err))
	}
	return nil
}
