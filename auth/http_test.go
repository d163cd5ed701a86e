package auth

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/forge"
)

type authorityCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB, now time.Time) *authorityCA {
	t.Helper()
	key := forge.AttackerKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vehicles"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	ca := &authorityCA{key: key, pool: x509.NewCertPool()}
	ca.cert = signCert(t, tmpl, tmpl, key.Public(), key)
	ca.pool.AddCert(ca.cert)
	return ca
}

func signCert(t testing.TB, tmpl, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	check.OK(t, err)
	cert, err := x509.ParseCertificate(der)
	check.OK(t, err)
	return cert
}

// vehicle makes a client certificate with VINs in its SAN and one in its CN.
func (ca *authorityCA) vehicle(t testing.TB, now time.Time, cn string, urns ...string) tls.Certificate {
	t.Helper()
	key := forge.AttackerKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, u := range urns {
		parsed, err := url.Parse(u)
		check.OK(t, err)
		tmpl.URIs = append(tmpl.URIs, parsed)
	}
	cert := signCert(t, tmpl, ca.cert, key.Public(), ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// tokenServer serves the token API over TLS and accepts a client certificate of any CA.
func tokenServer(t testing.TB, f *fixture) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("POST /v1/tokens", f.Tokens())
	mux.Handle("POST /v1/revocations", f.Require(ScopeTokenIssue, f.RevocationsHandler()))
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

type call struct {
	cert    *tls.Certificate
	bearer  string
	body    string
	path    string
	version uint16
}

func (c call) do(t testing.TB, srv *httptest.Server) (int, map[string]any, string) {
	t.Helper()
	transport := srv.Client().Transport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if c.cert != nil {
		transport.TLSClientConfig.Certificates = []tls.Certificate{*c.cert}
	}
	transport.TLSClientConfig.MaxVersion = c.version
	if c.path == "" {
		c.path = "/v1/tokens"
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+c.path, strings.NewReader(c.body))
	check.OK(t, err)
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	check.OK(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	check.OK(t, err)
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatalf("%d %s: %v", resp.StatusCode, b, err)
	}
	return resp.StatusCode, doc, string(b)
}

func TestTokenByCertificate(t *testing.T) {
	t.Parallel()
	now := newClock().Now()
	ca, otherCA := newCA(t, now), newCA(t, now)
	f := open(t, func(c *Config) {
		c.VehicleCAs = func() *x509.CertPool { return ca.pool }
		c.BindCertificates = true
	})
	srv := tokenServer(t, f)
	good := ca.vehicle(t, now, "other", "urn:vin:"+testVIN)
	status, doc, _ := call{cert: &good}.do(t, srv)
	if status != http.StatusCreated || doc["vin"] != testVIN || doc["token_type"] != "Bearer" || doc["expires_in"] != 3600.0 {
		t.Fatalf("%d %v", status, doc)
	}
	token := []byte(doc["token"].(string))
	id, err := f.Verify(token, Peer{Certificate: good.Leaf})
	if err != nil || id.Role != RoleVehicle || id.CertThumbprint != Thumbprint(good.Leaf) {
		t.Fatalf("%+v %v", id, err)
	}
	other := ca.vehicle(t, now, "", "urn:vin:"+testVIN)
	for range 2 { // the second time from the cache
		for _, cert := range []*x509.Certificate{nil, other.Leaf} {
			if _, err := f.Verify(token, Peer{Certificate: cert}); Reason(err) != "certificate" {
				t.Fatalf("bound token without its certificate: %v", err)
			}
		}
	}
	refused := map[string]struct {
		call
		status int
	}{
		"no certificate":     {call{}, 401},
		"another CA":         {call{cert: new(otherCA.vehicle(t, now, "", "urn:vin:"+testVIN))}, 401},
		"expired":            {call{cert: new(ca.vehicle(t, now.Add(-48*time.Hour), "", "urn:vin:"+testVIN))}, 401},
		"not yet valid":      {call{cert: new(ca.vehicle(t, now.Add(48*time.Hour), "", "urn:vin:"+testVIN))}, 401},
		"no VIN in the SAN":  {call{cert: new(ca.vehicle(t, now, testVIN))}, 401},
		"another URN":        {call{cert: new(ca.vehicle(t, now, "", "urn:uuid:"+testVIN))}, 401},
		"two VINs":           {call{cert: new(ca.vehicle(t, now, "", "urn:vin:"+testVIN, "urn:vin:"+otherVIN))}, 401},
		"wildcard VIN":       {call{cert: new(ca.vehicle(t, now, "", "urn:vin:+"))}, 401},
		"TLS 1.2":            {call{cert: &good, version: tls.VersionTLS12}, 401},
		"another's VIN":      {call{cert: &good, body: `{"vin":"` + otherVIN + `"}`}, 400},
		"longer than TTL":    {call{cert: &good, body: `{"ttl":"2h"}`}, 400},
		"unknown member":     {call{cert: &good, body: `{"role":"operator"}`}, 400},
		"binding of another": {call{cert: &good, body: `{"x5t#S256":"` + forge.B64(forge.Digest(nil)) + `"}`}, 400},
		"not JSON":           {call{cert: &good, body: forge.Canary}, 400},
		"a vehicle's token":  {call{cert: &good, bearer: f.vehicle(t, testVIN)}, 401},
	}
	for _, name := range names(refused) {
		r := refused[name]
		status, doc, text := r.do(t, srv)
		if status != r.status || doc["detail"] != nil && r.bearer == "" {
			t.Errorf("%s: %d %s: a stranger learns nothing", name, status, text)
		}
	}
}

func TestVehicleNameFromCN(t *testing.T) {
	t.Parallel()
	now := newClock().Now()
	ca := newCA(t, now)
	cert := ca.vehicle(t, now, testVIN, "urn:VIN:"+otherVIN)
	if vin, err := vehicleName(cert.Leaf, nameFromCN); err != nil || vin != testVIN {
		t.Errorf("CN: %q %v", vin, err)
	}
	if vin, err := vehicleName(cert.Leaf, nameFromSAN); err != nil || vin != otherVIN {
		t.Errorf("SAN: %q %v", vin, err)
	}
}

// TestVehicleNameIsTheBytesThatItIs checks that a certificate for the subject abc is not one for ABC, and that nothing
// is decoded.
func TestVehicleNameIsTheBytesThatItIs(t *testing.T) {
	t.Parallel()
	now := newClock().Now()
	ca := newCA(t, now)
	for uri, want := range map[string]string{
		"urn:vin:" + strings.ToLower(testVIN): strings.ToLower(testVIN),
		"URN:VIN:" + testVIN:                  testVIN,
		"urn:vin:A%42C":                       "A%42C",
		"urn:vin:ABC?x":                       "",
		"urn:vin:ABC#x":                       "",
		"urn://vin/ABC":                       "",
	} {
		if vin, _ := vehicleName(ca.vehicle(t, now, "", uri).Leaf, nameFromSAN); vin != want {
			t.Errorf("%s: %q, want %q", uri, vin, want)
		}
	}
}

func TestTokenByOperatorAndService(t *testing.T) {
	t.Parallel()
	f := open(t)
	srv := tokenServer(t, f)
	operator, _ := f.issue(t, IssueRequest{Subject: "op", Role: RoleOperator})
	service, _ := f.issue(t, IssueRequest{Subject: "factory", Role: RoleService, Scopes: []string{ScopeTokenIssue}})
	reader, _ := f.issue(t, IssueRequest{Subject: "dash", Role: RoleService, Scopes: []string{ScopeTelemetryRead}})
	tests := map[string]struct {
		call
		status int
		detail string
	}{
		"service":                  {call{bearer: service, body: `{"vin":"` + testVIN + `"}`}, 201, ""},
		"operator, long":           {call{bearer: operator, body: `{"vin":"` + testVIN + `","ttl":"48h"}`}, 201, ""},
		"operator, days":           {call{bearer: operator, body: `{"vin":"` + testVIN + `","ttl":"7d"}`}, 201, ""},
		"service, long":            {call{bearer: service, body: `{"vin":"` + testVIN + `","ttl":"48h"}`}, 400, "between 1s and 1h"},
		"operator, too long":       {call{bearer: operator, body: `{"vin":"` + testVIN + `","ttl":"4800h"}`}, 400, "between 1s and 2160h"},
		"no VIN":                   {call{bearer: operator, body: `{}`}, 400, "invalid subject: empty"},
		"wildcard":                 {call{bearer: operator, body: `{"vin":"#"}`}, 400, "contains '+', '#' or '/'"},
		"unknown member":           {call{bearer: operator, body: `{"vim":"x"}`}, 400, `unknown member "vim"`},
		"too large":                {call{bearer: operator, body: `{"vin":"` + strings.Repeat("x", 20000) + `"}`}, 400, "over 16384 bytes"},
		"two objects":              {call{bearer: operator, body: `{"vin":"x"}{}`}, 400, "not the JSON object"},
		"bad thumbprint":           {call{bearer: operator, body: `{"vin":"x","x5t#S256":"abc"}`}, 400, "thumbprint"},
		"without the scope":        {call{bearer: reader, body: `{"vin":"` + testVIN + `"}`}, 403, "token:issue"},
		"no token, no certificate": {call{body: `{"vin":"` + testVIN + `"}`}, 401, ""},
	}
	for _, name := range names(tests) {
		tt := tests[name]
		status, doc, text := tt.do(t, srv)
		detail, _ := doc["detail"].(string)
		if status != tt.status || !strings.Contains(detail, tt.detail) {
			t.Errorf("%s: %d %s", name, status, text)
		}
		if status == 201 {
			if id, err := f.Verify([]byte(doc["token"].(string)), Peer{}); err != nil || id.Subject != testVIN || id.Role != RoleVehicle {
				t.Errorf("%s: %+v %v", name, id, err)
			}
		}
	}
	status, doc, _ := call{bearer: operator, body: `{"vin":"1M8GDM9A0KP042788"}`}.do(t, srv)
	if warning, _ := doc["warning"].(string); status != 201 || !strings.Contains(warning, "check digit") {
		t.Errorf("a wrong check digit is flagged, not refused: %d %v", status, doc)
	}
}

func TestRevocationsHandler(t *testing.T) {
	t.Parallel()
	f := open(t)
	srv := tokenServer(t, f)
	operator, _ := f.issue(t, IssueRequest{Subject: "op", Role: RoleOperator})
	service, _ := f.issue(t, IssueRequest{Subject: "factory", Role: RoleService, Scopes: []string{ScopeTokenIssue}})
	tests := []struct {
		name, bearer, body string
		status             int
	}{
		{"jti", service, `{"jti":"abc","reason":"lost"}`, 201},
		{"sub", service, `{"sub":"` + testVIN + `","purge":true}`, 201},
		{"all, by a service", service, `{"issued_before":"2026-01-01T00:00:00Z"}`, 403},
		{"all, by an operator", operator, `{"issued_before":"2026-01-01T00:00:00Z"}`, 201},
		{"all, ahead", operator, `{"issued_before":"2027-01-01T00:00:00Z"}`, 400},
		{"nothing", operator, `{}`, 400},
		{"not a time", operator, `{"issued_before":"yesterday"}`, 400},
		{"no token", "", `{"jti":"abc"}`, 401},
	}
	token := f.vehicle(t, testVIN)
	for _, tt := range tests {
		status, _, text := call{bearer: tt.bearer, body: tt.body, path: "/v1/revocations"}.do(t, srv)
		if status != tt.status {
			t.Errorf("%s: %d %s", tt.name, status, text)
		}
	}
	f.refusedFor(t, token, ErrRevoked)
	for _, want := range []string{`"event":"revoke"`, `"by":"service factory"`, `"reason":"lost"`, `"event":"refuse"`} {
		if !strings.Contains(f.logs.String(), want) {
			t.Errorf("audit log lacks %s", want)
		}
	}
}

func TestTokenRateLimit(t *testing.T) {
	t.Parallel()
	now := newClock().Now()
	ca := newCA(t, now)
	f := open(t, func(c *Config) { c.VehicleCAs = func() *x509.CertPool { return ca.pool } })
	srv := tokenServer(t, f)
	cert := ca.vehicle(t, now, "", "urn:vin:"+testVIN)
	for i := range callerBurst + 1 {
		status, _, text := call{cert: &cert}.do(t, srv)
		if want := map[bool]int{true: 201, false: 429}[i < callerBurst]; status != want {
			t.Fatalf("call %d: %d %s", i, status, text)
		}
	}
	neighbour := ca.vehicle(t, now, "", "urn:vin:"+otherVIN)
	if status, _, _ := (call{cert: &neighbour}).do(t, srv); status != 201 {
		t.Fatalf("the neighbour pays: %d", status)
	}
	f.clock.Add(time.Second)
	if status, _, _ := (call{cert: &cert}).do(t, srv); status != 201 {
		t.Fatalf("a second later: %d", status)
	}
}

func TestRequire(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.Roles = map[string]RolePolicy{"lab": {Publish: []string{"#"}}} })
	token := func(role string, scopes ...string) string {
		s, _ := f.issue(t, IssueRequest{Subject: "x", Role: role, Scopes: scopes})
		return "Bearer " + s
	}
	service, lab := token(RoleService, ScopeCommandSend), token("lab")
	tests := []struct {
		name   string
		header []string
		scope  string
		status int
	}{
		{"has the scope", []string{service}, ScopeCommandSend, 200},
		{"any", []string{service}, ScopeAny, 200},
		{"public", nil, ScopePublic, 200},
		{"scheme in lower case", []string{strings.Replace(service, "Bearer", "bearer", 1)}, ScopeAny, 200},
		{"other scope", []string{service}, ScopeCommandRead, 403},
		{"scope that nobody has", []string{token(RoleOperator)}, "no:such", 403},
		{"no token", nil, ScopeAny, 401},
		{"two headers", []string{service, service}, ScopeAny, 401},
		{"basic", []string{"Basic eDp5"}, ScopeAny, 401},
		{"empty", []string{"Bearer "}, ScopeAny, 401},
		{"bare", []string{strings.TrimPrefix(service, "Bearer ")}, ScopeAny, 401},
		{"vehicle", []string{"Bearer " + f.vehicle(t, testVIN)}, ScopeAny, 401},
		{"role of the configuration", []string{lab}, ScopeAny, 401},
	}
	for _, tt := range tests {
		h := f.Guard(Endpoint{http.MethodGet, "/", tt.scope}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if id, ok := IdentityFrom(r.Context()); ok != (tt.scope != ScopePublic) || ok && id.Subject != "x" {
				t.Errorf("%s: identity %+v", tt.name, id)
			}
		}))
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header["Authorization"] = tt.header
		h.ServeHTTP(rec, req)
		if rec.Code != tt.status {
			t.Errorf("%s: %d", tt.name, rec.Code)
		}
		if (rec.Code == 401 || rec.Code == 403) && rec.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", tt.name)
		}
	}
}

func TestJWKSHandler(t *testing.T) {
	t.Parallel()
	f := open(t)
	rec := httptest.NewRecorder()
	f.JWKS().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	if rec.Header().Get("Content-Type") != "application/jwk-set+json" {
		t.Error(rec.Header())
	}
	iss := (&ExternalIssuer{Issuer: "cellgate/" + testCell}).issuer(testCell)
	if keys, err := parseJWKS(rec.Body.Bytes(), iss); err != nil || len(keys) != 1 || keys[0].kid != f.Keys()[0].KID {
		t.Errorf("our own reader does not take it: %v", err)
	}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("If-None-Match", rec.Header().Get("ETag"))
	again := httptest.NewRecorder()
	f.JWKS().ServeHTTP(again, req)
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("%d", again.Code)
	}
}
