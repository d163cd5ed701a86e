package app

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/problem"
)

//go:embed openapi.yaml
var openAPI embed.FS

// route is one call of the HTTP API. auth.EndpointScopes has its scope.
type route struct {
	method, path string
	handle       http.HandlerFunc
}

// table returns the routes of the API except those of commands, which mount themselves.
func (a *gateway) table() []route {
	return append(a.sync.routes(a.audited), []route{
		{"GET", "/healthz", a.healthz},
		{"GET", "/readyz", a.readyz},
		{"GET", "/metrics", promhttp.HandlerFor(a.reg.all, promhttp.HandlerOpts{}).ServeHTTP},
		{"GET", "/.well-known/jwks.json", a.auth.JWKS().ServeHTTP},
		{"GET", "/v1/openapi.yaml", serveOpenAPI},
		{"POST", "/v1/revocations", a.auth.RevocationsHandler().ServeHTTP},
		{"GET", "/v1/vehicles", a.listVehicles},
		{"GET", "/v1/vehicles/{vin}", a.getVehicle},
		{"DELETE", "/v1/vehicles/{vin}/connection", a.audited(auth.AuditDisconnect, a.disconnectVehicle)},
		{"GET", "/v1/sessions", a.listSessions},
		{"GET", "/v1/sessions/{client}", a.getSession},
		{"DELETE", "/v1/sessions/{client}", a.audited(auth.AuditSession, a.deleteSession)},
		{"GET", "/v1/vehicles/{vin}/events", a.vehicleEvents},
		{"GET", "/v1/vehicles/{vin}/commands/{id}/events", a.commandEvents},
		{"GET", "/v1/events/commands", a.allCommandEvents},
		{"GET", "/v1/events/presence", a.presenceEvents},
		{"GET", "/v1/events/ledger", a.ledgerEvents},
		{"GET", "/v1/rules", a.getRules},
		{"PUT", "/v1/rules", a.audited(auth.AuditRules, a.putRules)},
		{"GET", "/v1/rules/history", a.ruleHistory},
		{"GET", "/v1/rules/history/{hash}", a.ranRules},
		{"POST", "/v1/rules/explain", a.explainRules},
		{"POST", "/v1/rules/reload", a.audited(auth.AuditRules, a.applyRules)},
		{"POST", "/v1/rules/lift", a.audited(auth.AuditRules, a.liftRule)},
		{"POST", "/v1/rules/rollback", a.audited(auth.AuditRules, a.rollbackRules)},
		{"GET", "/v1/trace", a.getTrace},
		{"GET", "/v1/dev/parts", a.getParts},
		{"POST", "/v1/dev/parts/{part}", a.audited(auth.AuditConfiguration, a.setPart)},
		{"GET", "/v1/ledger", a.getLedger},
		{"GET", "/v1/capacity", a.getCapacity},
		{"GET", "/v1/status", a.getStatus},
		{"GET", "/v1/gateways", a.listGateways},
		{"DELETE", "/v1/gateways/{node}", a.audited(auth.AuditForget, a.forgetGateway)},
		{"GET", "/v1/losses", a.listLosses},
		{"POST", "/v1/losses/acknowledge", a.audited(auth.AuditLosses, a.acknowledgeLosses)},
		{"POST", "/v1/drain", a.audited(auth.AuditDrain, a.startDrain)},
		{"GET", "/v1/drain", a.getDrain},
		{"DELETE", "/v1/drain", a.audited(auth.AuditDrain, a.stopDrain)},
	}...)
}

// routes returns the handler of the API. Every call is guarded by its scope.
func (a *gateway) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	for _, r := range a.table() {
		mux.Handle(r.method+" "+r.path, a.guard(r))
	}
	mux.Handle("POST /v1/tokens", a.auth.Tokens()) // checks its caller itself: a certificate may replace the token
	commands := command.Handler{
		Service: a.commands, Require: a.auth.Require, Caller: a.caller,
		MaxBody: int64(a.cfg.HTTP.MaxBody), MaxWait: a.cfg.HTTP.MaxWait.Std(),
	}
	commands.Register(mux)
	a.profiles(mux)
	if err := a.mountConsole(mux); err != nil {
		return nil, err
	}
	return a.measured.measured(a.recovered(problems(a.bounded(mux), mux))), nil
}

