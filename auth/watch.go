package auth

import (
	"context"
	"sync"
)

// watchers tell those who hold live connections about revocations, from one goroutine, so that a slow
// watcher delays the others but never the caller of Revoke. Rounds that come while one is running are
// merged, because each watcher asks about the whole set.
type watchers struct {
	wake chan struct{}

	mu     sync.Mutex // guards below
	next   int
	revoke map[int]func(func(Identity) bool)
	purge  map[int]func(subject string)
	purges []string // subjects to purge in the next round
}

func newWatchers() *watchers {
	return &watchers{
		wake:   make(chan struct{}, 1),
		revoke: make(map[int]func(func(Identity) bool)),
		purge:  make(map[int]func(string)),
	}
}

func (w *watchers) notify(purges []string) {
	w.mu.Lock()
	w.purges = append(w.purges, purges...)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // a round is due already and will see this
	}
}

func (w *watchers) forgetPurges() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purges = nil
}

func (w *watchers) run(ctx context.Context, revoked func(Identity) bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.round(revoked)
		}
	}
}

// round ends connections first, so that a purge does not find its session in use.
func (w *watchers) round(revoked func(Identity) bool) {
	w.mu.Lock()
	subjects := w.purges
	w.purges = nil
	revoke := make([]func(func(Identity) bool), 0, len(w.revoke))
	for _, fn := range w.revoke {
		revoke = append(revoke, fn)
	}
	purge := make([]func(string), 0, len(w.purge))
	for _, fn := range w.purge {
		purge = append(purge, fn)
	}
	w.mu.Unlock()
	for _, fn := range revoke {
		fn(revoked)
	}
	for _, s := range subjects {
		for _, fn := range purge {
			fn(s)
		}
	}
}

// WatchRevocations calls fn soon after anything has been revoked, with a function that tells of an
// identity whether it is. fn ends the connections of those that are; it runs on a goroutine of the
// Authority and must not wait for a network. stop ends the calls; one that has begun may still be running.
//
// To leave no gap, a connection is entered where fn finds it first and then asks Revoked once: a revocation
// before that is seen by Revoked, a later one by fn.
func (a *Authority) WatchRevocations(fn func(revoked func(Identity) bool)) (stop func()) {
	return watch(a.watchers, a.watchers.revoke, fn)
}

// WatchPurges calls fn with each subject whose sessions and queued messages a revocation wants deleted,
// after the watchers of that revocation have run. It happens once, when the revocation is learned; a
// restart does not repeat it.
func (a *Authority) WatchPurges(fn func(subject string)) (stop func()) {
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

// Revoked reports whether an identity's token has been revoked. It does not allocate.
func (a *Authority) Revoked(id Identity) bool { return a.revoked.revoked(&id) }
