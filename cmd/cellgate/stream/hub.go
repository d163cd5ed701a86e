package stream

import (
	"sync"
	"sync/atomic"
)

// Hub passes events to the feeds that follow their keys. Without followers, publishing costs one load.
type Hub struct {
	following atomic.Int32

	mu    sync.RWMutex // guards below
	byKey map[string]map[*Feed]struct{}
}

// NewHub makes a hub.
func NewHub() *Hub { return &Hub{byKey: make(map[string]map[*Feed]struct{})} }

// Follow subscribes a feed to keys, until the returned function is called.
func (h *Hub) Follow(f *Feed, keys ...string) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.following.Add(1)
	for _, k := range keys {
		if h.byKey[k] == nil {
			h.byKey[k] = make(map[*Feed]struct{})
		}
		h.byKey[k][f] = struct{}{}
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.following.Add(-1)
		for _, k := range keys {
			if delete(h.byKey[k], f); len(h.byKey[k]) == 0 {
				delete(h.byKey, k)
			}
		}
	}
}

// Wanted reports whether any feed follows one of the keys.
func (h *Hub) Wanted(keys ...string) bool {
	if h.following.Load() == 0 {
		return false
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, k := range keys {
		if len(h.byKey[k]) > 0 {
			return true
		}
	}
	return false
}

// Publish offers an event to the feeds that follow one of the keys. event is called only if there are any.
func (h *Hub) Publish(event func() Event, keys ...string) {
	if !h.Wanted(keys...) {
		return
	}
	e := event()
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i, k := range keys {
		for f := range h.byKey[k] {
			if !h.earlierLocked(f, keys[:i]) {
				f.Offer(e)
			}
		}
	}
}

// earlierLocked reports whether a feed follows one of the keys and so already has the event.
func (h *Hub) earlierLocked(f *Feed, keys []string) bool {
	for _, k := range keys {
		if _, follows := h.byKey[k][f]; follows {
			return true
		}
	}
	return false
}

// End ends the feeds that follow a key, after their queued events.
func (h *Hub) End(why, key string) {
	if !h.Wanted(key) {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for f := range h.byKey[key] {
		f.End(why)
	}
}
