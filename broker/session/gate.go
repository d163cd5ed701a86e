package session

import (
	"context"
	"sync"
)

// gates serialise everything that begins and ends sessions of one client identifier: attaches, and wills and expiries
// that become due. A gate exists only while it is held or waited for.
type gates struct {
	mu   sync.Mutex
	busy map[string]*gate
}

type gate struct {
	users int           // holder and waiters
	token chan struct{} // holds one element while the gate is free
}

func (g *gates) lock(ctx context.Context, id string) error {
	g.mu.Lock()
	gt := g.busy[id]
	if gt == nil {
		gt = &gate{token: make(chan struct{}, 1)}
		gt.token <- struct{}{}
		g.busy[id] = gt
	}
	gt.users++
	g.mu.Unlock()
	select {
	case <-gt.token:
		return nil
	case <-ctx.Done():
		g.leave(id, gt)
		return ctx.Err()
	}
}

// tryLock takes the gate unless it is held or waited for.
func (g *gates) tryLock(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[id] != nil {
		return false
	}
	g.busy[id] = &gate{users: 1, token: make(chan struct{}, 1)}
	return true
}

func (g *gates) unlock(id string) {
	g.mu.Lock()
	gt := g.busy[id]
	g.mu.Unlock()
	gt.token <- struct{}{}
	g.leave(id, gt)
}

func (g *gates) leave(id string, gt *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gt.users--; gt.users == 0 {
		delete(g.busy, id)
	}
}
