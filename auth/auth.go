package auth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/stable"
)

// Authority issues, verifies and revokes tokens. It is safe for concurrent use.
type Authority struct {
	// cfg is the configuration passed to Open. For values that Reconfigure can change, use live.
	cfg     Config
	current atomic.Pointer[Config]
	own     *issuer
	ring    atomic.Pointer[keyring]
	policy  atomic.Pointer[policy]
	cache   *tokenCache

	revoked  *revocations
	revLog   *revLog
	pullMu   sync.Mutex // see pullRevocations
	watchers *watchers
	spread   *spreader // nil without a store
	external atomic.Pointer[[]*externalKeys]
	limits   *limiters

	reconfigure sync.Mutex // serialises Reconfigure

	mu       sync.Mutex // guards below and the building of a new ring
	ownKeys  []*signKey
	peers    []heldKey // keys of the cell's other gateways
	keyStamp string
	// goneSince is when a key in force was first found missing; zero if none is.
	goneSince time.Time

	ctx      context.Context // for background work; ends with Close
	stop     context.CancelFunc
	stopped  sync.WaitGroup
	stopOnce sync.Once
	stopErr  error
}

// Open reads keys and revocations, makes a first signing key if there is none, and starts following the directory, the
// store and the external issuers. It makes no network call. Close ends it.
func Open(cfg Config) (*Authority, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	p, err := newPolicy(cfg.Roles, cfg.VINLists)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	a := &Authority{
		cfg:      cfg,
		own:      &issuer{name: cfg.Issuer, audience: cfg.Cell, types: []string{"JWT"}},
		cache:    newTokenCache(cfg.CacheSize),
		revoked:  newRevocations(),
		revLog:   newRevLog(cfg.Dir),
		watchers: newWatchers(),
		limits:   newLimiters(&cfg),
	}
	a.policy.Store(p)
	a.current.Store(&cfg)
	a.external.Store(new([]*externalKeys))
	a.ctx, a.stop = context.WithCancel(context.Background())
	if cfg.Revocations != nil {
		a.spread = &spreader{a: a, store: a.cfg.Revocations, wake: make(chan struct{}, 1)}
	}
	if err := a.load(); err != nil {
		a.stop()
		a.stopped.Wait()
		return nil, errors.Join(fmt.Errorf("auth: %w", err), a.revLog.close())
	}
	a.start()
	return a, nil
}

// load does the part of Open that uses the disk.
func (a *Authority) load() error {
	if !a.cfg.NoCreate {
		if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
	}
	if info, err := os.Stat(a.cfg.Dir); err == nil && info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s: mode %04o lets anyone add a key: chmod 700", a.cfg.Dir, info.Mode().Perm())
	}
	if err := a.firstKey(); err != nil {
		return err
	}
	if err := a.reloadKeys(); err != nil {
		return err
	}
	a.setExternal(a.cfg.External)
	if _, err := a.pullRevocations(); err != nil {
		return err
	}
	a.watchers.forget() // earlier runs have handled these purges
	return nil
}

// firstKey makes a signing key if the directory has none. The lock keeps two processes that start at once from making
// two.
func (a *Authority) firstKey() error {
	keys, err := loadKeys(a.cfg.Dir, a.own)
	if err != nil || len(keys) > 0 {
		return err
	}
	if a.cfg.NoCreate {
		return fmt.Errorf("%w in %s", ErrNoKeys, a.cfg.Dir)
	}
	unlock, err := lockDir(a.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if keys, err = loadKeys(a.cfg.Dir, a.own); err != nil || len(keys) > 0 {
		return err
	}
	now := a.cfg.Now()
	k, err := newSignKey(a.live().Algorithm, now, now)
	if err != nil {
		return err
	}
	return k.save(a.cfg.Dir)
}

// start starts the background work. It waits for I/O and so runs on real time; every decision about validity uses the
// injected clock.
func (a *Authority) start() {
	a.stopped.Go(func() { a.watchers.run(a.ctx, a.Ended) })
	a.stopped.Go(func() { a.follow(a.ctx) })
	if a.spread != nil {
		a.stopped.Go(func() { a.spread.run(a.ctx) })
	}
}

// Close ends the background work. Verify and Issue continue to work from memory.
func (a *Authority) Close(ctx context.Context) error {
	a.stopOnce.Do(func() {
		a.stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.stopped.Wait()
		}()
		select {
		case <-done:
			a.stopErr = a.revLog.close()
		case <-ctx.Done():
			a.stopErr = fmt.Errorf("auth: close: %w", ctx.Err())
		}
	})
	return a.stopErr
}

