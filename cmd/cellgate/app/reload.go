package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cellgate/auth"
	"cellgate/broker/shared/stable"
	"cellgate/configs"
	"cellgate/configs/authority"
)

// Reloaded says what a reload changed.
type Reloaded struct {
	// Applied are the keys whose new values are in force.
	Applied []string
	// Restart are the keys whose values differ from those that run and take effect with a restart.
	Restart []string
}

// Reload reads the configuration and the rules again and puts in force what can change at run time: rules,
// certificates, keys, roles, limits, log level. It first does everything that can fail: on an error nothing has
// changed.
func (a *App) Reload(ctx context.Context) (Reloaded, error) {
	a.reload.Lock()
	defer a.reload.Unlock()
	r, err := a.reloadAll(ctx)
	a.noteReload(err)
	if err != nil {
		return Reloaded{}, fmt.Errorf("reload: %w", err)
	}
	return r, nil
}

func (p *process) noteReload(err error) {
	var o outcome
	if last := p.reloaded.Load(); last != nil {
		o = *last
	}
	o = o.note(err)
	p.reloaded.Store(&o)
}

func (a *App) reloadAll(ctx context.Context) (Reloaded, error) {
	next, err := stable.Read(ctx, func() (*configs.Config, string, error) { return lookConfig(a.cfg.File) })
	if err != nil {
		return Reloaded{}, err
	}
	a.rules.applying.Lock()
	defer a.rules.applying.Unlock()
	c, err := a.check(ctx, next)
	if err == nil {
		err = a.apply(ctx, next, c)
	}
	if err != nil {
		a.rules.lookAgain() // what was read is not in force
		return Reloaded{}, err
	}
	return a.changes(next), nil
}

// lookConfig reads the configuration. The digest covers it and the other files that a reload reads: certificates, keys,
// authorities and key sets.
func lookConfig(file string) (c *configs.Config, digest string, err error) {
	if c, err = configs.Load(file); err != nil {
		return nil, "", err
	}
	h := sha256.New()
	for _, name := range c.Files() {
		b, err := stable.ReadFile(name)
		_, _ = h.Write(b)
		_, _ = fmt.Fprintln(h, name, err) // the part that needs the file reports the error
	}
	return c, c.Hash + hex.EncodeToString(h.Sum(nil)), nil
}

// check does what can fail and changes nothing. It returns the rules to put in force.
func (a *App) check(ctx context.Context, next *configs.Config) (*candidate, error) {
	c, bad := a.rules.prepare(ctx, prepareOptions{tests: next.Rules.RunTests})
	if bad != nil {
		a.rules.recordOutcome(bad)
	}
	_, err := loadVehicleCAs(next)
	return c, errors.Join(bad, err, a.sync.checkReload(next), a.auth.CheckReconfigure(authority.Config(next)),
		a.certificates.check(next), a.http.checkTLS(next.HTTP.TLS), a.tokenAPI.checkTLS(tokenAPIFiles(next)))
}

// apply puts in force what check accepted. The broker reads the listeners' certificates itself, all or none, so they
// come first.
func (a *App) apply(ctx context.Context, next *configs.Config, c *candidate) error {
	if err := a.broker.Reload(a.limits(next), filesByListener(next)); err != nil {
		return err
	}
	err := a.rules.put(ctx, c, over{})
	a.rules.recordOutcome(err)
	if err != nil {
		running := a.Config()
		return errors.Join(err, a.broker.Reload(a.limits(running), filesByListener(running)))
	}
	if err := a.auth.Reconfigure(authority.Config(next)); err != nil {
		return err
	}
	cas, err := loadVehicleCAs(next)
	err = errors.Join(err, a.auth.Reload(), a.sessions.SetBounds(sessionBounds(next)), a.http.reloadTLS(next.HTTP.TLS), a.tokenAPI.reloadTLS(tokenAPIFiles(next)))
	if err != nil {
		return err
	}
	a.certificates.adopt()
	a.vehicleCAs.pool.Store(cas)
	a.broker.RefreshPermissions()
	if err := a.sync.reload(ctx, next); err != nil {
		return err
	}
	a.level.Set(levelOf(next.Log.Level))
	return nil
}

// changes puts the new configuration in place and returns what changed.
func (a *App) changes(next *configs.Config) Reloaded {
	var r Reloaded
	for _, c := range configs.Diff(a.Config(), next) {
		if !c.Restart {
			r.Applied = append(r.Applied, c.Path)
		}
	}
	for _, c := range configs.Diff(a.cfg, next) { // what takes a restart runs as it was at the start
		if c.Restart {
			r.Restart = append(r.Restart, c.Path)
		}
	}
	a.running.Store(next)
	a.waiting.Store(&r.Restart)
	logWarnings(a.log, next)
	a.log.Info("reloaded", slog.Any("applied", r.Applied))
	a.auditChange(auth.AuditConfiguration, "SIGHUP", strings.Join(r.Applied, " "))
	if len(r.Restart) > 0 {
		a.log.Warn("keys wait for a restart: the running values differ from the file's", slog.Any("keys", r.Restart))
	}
	return r
}
