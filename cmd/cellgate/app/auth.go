package app

import (
	"log/slog"

	"cellgate/auth"
	"cellgate/configs"
)

// AuthConfig is the authority that a configuration describes: what `cellgate token` needs to issue with the
// gateway's keys. New adds what only a running gateway has.
func AuthConfig(c *configs.Config) auth.Config {
	a := &c.Auth
	leeway := a.Leeway.Std()
	if leeway == 0 {
		leeway = -1 // the package's zero stands for its default
	}
	return auth.Config{
		Dir:              string(a.KeysDir),
		Cell:             c.Cell.ID,
		Issuer:           a.Issuer,
		Algorithm:        a.Alg,
		TTL:              a.TokenTTL.Std(),
		MaxTTL:           a.MaxTokenTTL.Std(),
		Leeway:           leeway,
		CacheSize:        cacheSize(a.CacheEntries),
		Roles:            roles(a.Roles),
		VINLists:         a.VINLists,
		External:         externalIssuers(a.Issuers),
		VehicleName:      auth.NameSource(a.ClientCertificate.VINFrom),
		BindCertificates: a.ClientCertificate.Bind,
		IssueRate:        float64(a.ClientCertificate.IssueRate),
		IssueBurst:       a.ClientCertificate.IssueBurst,
	}
}

func cacheSize(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func roles(all map[string]configs.Role) map[string]auth.RolePolicy {
	out := make(map[string]auth.RolePolicy, len(all))
	for name, r := range all {
		out[name] = auth.RolePolicy{
			Publish: r.Publish, Subscribe: r.Subscribe,
			DenyPublish: r.DenyPublish, DenySubscribe: r.DenySubscribe, AssignedClientID: r.AssignedClientID,
			Commands: commandLimit(r.CommandNames, r.CommandVINs),
		}
	}
	return out
}

// commandLimit reads a limit of the configuration, where an empty list is none.
func commandLimit(names, vins []string) (l auth.CommandLimit) {
	if len(names) > 0 {
		l.Names = names
	}
	if len(vins) > 0 {
		l.VINs = vins
	}
	return l
}

func externalIssuers(all []configs.Issuer) []auth.ExternalIssuer {
	out := make([]auth.ExternalIssuer, len(all))
	for i, e := range all {
		out[i] = auth.ExternalIssuer{
			Issuer: e.Issuer, Audience: e.Audience, JWKSFile: string(e.JWKSFile), JWKSURL: e.JWKSURL,
			Roles: e.Roles, Scopes: e.Scopes, Algorithms: e.Algorithms, Refresh: e.Refresh.Std(),
		}
	}
	return out
}

// NewAudit opens the audit log that a configuration names. log and m may be nil.
func NewAudit(c *configs.Config, log *slog.Logger, m *auth.Metrics) *auth.Audit {
	a := &c.Auth.Audit
	return auth.NewAudit(auth.AuditOptions{
		Path: string(a.File), MaxMegabytes: max(1, int(a.MaxBytes>>20)), MaxFiles: a.Keep,
		Cell: c.Cell.ID, Log: log, Metrics: m,
	})
}