// tokenRoutes returns the handler of token_api.
func (a *gateway) tokenRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/tokens", a.auth.Tokens())
	mux.Handle("GET /.well-known/jwks.json", a.auth.JWKS())
	return a.measured.measured(a.recovered(problems(a.bounded(mux), mux)))
}

// guard checks a call's scope. A call that has no scope in the table is refused to everyone.
func (a *gateway) guard(r route) http.Handler {
	e, known := auth.EndpointFor(r.method, r.path)
	if !known {
		return a.auth.Require("", r.handle)
	}
	return a.auth.Guard(e, r.handle)
}

// profiles mounts the profiler for operators.
func (a *gateway) profiles(mux *http.ServeMux) {
	operator := func(h http.HandlerFunc) http.Handler {
		return a.auth.Require(auth.ScopeAny, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if id, _ := auth.IdentityFrom(r.Context()); id.Role != auth.RoleOperator {
				problem.Write(w, http.StatusForbidden, "operators only", "", nil)
				return
			}
			h(w, r)
		}))
	}
	mux.Handle("GET /debug/pprof/", operator(pprof.Index))
	mux.Handle("GET /debug/pprof/profile", operator(pprof.Profile))
	mux.Handle("GET /debug/pprof/trace", operator(pprof.Trace))
	mux.Handle("GET /debug/pprof/symbol", operator(pprof.Symbol))
	mux.Handle("GET /debug/pprof/cmdline", operator(pprof.Cmdline))
}

// bounded limits the body of every request.
func (a *gateway) bounded(h http.Handler) http.Handler {
	limit := int64(a.cfg.HTTP.MaxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		h.ServeHTTP(w, r)
	})
}

// recovered limits the damage of a panic to one request.
func (a *gateway) recovered(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil && p != any(http.ErrAbortHandler) { //nolint:errorlint // a panic's value, compared as net/http does
				a.log.Error("panic in an http request", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("panic", p))
				problem.Write(w, http.StatusInternalServerError, "", "", nil)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// problems turns the answers for unmatched routes into problem documents.
func problems(h http.Handler, mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own, pattern := mux.Handler(r)
		if pattern != "" {
			h.ServeHTTP(w, r)
			return
		}
		quiet := &quietWriter{header: w.Header(), status: http.StatusNotFound}
		own.ServeHTTP(quiet, r)
		problem.Write(w, quiet.status, "", "", nil)
	})
}

// quietWriter keeps the status and headers of an answer and discards its body.
type quietWriter struct {
	header http.Header
	status int
}

func (q *quietWriter) Header() http.Header         { return q.header }
func (q *quietWriter) WriteHeader(status int)      { q.status = status }
func (q *quietWriter) Write(b []byte) (int, error) { return len(b), nil }

// caller returns the caller of a request.
func (a *gateway) caller(r *http.Request) command.Caller {
	id, _ := auth.IdentityFrom(r.Context())
	namespace := "" // the cell's own services have none, so that their existing keys stay valid
	if id.Role != auth.RoleService || id.Issuer != a.cfg.Auth.Issuer {
		namespace = message.SessionKey("", id.Role, id.Issuer)
	}
	return command.Caller{
		By: id.Subject, Namespace: namespace, Origin: command.OriginHTTP, Role: id.Role, Issuer: id.Issuer, TokenID: id.TokenID, Address: r.RemoteAddr,
		May: a.auth.Permissions(id).Command,
	}
}

func serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	http.ServeFileFS(w, r, openAPI, "openapi.yaml")
}

func writeJSON(w http.ResponseWriter, status int, v any) { problem.WriteJSON(w, status, v) }

// readJSON decodes a request's body into v, or answers and returns false. An empty body leaves v unchanged.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if r.ContentLength == 0 {
		return true
	}
	err := d.Decode(v)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		problem.Write(w, http.StatusRequestEntityTooLarge, "", fmt.Sprintf("the body is longer than %d bytes (http.max_body)", large.Limit), nil)
	case err != nil:
		problem.Write(w, http.StatusBadRequest, "", "invalid body: "+err.Error(), nil)
	}
	return err == nil
}