// pruneEvery is the interval at which unneeded entries are removed; the bounds do not depend on it.
const pruneEvery = time.Minute

// follow reads what other processes have changed in the directory.
func (a *Authority) follow(ctx context.Context) {
	tick := time.NewTicker(a.cfg.Poll)
	defer tick.Stop()
	failing, pruned, retired := false, time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := a.Reload()
		switch {
		case err == nil && failing:
			a.cfg.Log.Info("auth directory can be read again", "dir", a.cfg.Dir)
		case err != nil && !failing:
			a.cfg.Log.Error("auth directory cannot be read; the keys and revocations read last stay in force", "dir", a.cfg.Dir, "err", err)
		}
		failing = err != nil
		if n := a.retiredKeys(); n != retired { // a key's time has ended, or a clock set back has revived it
			retired = n
			a.watchers.notify(nil)
		}
		if time.Since(pruned) > pruneEvery {
			a.prune()
			pruned = time.Now()
		}
	}
}

func (a *Authority) retiredKeys() (n int) {
	now := a.cfg.Now()
	for _, k := range a.ring.Load().byKID {
		if k.retired(now) {
			n++
		}
	}
	return n
}

// Reload reads keys, external key files and revocations again, as also happens every [Config.Poll]. A part that fails
// to load keeps its previous content.
func (a *Authority) Reload() error {
	errs := []error{a.reloadKeys()}
	for _, e := range *a.external.Load() {
		changed, err := e.reloadFile()
		errs = append(errs, err)
		if changed {
			a.rebuild()
		}
	}
	_, err := a.pullRevocations()
	err = errors.Join(append(errs, err)...)
	result := "ok"
	if err != nil {
		result = "error"
	}
	a.cfg.Metrics.reloads.WithLabelValues(result).Inc()
	return err
}

// reloadKeys loads the directory's keys and puts them into force if they changed. If no file was touched it only lists
// the directory.
func (a *Authority) reloadKeys() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	stamp, err := stampKeys(a.cfg.Dir)
	if err != nil {
		return err
	}
	if stamp == a.keyStamp && len(a.ownKeys) > 0 {
		a.goneSince = time.Time{}
		return nil
	}
	keys, err := loadKeys(a.cfg.Dir, a.own)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w in %s", ErrNoKeys, a.cfg.Dir)
	}
	if !a.believed(keys) {
		return nil
	}
	a.keyStamp = stamp
	if !slices.EqualFunc(keys, a.ownKeys, (*signKey).equal) {
		keepVerified(keys, a.ownKeys)
		a.ownKeys = keys
		a.rebuildLocked()
	}
	return nil
}

// believed reports whether keys may replace those in force. If a key that is not retired disappears, its sessions end.
// It must therefore be missing for stable.Gap, since a directory that is being restored or copied is briefly
// incomplete.
func (a *Authority) believed(keys []*signKey) bool {
	for _, old := range a.ownKeys {
		there := func(k *signKey) bool { return k.file.KID == old.file.KID }
		if old.held().retired(a.cfg.Now()) || slices.ContainsFunc(keys, there) {
			continue
		}
		if a.goneSince.IsZero() {
			a.goneSince = time.Now()
			a.cfg.Log.Warn("signing key file is missing; if it does not come back, sessions with its tokens end", "kid", old.file.KID)
		}
		if time.Since(a.goneSince) < stable.Gap {
			return false
		}
	}
	a.goneSince = time.Time{}
	return true
}

func (a *Authority) rebuild() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rebuildLocked()
}

// rebuildLocked builds the ring from the cell's own keys and those of external issuers. An external key whose kid is
// taken is left out: the cell's own keys come first, then the issuers in the order of the configuration.
func (a *Authority) rebuildLocked() {
	r := &keyring{own: a.ownKeys, byKID: make(map[string]heldKey)}
	for _, k := range a.ownKeys {
		r.byKID[k.file.KID] = k.held()
	}
	for _, k := range a.peers {
		if _, own := r.byKID[k.kid]; !own {
			r.byKID[k.kid] = k
		}
	}
	for _, e := range *a.external.Load() {
		for _, k := range e.keys() {
			if _, taken := r.byKID[k.kid]; taken {
				a.cfg.Log.Warn("external key ignored: another key has its kid", "issuer", e.issuer.name)
				continue
			}
			r.byKID[k.kid] = heldKey{verifyKey: k}
		}
	}
	a.ring.Store(r)
	a.watchers.notify(nil)
	a.cfg.Metrics.keys.Set(float64(len(r.byKID)))
}
