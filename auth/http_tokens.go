package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/shared/message/duration"
	"cellgate/broker/shared/problem"
)

// tokenRequest is the body of POST /v1/tokens. A vehicle may omit it.
type tokenRequest struct {
	VIN string `json:"vin"`
	TTL string `json:"ttl"` // a duration such as 12h or 7d
	// X5T binds the token to a certificate: base64url of its SHA-256.
	X5T string `json:"x5t#S256"`
}

type tokenResponse struct {
	Token     string    `json:"token"`
	TokenType string    `json:"token_type"` // "Bearer"
	VIN       string    `json:"vin"`
	TokenID   string    `json:"jti"`
	ExpiresAt time.Time `json:"expires_at"`
	ExpiresIn int64     `json:"expires_in"` // seconds
	Warning   string    `json:"warning,omitempty"`
}

// errUnauthenticated answers an unauthenticated caller; it deliberately has no detail.
var errUnauthenticated = errors.New("not authorized")

// Tokens serves POST /v1/tokens. Mount it without Require. A request with a bearer token needs token:issue and names
// the VIN; one without is from a vehicle, which authenticates with its certificate over TLS 1.3.
func (a *Authority) Tokens() http.Handler {
	trusted := a.Require(ScopeTokenIssue, http.HandlerFunc(a.issueForCaller))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values("Authorization")) > 0 {
			trusted.ServeHTTP(w, r)
			return
		}
		a.issueForVehicle(w, r)
	})
}

// issueForCaller serves a service or operator with token:issue.
func (a *Authority) issueForCaller(w http.ResponseWriter, r *http.Request) {
	caller, _ := IdentityFrom(r.Context())
	if !a.admit(w, "t"+caller.SessionKey(caller.Subject), factorTrusted) {
		return
	}
	var req tokenRequest
	if err := decodeBody(w, r, &req); err != nil {
		problem.Write(w, http.StatusBadRequest, "bad request", err.Error(), nil)
		return
	}
	ttl, err := a.requestTTL(req.TTL, caller.Role == RoleOperator)
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "bad request", err.Error(), nil)
		return
	}
	a.answerToken(w, r, IssueRequest{
		Subject: req.VIN, Role: RoleVehicle, TTL: ttl, CertThumbprint: req.X5T, Caller: CallerOf(r),
	}, true)
}

// issueForVehicle serves a vehicle with its certificate.
func (a *Authority) issueForVehicle(w http.ResponseWriter, r *http.Request) {
	if !a.admit(w, "a"+hostOf(r.RemoteAddr), factorTrusted) {
		return
	}
	cert, vin, err := a.vehicleOf(r)
	if err != nil {
		a.cfg.Metrics.issueRefused.WithLabelValues("certificate").Inc()
		a.AuditRefuse("certificate", Identity{}, PeerOf(r))
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem.Write(w, http.StatusUnauthorized, "not authorized", "", nil)
		return
	}
	if !a.admit(w, "v"+vin, 1) {
		return
	}
	var req tokenRequest
	if err := decodeBody(w, r, &req); err != nil {
		problem.Write(w, http.StatusBadRequest, "bad request", "", nil)
		return
	}
	ttl, err := a.requestTTL(req.TTL, false)
	if err != nil || (req.VIN != "" && req.VIN != vin) || req.X5T != "" {
		problem.Write(w, http.StatusBadRequest, "bad request", "", nil)
		return
	}
	issue := IssueRequest{Subject: vin, Role: RoleVehicle, TTL: ttl, Caller: Caller{By: "certificate", Address: r.RemoteAddr}}
	if a.live().BindCertificates {
		issue.CertThumbprint = Thumbprint(cert)
	}
	a.answerToken(w, r, issue, false)
}

