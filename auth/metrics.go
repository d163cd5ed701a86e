package auth

import (
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of the package. The registerer adds the prefix of their names.
type Metrics struct {
	verified     *prometheus.CounterVec // token_verifications_total{result}: ok or a refusal's reason
	accepted     prometheus.Counter     // its result "ok", at hand for the hot path
	cacheHits    prometheus.Counter     // token_cache_hits_total
	issued       *prometheus.CounterVec // tokens_issued_total{role}: custom roles count as "other"
	issueRefused *prometheus.CounterVec // token_issue_refused_total{reason}
	revocations  prometheus.Gauge       // revocations: number in force
	keys         prometheus.Gauge       // auth_keys: number of verifying keys, including external ones
	spread       *prometheus.CounterVec // revocation_sync_total{result}
	jwks         *prometheus.CounterVec // jwks_refresh_total{result}
	reloads      *prometheus.CounterVec // auth_reload_total{result}
	auditDropped *prometheus.CounterVec // audit_suppressed_total{reason}
}

// NewMetrics makes the counters and registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	verified := to.Counters("token_verifications_total", "Presented tokens by result.", "result")
	return &Metrics{
		verified: verified, accepted: verified.WithLabelValues("ok"),
		cacheHits:    to.Counter("token_cache_hits_total", "Presented tokens whose signature was already verified."),
		issued:       to.Counters("tokens_issued_total", "Issued tokens by role.", "role"),
		issueRefused: to.Counters("token_issue_refused_total", "Refused token requests by reason.", "reason"),
		revocations:  to.Gauge("revocations", "Revocations in force."),
		keys:         to.Gauge("auth_keys", "Keys that verify tokens."),
		spread:       to.Counters("revocation_sync_total", "Exchanges of revocations with other gateways by result.", "result"),
		jwks:         to.Counters("jwks_refresh_total", "Fetches of external key sets by result.", "result"),
		reloads:      to.Counters("auth_reload_total", "Reloads of keys and revocations from disk, by result.", "result"),
		auditDropped: to.Counters("audit_suppressed_total", "Audit lines that were sampled out or could not be written, by reason.", "reason"),
	}
}

func roleLabel(role string) string {
	switch role {
	case RoleVehicle, RoleService, RoleOperator:
		return role
	}
	return "other"
}
