package auth

import (
	"slices"
	"strings"
)

// The scopes that a service or operator token can carry.
const (
	ScopeTelemetryRead = "telemetry:read"
	ScopeCommandSend   = "command:send"
	ScopeCommandRead   = "command:read"
	ScopeVehicleAdmin  = "vehicle:admin"
	ScopeRulesAdmin    = "rules:admin"
	ScopeTokenIssue    = "token:issue"
)

// Pseudo-scopes of endpoints. No token carries them.
const (
	// ScopePublic requires no token.
	ScopePublic = "public"
	// ScopeAny requires a token of a service or operator, with any scope or none.
	ScopeAny = "any"
)

// Scopes returns every scope that a token can carry.
func Scopes() []string {
	return []string{
		ScopeTelemetryRead, ScopeCommandSend, ScopeCommandRead,
		ScopeVehicleAdmin, ScopeRulesAdmin, ScopeTokenIssue,
	}
}

// knownScope reports whether a token may carry a scope.
func knownScope(s string) bool {
	switch s {
	case ScopeTelemetryRead, ScopeCommandSend, ScopeCommandRead, ScopeVehicleAdmin, ScopeRulesAdmin, ScopeTokenIssue:
		return true
	}
	return false
}

// Endpoint is one call of the HTTP API and the scope that it requires.
type Endpoint struct {
	Method string
	// Path is a pattern of net/http.ServeMux without the method.
	Path  string
	Scope string // a scope of this package, ScopePublic, ScopeAny, or another scope followed by ScopeReading
}

// ScopeReading is appended to a scope. It also admits operators with telemetry:read to a call that only reads. Services,
// including partners', need the scope itself: presence, sessions and rules reveal more than messages.
const ScopeReading = " or " + ScopeTelemetryRead

// Admits reports whether an identity, which must be a service's or an operator's, may make the call.
func (e *Endpoint) Admits(id *Identity) bool { return admits(e.Scope, id) }

func admits(scope string, id *Identity) bool {
	if scope == ScopeAny || scope == ScopePublic {
		return true
	}
	either, also, _ := strings.Cut(scope, " or ")
	return id.HasScope(either) || also != "" && id.Role == RoleOperator && id.HasScope(also)
}

// EndpointScopes returns the whole HTTP API with the scope of each call. The routes are mounted from it, and a test
// compares the documentation with it. POST /v1/tokens also accepts a vehicle's client certificate instead of a token.
func EndpointScopes() []Endpoint {
	return []Endpoint{
		{"GET", "/healthz", ScopePublic},
		{"GET", "/readyz", ScopePublic},
		{"GET", "/metrics", ScopePublic},
		{"GET", "/.well-known/jwks.json", ScopePublic},
		{"GET", "/v1/openapi.yaml", ScopePublic},

		{"POST", "/v1/tokens", ScopeTokenIssue},
		{"POST", "/v1/revocations", ScopeTokenIssue},

		{"GET", "/v1/vehicles", ScopeVehicleAdmin + ScopeReading},
		{"GET", "/v1/vehicles/{vin}", ScopeVehicleAdmin + ScopeReading},
		{"DELETE", "/v1/vehicles/{vin}/connection", ScopeVehicleAdmin},
		{"GET", "/v1/sessions", ScopeVehicleAdmin},
		{"GET", "/v1/sessions/{client}", ScopeVehicleAdmin},
		{"DELETE", "/v1/sessions/{client}", ScopeVehicleAdmin},
		{"GET", "/v1/vehicles/{vin}/events", ScopeTelemetryRead},
		{"GET", "/v1/gateways", ScopeAny},
		{"DELETE", "/v1/gateways/{node}", ScopeVehicleAdmin},
		{"GET", "/v1/losses", ScopeAny},
		{"POST", "/v1/losses/acknowledge", ScopeVehicleAdmin},
		{"POST", "/v1/drain", ScopeVehicleAdmin},
		{"GET", "/v1/drain", ScopeVehicleAdmin},
		{"DELETE", "/v1/drain", ScopeVehicleAdmin},

		{"POST", "/v1/vehicles/{vin}/commands", ScopeCommandSend},
		{"DELETE", "/v1/vehicles/{vin}/commands/{id}", ScopeCommandSend},
		{"GET", "/v1/vehicles/{vin}/commands/{id}", ScopeCommandRead},
		{"GET", "/v1/commands", ScopeCommandRead},
		{"GET", "/v1/vehicles/{vin}/commands/{id}/events", ScopeCommandRead},
		{"GET", "/v1/events/commands", ScopeCommandRead},
		{"GET", "/v1/events/presence", ScopeVehicleAdmin + ScopeReading},
		{"GET", "/v1/events/ledger", ScopeAny},

		{"GET", "/v1/rules", ScopeRulesAdmin + ScopeReading},
		{"PUT", "/v1/rules", ScopeRulesAdmin},
		{"GET", "/v1/rules/history", ScopeRulesAdmin + ScopeReading},
		{"GET", "/v1/rules/history/{hash}", ScopeRulesAdmin + ScopeReading},
		{"POST", "/v1/rules/explain", ScopeRulesAdmin},
		{"GET", "/v1/trace", ScopeRulesAdmin},
		{"POST", "/v1/rules/reload", ScopeRulesAdmin},
		{"POST", "/v1/rules/lift", ScopeRulesAdmin},
		{"POST", "/v1/rules/rollback", ScopeRulesAdmin},

		{"POST", "/v1/sync/skip", ScopeRulesAdmin},
		{"POST", "/v1/sync/pause", ScopeRulesAdmin},
		{"POST", "/v1/sync/resume", ScopeRulesAdmin},

		{"GET", "/v1/sync", ScopeAny},
		{"GET", "/v1/dev/parts", ScopeVehicleAdmin},
		{"POST", "/v1/dev/parts/{part}", ScopeVehicleAdmin},

		{"GET", "/v1/ledger", ScopeAny},
		{"GET", "/v1/capacity", ScopeAny},
		{"GET", "/v1/status", ScopeAny},
	}
}

// EndpointFor returns the endpoint of a method and path pattern.
func EndpointFor(method, path string) (Endpoint, bool) {
	all := EndpointScopes()
	i := slices.IndexFunc(all, func(e Endpoint) bool { return e.Method == method && e.Path == path })
	if i < 0 {
		return Endpoint{}, false
	}
	return all[i], true
}
