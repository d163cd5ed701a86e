package auth

import (
	"crypto/sha256"
	"sync"
)

// cacheShards is the number of separately locked parts of the token cache; a power of two.
const cacheShards = 16

// tokenHash identifies a token in memory without storing it.
type tokenHash = [sha256.Size]byte

// cached is a token whose form and signature were verified. It contains nothing that depends on time, peer or
// revocation: these are checked on every hit.
type cached struct {
	claims claims
	key    *verifyKey
}

// tokenCache stores verified tokens, so that a reconnect costs a hash instead of a signature. It has a fixed number of
// entries and removes the oldest first. Only tokens that passed every check enter, so forgeries cannot displace any.
type tokenCache struct {
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	entries map[tokenHash]*cached
	ring    []tokenHash // insertion order, full once len == cap
	next    int         // index of the oldest, once full
}

// newTokenCache makes a cache of about size entries of about 500 bytes each.
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
		s.entries[*h] = e // the key was replaced; the entry keeps its place in the ring
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
