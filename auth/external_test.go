package auth

import (
	"cmp"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/forge"
)

const partner = "https://login.example.com"

// partnerKey is an external issuer's key and its forge.
type partnerKey struct {
	kid string
	key crypto.Signer
}

func newPartnerKey(t testing.TB, kid string) partnerKey { return partnerKey{kid, forge.AttackerKey(t)} }

func keySet(t testing.TB, keys ...partnerKey) []byte {
	t.Helper()
	set := jwks{}
	for _, k := range keys {
		j, err := encodePublic(k.key.Public())
		check.OK(t, err)
		j.KID, j.Use = k.kid, "sig"
		set.Keys = append(set.Keys, j)
	}
	b, err := json.Marshal(set)
	check.OK(t, err)
	return b
}

func (k partnerKey) token(f *fixture, change ...func(forge.Obj) forge.Obj) string {
	now := f.clock.Now().Unix()
	claims := forge.Obj{}.With("iss", partner).With("aud", testCell).With("sub", "analytics").With("role", "service").
		With("scope", "telemetry:read command:send unheard:of").With("iat", now).With("exp", now+600).With("jti", "p1")
	for _, c := range change {
		claims = c(claims)
	}
	header := forge.Obj{}.With("alg", ES256).With("kid", k.kid).With("typ", "at+jwt").With("x5t", "ignored")
	return (&forge.Forge{Key: k.key}).Sign(header.JSON(), claims.JSON())
}

func withPartner(e ExternalIssuer) func(*Config) {
	e.Issuer, e.Roles, e.Scopes, e.Refresh = partner, []string{RoleService}, []string{ScopeTelemetryRead}, cmp.Or(e.Refresh, time.Hour)
	return func(c *Config) { c.External = []ExternalIssuer{e} }
}

func TestExternalIssuerByFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "partner.jwks")
	first, second := newPartnerKey(t, "p-1"), newPartnerKey(t, "p-2")
	check.OK(t, os.WriteFile(file, keySet(t, first), 0o600))
	f := open(t, withPartner(ExternalIssuer{JWKSFile: file}))
	id, err := f.Verify([]byte(first.token(f)), Peer{})
	check.OK(t, err)
	if id.Issuer != partner || len(id.Scopes) != 1 || id.Scopes[0] != ScopeTelemetryRead {
		t.Fatalf("%+v: only listed scopes may remain", id)
	}
	refused := map[string]string{
		"role not listed":      first.token(f, func(o forge.Obj) forge.Obj { return o.With("role", RoleOperator) }),
		"the cell's own name":  first.token(f, func(o forge.Obj) forge.Obj { return o.With("iss", "cellgate/"+testCell) }),
		"another cell":         first.token(f, func(o forge.Obj) forge.Obj { return o.With("aud", otherCell) }),
		"unknown key":          second.token(f),
		"own kid, foreign key": partnerKey{f.Keys()[0].KID, first.key}.token(f),
	}
	for name, token := range refused {
		if _, err := f.Verify([]byte(token), Peer{}); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A token signed by the cell's own key with the external issuer's name.
	g := newForge(f)
	g.Claims = g.Claims.With("iss", partner)
	if _, err := f.Verify([]byte(g.Token()), Peer{}); !errors.Is(err, ErrBadToken) {
		t.Errorf("own key, foreign name: %v", err)
	}
	check.OK(t, os.WriteFile(file, keySet(t, second), 0o600))
	check.Eventually(t, "the new key set is followed", func() bool {
		_, err := f.Verify([]byte(second.token(f)), Peer{})
		return err == nil
	})
	if _, err := f.Verify([]byte(first.token(f)), Peer{}); !errors.Is(err, ErrBadToken) {
		t.Errorf("key that is gone: %v", err)
	}
}

// TestExternalIssuerByURL checks that the key set is fetched in the background and stored on disk, and stays in force
// while the issuer is away, also across a restart. A broken or empty answer replaces nothing.
func TestExternalIssuerByURL(t *testing.T) {
	t.Parallel()
	key, next := newPartnerKey(t, "u-1"), newPartnerKey(t, "u-2")
	var answer atomic.Pointer[[]byte]
	answer.Store(new(keySet(t, key)))
	var fetches atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(*answer.Load())
	}))
	closed := false
	shut := func() {
		if !closed {
			srv.Close()
		}
		closed = true
	}
	defer shut()
	config := withPartner(ExternalIssuer{JWKSURL: srv.URL, Refresh: time.Second})
	f := open(t, config)
	accepts := func(f *fixture, k partnerKey) bool {
		_, err := f.Verify([]byte(k.token(f)), Peer{})
		return err == nil
	}
	check.Eventually(t, "the key set is fetched", func() bool { return accepts(f, key) })
	answer.Store(new([]byte(`{"keys":[]}`)))
	seen := fetches.Load()
	check.Eventually(t, "a useless answer was fetched", func() bool { return fetches.Load() > seen })
	if !accepts(f, key) {
		t.Fatal("a useless answer replaced the set")
	}
	answer.Store(new(keySet(t, next)))
	check.Eventually(t, "the next set is fetched", func() bool { return accepts(f, next) && !accepts(f, key) })
	shut()
	again := open(t, config, func(c *Config) { c.Dir = f.dir })
	if !accepts(again, next) {
		t.Fatal("the copy on disk is not used")
	}
}

// TestUnknownKidFetchesNothing checks that tokens cannot trigger fetches at will or make the gateway wait.
func TestUnknownKidFetchesNothing(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int64
	b := keySet(t, newPartnerKey(t, "k"))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	f := open(t, withPartner(ExternalIssuer{JWKSURL: srv.URL, Refresh: time.Hour}))
	check.Eventually(t, "first fetch", func() bool { return fetches.Load() == 1 })
	other := newPartnerKey(t, "stranger")
	for range 1000 {
		if _, err := f.Verify([]byte(other.token(f)), Peer{}); err == nil {
			t.Fatal("accepted")
		}
	}
	if n := fetches.Load(); n != 1 {
		t.Fatalf("%d fetches", n)
	}
}

