package auth

import (
	"crypto/sha256"
	"sync"
)

// cacheShards spreads the locks of the token cache; a power of two.
const cacheShards = 16

// tokenHash names a token in memory without keeping it.
type tokenHash = [sha256.Size]byte

// cached is a token whose form and signature have been verified. Nothing that changes with time, peer or
// revocation is in it: all of that is checked on every hit.
type cached struct {
	claims claims
	key    *verifyKey
}

// tokenCache remembers verified tokens so that a reconnect costs a hash instead of a signature. It holds a
// fixed number of entries and forgets the oldest first. Only tokens that passed every check enter it, so
// that a flood of forgeries cannot push anything out.
type tokenCache struct {
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	entries map[tokenHash]*cached
	ring    []tokenHash // insertion order, full once len == cap
	next    int         // the oldest, once full
}

// newTokenCache makes a cache of about size entries; each takes about 500 bytes once used.
func newTokenCache(size int) *tokenCache {
	c := &tokenCache{}
	per := max(1, (size+cacheShards-1)/cacheShards)
	for i := range c.shards {
		c.shards[i].entries = make(map[tokenHash]*cached)
		c.shards[i].ring = make([]tokenHash, 0, per)
	}
	return c
}

func (c *tokenCache) shard(h *tokenHash) *cacheShard { return &c.shards[h[0]%cacheShards] }

func (c *tokenCache) get(h *tokenHash) *cached {
	s := c.shard(h)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[*h]
}

func (c *tokenCache) put(h *tokenHash, e *cached) {
	s := c.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.entries[*h]; found {
		s.entries[*h] = e // the key was replaced; the place in the ring stays
		return
	}
	if len(s.ring) < cap(s.ring) {
		s.ring = append(s.ring, *h)
	} else {
		delete(s.entries, s.ring[s.next])
		s.ring[s.next] = *h
		s.next = (s.next + 1) % len(s.ring)
	}
	s.entries[*h] = e
}
