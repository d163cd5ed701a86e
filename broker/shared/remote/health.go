package remote

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Health is the state of something that the gateway needs to deliver, though not to serve vehicles: a line of /readyz.
type Health struct {
	// Name is what its owner calls it; a HealthTracker leaves it empty.
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Since is when the present state began.
	Since time.Time `json:"since,omitzero"`
	// Reason says what is wrong when OK is false, without the secrets in addresses.
	Reason string `json:"reason,omitempty"`
}

// HealthTracker collects what the parts of a client see: a ping, a partition, a worker. The store is well
// while none of them fails.
type HealthTracker struct {
	log              *slog.Logger
	store, meanwhile string

	mu      sync.Mutex
	failing map[any]string // who, why
	since   time.Time
}

// NewHealthTracker returns a tracker of a store that is well until a part says otherwise. The log gets a line when the whole
// changes; meanwhile says there what becomes of the store's work.
func NewHealthTracker(log *slog.Logger, store, meanwhile string) *HealthTracker {
	return &HealthTracker{log: log, store: store, meanwhile: meanwhile, failing: make(map[any]string), since: time.Now()}
}

// Set reports the state of one part; err nil is well.
func (h *HealthTracker) Set(who any, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := len(h.failing) == 0
	if err == nil {
		delete(h.failing, who)
	} else {
		h.failing[who] = err.Error()
	}
	if was == (len(h.failing) == 0) {
		return
	}
	h.since = time.Now()
	if was {
		h.log.Warn("store degraded", "store", h.store, "meanwhile", h.meanwhile, "err", err)
	} else {
		h.log.Info("store recovered", "store", h.store)
	}
}

// Watch pings the store until closing is closed or ctx ends, so that an idle client knows too.
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

// Get returns the state of the whole. When several parts fail, the reason is the first in alphabetical
// order, so that it does not change from call to call.
func (h *HealthTracker) Get() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := Health{OK: len(h.failing) == 0, Since: h.since}
	for _, reason := range h.failing {
		if st.Reason == "" || reason < st.Reason {
			st.Reason = reason
		}
	}
	return st
}