func TestParseJWKS(t *testing.T) {
	t.Parallel()
	good := string(keySet(t, newPartnerKey(t, "a")))
	iss := (&ExternalIssuer{Issuer: partner, Algorithms: []string{ES256, "RS256"}}).issuer(testCell)
	one := strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`)
	twice := `{"keys":[` + one + "," + one + `]}`
	tests := map[string]string{
		"not JSON":            forge.Canary,
		"no keys":             `{"keys":[]}`,
		"two of one kid":      twice,
		"symmetric only":      `{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"AAAA"}]}`,
		"encryption only":     strings.Replace(good, `"sig"`, `"enc"`, 1),
		"without kid":         strings.Replace(good, `"kid":"a"`, `"kid":""`, 1),
		"alg not allowed":     strings.Replace(good, `"use"`, `"alg":"ES384","use"`, 1),
		"alg HS256 on EC":     strings.Replace(good, `"use"`, `"alg":"HS256","use"`, 1),
		"point off the curve": `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"` + forge.B64(forge.Digest(nil)) + `","y":"` + forge.B64(forge.Digest(nil)) + `"}]}`,
		"RSA of 512 bits":     `{"keys":[{"kty":"RSA","alg":"RS256","kid":"a","n":"` + forge.B64([]byte(strings.Repeat("\xff", 64))) + `","e":"AQAB"}]}`,
		"RSA, e = 1":          `{"keys":[{"kty":"RSA","alg":"RS256","kid":"a","n":"` + forge.B64([]byte(strings.Repeat("\xff", 256))) + `","e":"AQ"}]}`,
		"RSA without alg":     `{"keys":[{"kty":"RSA","kid":"a","n":"` + forge.B64([]byte(strings.Repeat("\xff", 256))) + `","e":"AQAB"}]}`,
	}
	if keys, err := parseJWKS([]byte(good), iss); err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for name, set := range tests {
		if _, err := parseJWKS([]byte(set), iss); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestExternalIssuerValidate(t *testing.T) {
	t.Parallel()
	base := ExternalIssuer{Issuer: partner, JWKSURL: "https://x/jwks", Roles: []string{RoleService}, Refresh: time.Hour}
	check.OK(t, base.validate())
	bad := map[string]func(*ExternalIssuer){
		"no name":         func(e *ExternalIssuer) { e.Issuer = "" },
		"no source":       func(e *ExternalIssuer) { e.JWKSURL = "" },
		"two sources":     func(e *ExternalIssuer) { e.JWKSFile = "x" },
		"no roles":        func(e *ExternalIssuer) { e.Roles = nil },
		"plain http":      func(e *ExternalIssuer) { e.JWKSURL = "http://login.example.com/jwks" },
		"file URL":        func(e *ExternalIssuer) { e.JWKSURL = "file:///etc/passwd" },
		"password in URL": func(e *ExternalIssuer) { e.JWKSURL = "https://u:p@x/jwks" },
		"HS256":           func(e *ExternalIssuer) { e.Algorithms = []string{"HS256"} },
		"unknown scope":   func(e *ExternalIssuer) { e.Scopes = []string{"all"} },
		"refresh":         func(e *ExternalIssuer) { e.Refresh = time.Millisecond },
	}
	for name, spoil := range bad {
		e := base
		spoil(&e)
		if e.validate() == nil {
			t.Errorf("%s: valid", name)
		}
	}
	base.JWKSURL = "http://127.0.0.1:1/jwks"
	if err := base.validate(); err != nil {
		t.Errorf("loopback: %v", err)
	}
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "partner.jwks")
	key := newPartnerKey(t, "p-1")
	check.OK(t, os.WriteFile(file, keySet(t, key), 0o600))
	f := open(t)
	cfg := f.cfg
	cfg.Roles = map[string]RolePolicy{"lab": {Publish: []string{"#"}}}
	cfg.TTL = 5 * time.Minute
	withPartner(ExternalIssuer{JWKSFile: file})(&cfg)
	check.OK(t, f.Reconfigure(cfg))
	if _, id := f.issue(t, IssueRequest{Subject: "x", Role: "lab"}); id.Expires.Sub(id.IssuedAt) != 5*time.Minute {
		t.Errorf("TTL %s", id.Expires.Sub(id.IssuedAt))
	}
	lab, _ := f.issue(t, IssueRequest{Subject: "x", Role: "lab"})
	if _, err := f.Verify([]byte(key.token(f)), Peer{}); err != nil {
		t.Errorf("new issuer: %v", err)
	}
	bad := cfg
	bad.TTL = time.Hour
	bad.Roles = map[string]RolePolicy{"lab": {Publish: []string{"a#"}}}
	if f.CheckReconfigure(bad) == nil || f.Reconfigure(bad) == nil {
		t.Fatal("a bad role was applied")
	}
	if f.live().TTL != 5*time.Minute {
		t.Error("applied in part")
	}
	cfg.Roles, cfg.External = nil, nil
	check.OK(t, f.Reconfigure(cfg))
	if _, err := f.Verify([]byte(lab), Peer{}); !errors.Is(err, ErrRole) {
		t.Errorf("token of a role that is gone: %v", err)
	}
	if _, err := f.Verify([]byte(key.token(f)), Peer{}); !errors.Is(err, ErrBadToken) {
		t.Errorf("token of an issuer that is gone: %v", err)
	}
}
