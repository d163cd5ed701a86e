// Package authority makes the authority that a configuration describes.
package authority

import (
	"log/slog"
	"time"

	"cellgate/auth"
	"cellgate/configs"
)

// Config is the authority's part of a configuration: what `cellgate token` needs to issue with the gateway's keys.
// A running gateway adds what only it has.
func Config(c *configs.Config) auth.Config {
	a := &c.Auth
	return auth.Config{
		Dir:              string(a.KeysDir),
		Cell:             c.Cell.ID,
		Issuer:           a.Issuer,
		Algorithm:        a.Alg,
		TTL:              a.TokenTTL.Std(),
		MaxTTL:           a.MaxTokenTTL.Std(),
		Leeway:           a.Leeway.Std(),
		KeyActivation:    configs.KeyActivation,
		CacheSize:        a.CacheEntries,
		MaxRevocations:   configs.MaxRevocations,
		Poll:             a.Revocation.Poll.Std(),
		Roles:            policies(a.Roles),
		VINLists:         a.VINLists,
		External:         externalIssuers(a.Issuers),
		VehicleName:      auth.NameSource(a.ClientCertificate.VINFrom),
		BindCertificates: a.ClientCertificate.Bind,
		IssueRate:        float64(a.ClientCertificate.IssueRate),
		IssueBurst:       a.ClientCertificate.IssueBurst,
		Now:              time.Now,
		Log:              slog.New(slog.DiscardHandler),
		Metrics:          auth.NewMetrics(nil),
	}
}

// AuditLog opens the audit log.
func AuditLog(c *configs.Config, log *slog.Logger, m *auth.Metrics) (*auth.Audit, error) {
	a := &c.Auth.Audit
	return auth.NewAudit(auth.AuditOptions{
		Path: string(a.File), MaxMegabytes: max(1, int(a.MaxBytes>>20)), MaxFiles: a.Keep,
		Cell: c.Cell.ID, Log: log, Metrics: m,
	})
}

func policies(roles map[string]configs.Role) map[string]auth.RolePolicy {
	out := make(map[string]auth.RolePolicy, len(roles))
	for name, r := range roles {
		out[name] = auth.RolePolicy{
			Publish: r.Publish, Subscribe: r.Subscribe,
			DenyPublish: r.DenyPublish, DenySubscribe: r.DenySubscribe, AssignedClientID: r.AssignedClientID,
			Commands: CommandLimit(r.CommandNames, r.CommandVINs),
		}
	}
	return out
}

// CommandLimit reads a limit of the configuration, where an empty list is none.
func CommandLimit(names, vins []string) (l auth.CommandLimit) {
	if len(names) > 0 {
		l.Names = names
	}
	if len(vins) > 0 {
		l.VINs = vins
	}
	return l
}

func externalIssuers(issuers []configs.Issuer) []auth.ExternalIssuer {
	out := make([]auth.ExternalIssuer, len(issuers))
	for i, e := range issuers {
		out[i] = auth.ExternalIssuer{
			Issuer: e.Issuer, Audience: e.Audience, JWKSFile: string(e.JWKSFile), JWKSURL: e.JWKSURL,
			Roles: e.Roles, Scopes: e.Scopes, Algorithms: e.Algorithms, Refresh: e.Refresh.Std(),
		}
	}
	return out
}
