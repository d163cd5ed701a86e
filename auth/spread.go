package auth

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// RevocationStore exchanges revocations between the gateways of a cell. Package auth/spread, which imports this one,
// implements it with Redis. It is a channel, not an authority: each gateway keeps everything on its own disk, works
// while the store is away, and restores a store that lost its data.
type RevocationStore interface {
	// Add stores entries that are not there yet; adding one again changes nothing.
	Add(ctx context.Context, entries []Revocation) error
	// Since returns the entries added after a cursor, and the next cursor. The zero cursor returns all. If the store
	// was emptied or replaced since, it returns all and a cursor of another epoch.
	Since(ctx context.Context, c StoreCursor) ([]Revocation, StoreCursor, error)
	// Prune removes entries whose Until is before t.
	Prune(ctx context.Context, t time.Time) error
}

// StoreCursor is a position in a RevocationStore.
type StoreCursor struct {
	Epoch   string
	Version int64
}

// Bounds of the spreader.
const (
	spreadChunk    = 500              // entries per Add
	spreadTimeout  = 3 * time.Second  // of one round
	spreadMaxPause = 5 * time.Second  // between rounds while the store is away
	spreadPrune    = 10 * time.Minute // between prunes
	// spreadFull is the interval of full exchanges. They find what a store lost in a failover without a trace in its
	// version.
	spreadFull = 5 * time.Minute
)

// spreader exchanges revocations with the store.
type spreader struct {
	a      *Authority
	store  RevocationStore
	wake   chan struct{}
	cursor StoreCursor // owned by run
	pruned time.Time   // owned by run; on the injected clock
	full   time.Time   // owned by run; on the real clock

	mu      sync.Mutex // guards below
	pending []Revocation
	all     bool // everything in force is pending; pending is not used
}

// offer queues entries for the store. If more are queued than the limit of the set in force, they are replaced by a
// flag to add the whole set, which bounds memory.
func (s *spreader) offer(entries []Revocation) {
	if s == nil {
		return
	}
	s.mu.Lock()
	if !s.all {
		s.pending = append(s.pending, entries...)
	}
	if len(s.pending) > s.a.cfg.MaxRevocations {
		s.pending, s.all = nil, true
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *spreader) run(ctx context.Context) {
	pause, failing := s.a.cfg.Poll, false
	for {
		err := s.round(ctx)
		if ctx.Err() != nil {
			return
		}
		s.report(err, failing)
		failing = err != nil
		if failing {
			pause = min(2*pause, spreadMaxPause)
		} else {
			pause = s.a.cfg.Poll
		}
		// Jitter keeps the gateways of a cell from polling in step.
		timer := time.NewTimer(pause - time.Duration(rand.Int64N(int64(pause)/8+1)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wakeUnless(failing):
		}
		timer.Stop()
	}
}

// wakeUnless returns the wake channel, or nil while the store is away, so that the pause is kept.
func (s *spreader) wakeUnless(failing bool) <-chan struct{} {
	if failing {
		return nil
	}
	return s.wake
}

func (s *spreader) report(err error, failing bool) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	s.a.cfg.Metrics.spread.WithLabelValues(result).Inc()
	switch {
	case err != nil && !failing:
		s.a.cfg.Log.Warn("revocations are not exchanged with the other gateways; this gateway's own stay in force", "err", err)
	case err == nil && failing:
		s.a.cfg.Log.Info("revocations are exchanged with the other gateways again")
	}
}

// round reads new entries and adds pending ones. The cursor moves only once the entries are on disk here.
func (s *spreader) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, spreadTimeout)
	defer cancel()
	if time.Since(s.full) > spreadFull {
		s.full, s.cursor = time.Now(), StoreCursor{}
	}
	entries, next, err := s.store.Since(ctx, s.cursor)
	if err != nil {
		return err
	}
	if err := s.a.learn(entries); err != nil {
		return err
	}
	if next.Epoch != s.cursor.Epoch {
		s.mu.Lock()
		s.pending, s.all = nil, true
		s.mu.Unlock()
	}
	s.cursor = next
	if err := s.push(ctx); err != nil {
		return err
	}
	now := s.a.cfg.Now()
	if now.Sub(s.pruned).Abs() < spreadPrune || !s.a.mayForget() {
		return nil
	}
	s.pruned = now
	return s.store.Prune(ctx, now.Add(-dropGrace))
}

// push adds the pending entries, and queues again those that could not be added.
func (s *spreader) push(ctx context.Context) error {
	s.mu.Lock()
	entries, all := s.pending, s.all
	s.pending, s.all = nil, false
	s.mu.Unlock()
	if all {
		entries = s.a.revoked.all()
	}
	for len(entries) > 0 {
		n := min(len(entries), spreadChunk)
		if err := s.store.Add(ctx, entries[:n]); err != nil {
			s.mu.Lock()
			s.all = s.all || all
			s.mu.Unlock()
			s.offer(entries)
			return err
		}
		entries = entries[n:]
	}
	return nil
}