// answerToken issues a token and answers; explain says whether the caller may learn the reason of a refusal.
func (a *Authority) answerToken(w http.ResponseWriter, r *http.Request, req IssueRequest, explain bool) {
	if !a.limits.all.AllowN(a.limits.now(), 1) {
		a.refuseRate(w)
		return
	}
	token, id, err := a.Issue(req)
	switch {
	case errors.Is(err, ErrRevoked):
		detail := ""
		if explain {
			detail = "the subject is locked out by a revocation"
		}
		problem.Write(w, http.StatusForbidden, "not issued", detail, nil)
	case errors.Is(err, errInvalidRequest):
		detail := ""
		if explain {
			detail = err.Error()
		}
		problem.Write(w, http.StatusBadRequest, "bad request", detail, nil)
	case err != nil:
		a.cfg.Log.Error("token not issued", "err", err)
		problem.Write(w, http.StatusInternalServerError, "", "", nil)
	default:
		problem.WriteJSON(w, http.StatusCreated, tokenResponse{
			Token: token, TokenType: "Bearer", VIN: id.Subject, TokenID: id.TokenID, ExpiresAt: id.Expires,
			ExpiresIn: int64(id.Expires.Sub(a.cfg.Now()) / time.Second), Warning: CheckVIN(id.Subject).Warning(),
		})
	}
}

// vehicleOf authenticates a vehicle by its certificate over TLS 1.3. It checks the chain to the vehicle CAs itself,
// since the listener may trust other CAs too, and a resumed TLS session is not checked again.
func (a *Authority) vehicleOf(r *http.Request) (*x509.Certificate, string, error) {
	if a.cfg.VehicleCAs == nil || r.TLS == nil || r.TLS.Version < tls.VersionTLS13 || len(r.TLS.PeerCertificates) == 0 {
		return nil, "", errUnauthenticated
	}
	roots := a.cfg.VehicleCAs()
	if roots == nil {
		return nil, "", errUnauthenticated // otherwise Verify would use the system's CAs
	}
	cert := r.TLS.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: a.cfg.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, "", errUnauthenticated
	}
	vin, err := vehicleName(cert, a.live().VehicleName)
	return cert, vin, err
}

// vehicleName returns the VIN in a certificate. A certificate that names two vehicles is refused.
func vehicleName(cert *x509.Certificate, from NameSource) (string, error) {
	var names []string
	switch from {
	case nameFromCN:
		names = append(names, cert.Subject.CommonName)
	default:
		for _, u := range cert.URIs {
			// A URN's scheme and namespace are case-insensitive (RFC 8141, 3.1). The rest is compared as it is:
			// normalising it would let one certificate speak for another vehicle.
			if rest, ok := cutPrefixFold(u.Opaque, "vin:"); ok && u.Scheme == "urn" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" {
				names = append(names, rest)
			}
		}
	}
	if len(names) != 1 || ValidSubject(names[0]) != nil {
		return "", errUnauthenticated
	}
	return names[0], nil
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// requestTTL parses a ttl; only operators may exceed Config.TTL.
func (a *Authority) requestTTL(s string, operator bool) (time.Duration, error) {
	if s == "" {
		return a.live().TTL, nil
	}
	ttl, err := duration.Parse(s)
	limit := a.live().TTL
	if operator {
		limit = a.live().MaxTTL
	}
	if err != nil || ttl < time.Second || ttl > limit {
		return 0, fmt.Errorf("ttl is not a duration between 1s and %s", limit)
	}
	return ttl, nil
}

// admit takes one call from a caller's bucket or answers 429.
func (a *Authority) admit(w http.ResponseWriter, key string, factor int) bool {
	if a.limits.allow(key, factor) {
		return true
	}
	a.refuseRate(w)
	return false
}

func (a *Authority) refuseRate(w http.ResponseWriter) {
	a.cfg.Metrics.issueRefused.WithLabelValues("rate").Inc()
	w.Header().Set("Retry-After", "1")
	problem.Write(w, http.StatusTooManyRequests, "too many requests", "", nil)
}

func hostOf(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		return address[:i]
	}
	return address
}

// maxAge formats a duration in whole seconds, at least 1, for a header.
func maxAge(d time.Duration) string {
	return strconv.FormatInt(max(1, int64(d/time.Second)), 10)
}

// bodyError names the error in a request body. It never quotes the body.
func bodyError(err error) error {
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return fmt.Errorf("%w: over %d bytes", errBody, tooLong.Limit)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("%w: unknown member %.40s", errBody, name)
	}
	return errBody
}
