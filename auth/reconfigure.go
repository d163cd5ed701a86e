package auth

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

var errClosed = errors.New("auth: closed")

func (a *Authority) live() *Config { return a.current.Load() }

// Reconfigure applies those settings that can change while running: Algorithm (of the next key), TTL, MaxTTL, Leeway,
// KeyActivation, Roles, VINLists, External, VehicleName, BindCertificates, IssueRate and IssueBurst. All others keep
// the values passed to Open. It applies all of them or, on an error, none.
//
// Existing Permissions keep the old roles until they are requested again. The keys of external issuers whose
// configuration did not change stay.
func (a *Authority) Reconfigure(cfg Config) error {
	next, p, err := a.prepare(cfg)
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	a.reconfigure.Lock()
	defer a.reconfigure.Unlock()
	if a.ctx.Err() != nil {
		return errClosed
	}
	a.current.Store(next)
	a.policy.Store(p)
	a.limits.set(next)
	a.setExternal(next.External)
	return nil
}

// CheckReconfigure returns the error that Reconfigure would return, without changing anything. A reload uses it to
// check all its parts before it applies the first.
func (a *Authority) CheckReconfigure(cfg Config) error {
	if _, _, err := a.prepare(cfg); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	return nil
}

func (a *Authority) prepare(cfg Config) (*Config, *policy, error) {
	next := a.cfg
	next.Algorithm, next.TTL, next.MaxTTL, next.Leeway, next.KeyActivation = cfg.Algorithm, cfg.TTL, cfg.MaxTTL, cfg.Leeway, cfg.KeyActivation
	next.Roles, next.VINLists, next.External = cfg.Roles, cfg.VINLists, cfg.External
	next.VehicleName, next.BindCertificates = cfg.VehicleName, cfg.BindCertificates
	next.IssueRate, next.IssueBurst = cfg.IssueRate, cfg.IssueBurst
	if err := next.validate(); err != nil {
		return nil, nil, err
	}
	p, err := newPolicy(next.Roles, next.VINLists)
	return &next, p, err
}

// setExternal starts following new issuers and stops following those that are gone.
func (a *Authority) setExternal(issuers []ExternalIssuer) {
	old := *a.external.Load()
	next := make([]*externalKeys, 0, len(issuers))
	for i := range issuers {
		same := func(x *externalKeys) bool { return reflect.DeepEqual(x.configured, issuers[i]) }
		if j := slices.IndexFunc(old, same); j >= 0 {
			next = append(next, old[j])
			continue
		}
		x := newExternalKeys(&issuers[i], &a.cfg)
		var ctx context.Context
		ctx, x.stop = context.WithCancel(a.ctx)
		a.stopped.Go(func() { x.run(ctx, a.rebuild) })
		next = append(next, x)
	}
	for _, x := range old {
		if !slices.Contains(next, x) {
			x.stop()
		}
	}
	a.external.Store(&next)
	a.rebuild()
}
