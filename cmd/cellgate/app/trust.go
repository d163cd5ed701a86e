package app

import (
	"context"
	"path/filepath"

	"cellgate/auth"
	"cellgate/auth/spread"
	"cellgate/configs/authority"
)

// trust adds authentication: keys, tokens, permissions and the audit log.
type trust struct {
	*peers
	audit      *auth.Audit
	auth       *auth.Authority
	vehicleCAs *pool
	keys       *peerKeys // nil in a cell with one gateway
}

func openTrust(d *peers) (*trust, error) {
	client, err := d.redis.client(&d.cfg.Redis)
	if err != nil {
		return nil, err
	}
	d.life.onStop("redis", stopShort, func(context.Context) error { return client.Close() })
	m := auth.NewMetrics(d.reg.own)
	audit, err := authority.AuditLog(d.cfg, d.log, m)
	if err != nil {
		return nil, err
	}
	d.life.onStop("audit log", stopShort, func(context.Context) error { return audit.Close() })
	cas, err := loadVehicleCAs(d.cfg)
	if err != nil {
		return nil, err
	}
	var vehicleCAs pool
	vehicleCAs.pool.Store(cas)
	c := authority.Config(d.cfg)
	c.Audit, c.Log, c.Metrics, c.Now, c.Trusted = audit, d.log, m, d.clock.Wall, d.clock.Trusted
	c.VehicleCAs = vehicleCAs.get
	if key := d.cfg.Auth.Revocation.RedisKey; key != "" {
		c.Revocations = spread.NewRedis(client, key, d.cfg.Cell.ID)
	}
	if keys, _ := filepath.Glob(filepath.Join(c.Dir, "key-*.json")); len(keys) == 0 && !d.fresh { // the pattern is valid
		if err := d.reportMissing(d.losses, partKeys, "every token that was issued before is refused from now on"); err != nil {
			return nil, err
		}
	}
	opened, err := auth.Open(c)
	if err != nil {
		return nil, err
	}
	d.life.onStop("auth", stopDispatch, opened.Close) // as commands
	t := &trust{peers: d, audit: audit, auth: opened, vehicleCAs: &vehicleCAs}
	if d.member != nil {
		t.keys, err = openPeerKeys(t)
	}
	return t, err
}
