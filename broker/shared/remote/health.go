package remote

import (
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
	// Reason says what is wrong when OK is false, without addresses' secrets.
	Reason string `json:"reason,omitempty"`
}

// HealthTracker collects what the parts of a client see: a ping, a partition, a worker. The store is well
// while none of them fails.
type HealthTracker struct {
	mu      sync.Mutex
	failing map[any]string // who, why
	since   time.Time
}

// NewHealthTracker returns a tracker of a store that is well until a part says otherwise.
func NewHealthTracker() *HealthTracker {
	return &HealthTracker{failing: make(map[any]string), since: time.Now()}
}

// Set reports the state of one part; err nil is well. It returns whether the whole changed, which is when
// a log line is due.
func (h *HealthTracker) Set(who any, err error) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := len(h.failing) == 0
	if err == nil {
		delete(h.failing, who)
	} else {
		h.failing[who] = err.Error()
	}
	changed = was != (len(h.failing) == 0)
	if changed {
		h.since = time.Now()
	}
	return changed
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
