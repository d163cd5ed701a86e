package auth

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// watchers notifies the owners of live connections of changes of revocations or keys. It uses one goroutine, so a slow
// watcher delays the others but never the caller of Revoke. Changes during a round are merged into the next one,
// because each watcher checks the whole set.
type watchers struct {
	wake chan struct{}

	mu     sync.Mutex // guards below
	next   int
	ended  map[int]func(func(Identity) error)
	purge  map[int]func(Revocation)
	purges []Revocation // to purge in the next round
}

func newWatchers() *watchers {
	return &watchers{
		wake:  make(chan struct{}, 1),
		ended: make(map[int]func(func(Identity) error)),
		purge: make(map[int]func(Revocation)),
	}
}

func (w *watchers) notify(purges []Revocation) {
	w.mu.Lock()
	w.purges = append(w.purges, purges...)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // a round is due already and will cover this
	}
}

// forget drops the pending round and purges: the first load of keys and revocations needs none.
func (w *watchers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purges = nil
	select {
	case <-w.wake:
	default:
	}
}

func (w *watchers) run(ctx context.Context, ended func(Identity) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.round(ended)
		}
	}
}

// round ends connections first, so that a purge does not find its session in use.
func (w *watchers) round(ended func(Identity) error) {
	w.mu.Lock()
	purges := w.purges
	w.purges = nil
	end := slices.Collect(maps.Values(w.ended))
	purge := slices.Collect(maps.Values(w.purge))
	w.mu.Unlock()
	for _, fn := range end {
		fn(ended)
	}
	for _, r := range purges {
		for _, fn := range purge {
			fn(r)
		}
	}
}

// WatchEnded calls fn with Ended soon after anything was revoked, or a key was retired, replaced or removed. fn must
// end the connections for which Ended returns an error. It runs on a goroutine of the Authority and must not wait for a
// network. stop ends the calls; one that has begun may still be running.
//
// To leave no gap, first register a connection where fn finds it, then call Ended once: Ended sees a change before
// that, fn a later one.
func (a *Authority) WatchEnded(fn func(ended func(Identity) error)) (stop func()) {
	return watch(a.watchers, a.watchers.ended, fn)
}

// WatchPurges calls fn with each revocation that has Purge set, after the watchers have run for it. It does so once,
// when the revocation is learned, and not again after a restart.
func (a *Authority) WatchPurges(fn func(Revocation)) (stop func()) {
	return watch(a.watchers, a.watchers.purge, fn)
}

func watch[F any](w *watchers, m map[int]F, fn F) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.next
	w.next++
	m[n] = fn
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(m, n)
	}
}

// Ended returns ErrRevoked if an identity's token was revoked, ErrKeyRetired if the key that signed it is no longer in
// force, and nil otherwise. It does not allocate.
func (a *Authority) Ended(id Identity) error {
	if id.Anonymous {
		return nil
	}
	if a.revoked.revoked(&id, a.live().slack()) {
		return ErrRevoked
	}
	key, found := a.ring.Load().byKID[id.KeyID]
	switch {
	case !found || key.issuer.name != id.Issuer || key.retired(a.cfg.Now()):
		return ErrKeyRetired
	case !key.issuer.allowsRole(id.Role):
		return ErrRole
	}
	return nil
}
