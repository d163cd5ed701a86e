package kafkaclient

import (
	"sync"
	"time"
)

// Health is the state of a dependency as its user sees it.
type Health struct {
	OK bool
	// Since is when the present state began; Reason says what is wrong, without addresses' secrets.
	Since  time.Time
	Reason string
}

// healthState collects what pings and lanes see. The cluster is well when the last ping was answered and
// no lane is failing.
type healthState struct {
	mu      sync.Mutex
	failing map[any]string // who, why
	since   time.Time
}

func newHealth() *healthState {
	return &healthState{failing: make(map[any]string), since: time.Now()}
}

// set reports the state of one part; err nil is well. It returns whether the whole changed.
func (h *healthState) set(who any, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := len(h.failing) == 0
	if err == nil {
		delete(h.failing, who)
	} else {
		h.failing[who] = err.Error()
	}
	changed := was != (len(h.failing) == 0)
	if changed {
		h.since = time.Now()
	}
	return changed
}

func (h *healthState) get() Health {
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
