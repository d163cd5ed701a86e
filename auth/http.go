package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"cellgate/broker/shared/problem"
)

type identityKey struct{}

// IdentityFrom returns the identity that Require or Guard has stored in a request's context.
func IdentityFrom(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// Guard wraps an endpoint's handler in the checks of its row of EndpointScopes.
func (a *Authority) Guard(e Endpoint, h http.Handler) http.Handler {
	if e.Scope == ScopePublic {
		return h
	}
	return a.Require(e.Scope, h)
}

// Require passes on requests whose bearer token (RFC 6750) belongs to a service or an operator and carries the scope;
// with ScopeAny, any scope or none. Tokens of vehicles and of configured roles are refused. The handler gets the caller
// from IdentityFrom.
//
// An unauthenticated client learns that the token is not accepted, not why; the audit log has the reason.
func (a *Authority) Require(scope string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := a.authenticate(w, r)
		if !ok {
			return
		}
		if !admits(scope, &id) {
			a.AuditRefuse("scope", id, PeerOf(r))
			scope, _, _ := strings.Cut(scope, " or ")
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+scope+`"`)
			problem.Write(w, http.StatusForbidden, "insufficient scope", "this call needs the scope "+scope, map[string]any{"scope": scope})
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

// authenticate returns the caller, or answers the request and returns false.
func (a *Authority) authenticate(w http.ResponseWriter, r *http.Request) (Identity, bool) {
	token, ok := bearer(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		problem.Write(w, http.StatusUnauthorized, "token required", "send a token as Authorization: Bearer …", nil)
		return Identity{}, false
	}
	id, err := a.Verify([]byte(token), PeerOf(r))
	if err == nil && id.Role != RoleService && id.Role != RoleOperator {
		a.AuditRefuse("role", id, PeerOf(r))
		err = ErrRole
	}
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		problem.Write(w, http.StatusUnauthorized, "token not accepted", "", nil)
		return Identity{}, false
	}
	return id, true
}

// bearer returns the request's bearer token, after exactly one space. It refuses two Authorization headers.
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// PeerOf returns the peer of an HTTP request. Its certificate is set only if TLS verified one.
func PeerOf(r *http.Request) Peer {
	p := Peer{Address: r.RemoteAddr}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.PeerCertificates) > 0 {
		p.Certificate = r.TLS.PeerCertificates[0]
	}
	return p
}

// JWKS serves the cell's public keys (RFC 7517) that sign, will sign, or still verify. Caches may keep it for half the
// time between a key's publication and its first signature.
func (a *Authority) JWKS() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := a.jwksBody()
		if err != nil {
			problem.Write(w, http.StatusInternalServerError, "", "", nil)
			return
		}
		sum := sha256.Sum256(body)
		h := w.Header()
		h.Set("Content-Type", "application/jwk-set+json")
		h.Set("Cache-Control", "public, max-age="+maxAge(a.live().KeyActivation/2))
		h.Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
		if r.Header.Get("If-None-Match") == h.Get("ETag") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(body)
	})
}

func (a *Authority) jwksBody() ([]byte, error) {
	now := a.cfg.Now()
	set := jwks{Keys: []jwk{}}
	ring := a.ring.Load()
	kids := make([]string, 0, len(ring.byKID))
	for _, k := range ring.own {
		kids = append(kids, k.file.KID)
	}
	for _, kid := range slices.Sorted(maps.Keys(ring.byKID)) { // keys of the cell's other gateways
		if ring.byKID[kid].issuer == a.own && !slices.Contains(kids, kid) {
			kids = append(kids, kid)
		}
	}
	for _, kid := range kids {
		k := ring.byKID[kid]
		if k.retired(now) {
			continue
		}
		j, err := encodePublic(k.public)
		if err != nil {
			return nil, err
		}
		j.KID, j.Alg, j.Use = kid, k.alg, "sig"
		set.Keys = append(set.Keys, j)
	}
	return json.Marshal(set)
}

const maxBody = 16 << 10

var errBody = errors.New("body is not the JSON object that this call takes")

// decodeBody reads a JSON object strictly into v. An empty body counts as an empty object.
func decodeBody(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return bodyError(err)
	case dec.More():
		return errBody
	}
	return nil
}
