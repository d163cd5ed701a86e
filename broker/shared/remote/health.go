package remote

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Health is the state of a dependency that the gateway needs to deliver, though not to serve vehicles: a line of
// /readyz.
type Health struct {
	// Name is set by the owner; a HealthTracker leaves it empty.
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Since is when the current state began.
	Since time.Time `json:"since,omitzero"`
	// Reason is the fault when OK is false, without secrets from addresses.
	Reason string `json:"reason,omitempty"`
}

// HealthTracker combines the reports of a client's parts: a ping, a partition, a worker. The store is healthy while
// none of them fails.
type HealthTracker struct {
	log              *slog.Logger
	store, meanwhile string

	mu      sync.Mutex
	failing map[any]failure // by part
	since   time.Time
}

// failure is why a part fails. refused means that an operator must fix it.
type failure struct {
	reason  string
	refused bool
}

// NewHealthTracker returns a tracker of a healthy store. It logs changes of the overall state; meanwhile is the text
// there about the store's pending work.
func NewHealthTracker(log *slog.Logger, store, meanwhile string) *HealthTracker {
	return &HealthTracker{log: log, store: store, meanwhile: meanwhile, failing: make(map[any]failure), since: time.Now()}
}

// Set reports the state of one part; a nil err means healthy.
func (h *HealthTracker) Set(who any, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.worstLocked()
	if err == nil {
		delete(h.failing, who)
	} else {
		err = refusal(err)
		h.failing[who] = failure{err.Error(), errors.Is(err, ErrTLS) || errors.Is(err, ErrLogin)}
	}
	now := h.worstLocked()
	if (was == nil) != (now == nil) {
		h.since = time.Now()
	}
	switch {
	case was == nil && now == nil, now != nil && was != nil && (!now.refused || was.refused):
		return
	case now != nil:
		h.log.Warn("store degraded", "store", h.store, "meanwhile", h.meanwhile, "err", err)
	default:
		h.log.Info("store recovered", "store", h.store)
	}
}

// worstLocked returns a refusal if there is one, else the alphabetically first reason, so that it is stable; nil if
// healthy.
func (h *HealthTracker) worstLocked() (worst *failure) {
	for _, f := range h.failing {
		if worst == nil || f.refused && !worst.refused || f.refused == worst.refused && f.reason < worst.reason {
			worst = &f
		}
	}
	return worst
}

// Watch pings the store until closing is closed or ctx ends, so that an idle client also notices a failure.
func (h *HealthTracker) Watch(ctx context.Context, closing <-chan struct{}, every time.Duration, ping func(context.Context) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ping(ctx)
		if ctx.Err() != nil {
			return
		}
		h.Set("ping", err)
		select {
		case <-tick.C:
		case <-closing:
			return
		}
	}
}

// Get returns the overall state.
func (h *HealthTracker) Get() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	worst := h.worstLocked()
	if worst == nil {
		return Health{OK: true, Since: h.since}
	}
	return Health{Since: h.since, Reason: worst.reason}
}
