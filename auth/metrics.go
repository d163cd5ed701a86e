package auth

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the counters of the package. Their names lack the prefix that the registerer adds.
type Metrics struct {
	verified     *prometheus.CounterVec // token_verifications_total{result}: ok or a refusal's reason
	accepted     prometheus.Counter     // its result "ok", at hand for the hot path
	cacheHits    prometheus.Counter     // token_cache_hits_total
	issued       *prometheus.CounterVec // tokens_issued_total{role}: custom roles count as "other"
	issueRefused *prometheus.CounterVec // token_issue_refused_total{reason}
	revocations  prometheus.Gauge       // revocations: in force
	keys         prometheus.Gauge       // auth_keys: that verify, external ones included
	spread       *prometheus.CounterVec // revocation_sync_total{result}
	jwks         *prometheus.CounterVec // jwks_refresh_total{result}
	reloads      *prometheus.CounterVec // auth_reload_total{result}
	auditDropped *prometheus.CounterVec // audit_suppressed_total{reason}
}

// NewMetrics makes the counters and registers them; with a nil registerer they only count.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counters := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	verified := counters("token_verifications_total", "Tokens presented, by result.", "result")
	return &Metrics{
		verified: verified, accepted: verified.WithLabelValues("ok"),
		cacheHits: f.NewCounter(prometheus.CounterOpts{
			Name: "token_cache_hits_total", Help: "Tokens whose signature had been verified before.",
		}),
		issued:       counters("tokens_issued_total", "Tokens issued, by role.", "role"),
		issueRefused: counters("token_issue_refused_total", "Refused requests for a token, by reason.", "reason"),
		revocations:  f.NewGauge(prometheus.GaugeOpts{Name: "revocations", Help: "Revocations in force."}),
		keys:         f.NewGauge(prometheus.GaugeOpts{Name: "auth_keys", Help: "Keys that verify tokens."}),
		spread:       counters("revocation_sync_total", "Rounds of the exchange of revocations with other gateways.", "result"),
		jwks:         counters("jwks_refresh_total", "Fetches of external key sets.", "result"),
		reloads:      counters("auth_reload_total", "Reloads of keys and revocations from disk.", "result"),
		auditDropped: counters("audit_suppressed_total", "Audit lines left out: sampled or not written.", "reason"),
	}
}

func roleLabel(role string) string {
	switch role {
	case RoleVehicle, RoleService, RoleOperator:
		return role
	}
	return "other"
}
