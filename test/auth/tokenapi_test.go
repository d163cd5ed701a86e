package authtest

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

type answer struct {
	status     int
	retryAfter string
	body       string
	Token      string `json:"token"`
	VIN        string `json:"vin"`
	ExpiresIn  int    `json:"expires_in"`
}

// call calls token_api; cert may be nil. It returns an error if the connection fails.
func call(t *testing.T, g *harness.Gateway, cert *tls.Certificate, version uint16, method, path, body string) (answer, error) {
	t.Helper()
	config := g.ClientTLS()
	config.MaxVersion = version
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	client := http.Client{Timeout: check.Patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+g.TokenAPI+path, bytes.NewReader([]byte(body)))
	check.OK(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After"), body: string(b)}
	if resp.StatusCode < 300 {
		_ = json.Unmarshal(b, &a)
	} else if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s %s: %d as %s", method, path, resp.StatusCode, got)
	}
	return a, err
}

// TestTokenAPI checks that a vehicle gets its own token with its certificate, bound to it, on a listener that serves
// only this and the JWKS, and only over TLS 1.3.
func TestTokenAPI(t *testing.T) {
	t.Parallel()
	ca := harness.NewAuthority(t)
	g := harness.StartGateway(t, harness.Options{NoRules: true, VehicleCA: ca, Auth: "token_ttl: 2m, client_certificate: {bind: true}"})
	cert := ca.Vehicle(t, vinA, true)
	post := func(cert *tls.Certificate, body string) answer {
		t.Helper()
		a, err := call(t, g, cert, 0, "POST", "/v1/tokens", body)
		check.OK(t, err)
		return a
	}
	got := post(&cert, "")
	if got.status != 201 || got.VIN != vinA || got.Token == "" || got.ExpiresIn < 110 || got.ExpiresIn > 120 {
		t.Fatalf("%+v", got)
	}
	again := got
	for n := 0; n < 20 && again.status == 201; n++ {
		again = post(&cert, "")
	}
	if again.status != 429 || again.retryAfter == "" {
		t.Errorf("the same vehicle again and again: %d", again.status)
	}
	if got, err := call(t, g, nil, 0, "GET", "/.well-known/jwks.json", ""); err != nil || got.status != 200 || !strings.Contains(got.body, `"kid"`) {
		t.Errorf("JWKS: %+v, %v", got, err)
	}
	for _, e := range auth.EndpointScopes() {
		if e.Path == "/v1/tokens" || strings.HasSuffix(e.Path, "jwks.json") {
			continue
		}
		if got, err := call(t, g, &cert, 0, e.Method, strings.NewReplacer("{vin}", vinA, "{id}", "c1").Replace(e.Path), ""); err != nil || got.status != 404 {
			t.Errorf("%s %s on token_api: %d, %v", e.Method, e.Path, got.status, err)
		}
	}
	refusals(t, g, ca, post)
	bound(t, g, ca, cert, got.Token)
	inspectBound(t, g, cert, got.Token)
	awaitAudit(t, g, `"event":"issue"`, `"sub":"`+vinA, `"by":"certificate"`, `"from":"127.0.0.1:`)
	searchSecrets(t, g, got.Token)
}

// inspectBound checks that the command line accepts a bound token with its certificate only.
func inspectBound(t *testing.T, g *harness.Gateway, cert tls.Certificate, token string) {
	t.Helper()
	file := filepath.Join(g.Dir, "vehicle.crt")
	check.OK(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	if out, err := harness.RunCellgate(t, g.Dir, "token", "inspect", "--config", g.Config, "--cert", file, token); err != nil || !strings.Contains(out, vinA) {
		t.Errorf("inspect with the certificate: %s, %v", out, err)
	}
	if out, err := harness.RunCellgate(t, g.Dir, "token", "inspect", "--config", g.Config, token); err == nil || !strings.Contains(out, "certificate") {
		t.Errorf("inspect without it: %s, %v", out, err)
	}
}

// refusals checks that an unauthenticated client, or a vehicle that requests too much, learns little.
func refusals(t *testing.T, g *harness.Gateway, ca *harness.Authority, post func(*tls.Certificate, string) answer) {
	t.Helper()
	if got := post(nil, ""); got.status != 401 || strings.Contains(got.body, "certificate") {
		t.Errorf("without a certificate: %+v", got)
	}
	only := ca.Vehicle(t, vinB, false) // VIN in the common name, which this gateway does not use
	if got := post(&only, ""); got.status != 401 {
		t.Errorf("certificate without SAN: %+v", got)
	}
	for n, body := range []string{`{"vin":"` + vinB + `"}`, `{"ttl":"3h"}`, `{"x5t#S256":"AAAA"}`, `{"role":"operator"}`, `not JSON`} {
		cert := ca.Vehicle(t, fmt.Sprintf("LTEST%012d", n), true)
		if got := post(&cert, body); got.status != 400 || strings.Contains(got.body, `"detail"`) {
			t.Errorf("%s: %+v", body, got)
		}
	}
	foreign := harness.NewAuthority(t).Vehicle(t, vinA, true)
	if got, err := call(t, g, &foreign, 0, "POST", "/v1/tokens", ""); err == nil && got.status < 400 {
		t.Errorf("certificate of another authority: %+v", got)
	}
	cert := ca.Vehicle(t, vinB, true)
	if got, err := call(t, g, &cert, tls.VersionTLS12, "POST", "/v1/tokens", ""); err == nil {
		t.Errorf("TLS 1.2: %+v", got)
	}
	// A caller with token:issue learns the reason.
	i := issuerOf(t, g)
	for body, why := range map[string]string{`{"vin":"a/b"}`: "subject", `{"vin":"X","ttl":"3h"}`: "ttl"} {
		status, answer, err := g.Do("POST", "/v1/tokens", i.service("svc", auth.ScopeTokenIssue), json.RawMessage(body))
		if err != nil || status != 400 || !strings.Contains(string(answer), why) {
			t.Errorf("%s by a service: %d %s, %v", body, status, answer, err)
		}
	}
	status, answer, err := g.Do("POST", "/v1/tokens", i.operator(), map[string]any{"vin": vinB, "ttl": "3h"})
	if err != nil || status != 201 || !strings.Contains(string(answer), vinB) {
		t.Errorf("by an operator: %d %s, %v", status, answer, err)
	}
}

// bound checks that the token is valid with its certificate, and not with another or none.
func bound(t *testing.T, g *harness.Gateway, ca *harness.Authority, cert tls.Certificate, token string) {
	t.Helper()
	other := ca.Vehicle(t, vinA, true)
	for name, c := range map[string]struct {
		addr string
		cert *tls.Certificate
		want byte
	}{
		"its certificate":        {g.MQTTS, &cert, 0},
		"another of the vehicle": {g.MQTTS, &other, reasonBadCredentials},
		"no certificate":         {g.MQTTS, nil, reasonBadCredentials},
		"no TLS":                 {g.MQTT, nil, reasonBadCredentials},
	} {
		var config *tls.Config
		if c.addr == g.MQTTS {
			config = g.ClientTLS()
			if c.cert != nil {
				config.Certificates = []tls.Certificate{*c.cert}
			}
		}
		m, code := open(t, c.addr, connect{id: vinA, password: token, version: 5, tls: config})
		if code != c.want {
			t.Errorf("bound token with %s: 0x%02x, want 0x%02x", name, code, c.want)
		}
		if code == 0 {
			m.Publish(mqtt.Publish{Topic: "v1/" + vinA + "/up/telemetry", QoS: 1})
		}
		leave(m)
	}
}

// TestTokenAPICommonName checks that the VIN can be in the common name, EdDSA can sign, and a token need not be bound.
func TestTokenAPICommonName(t *testing.T) {
	t.Parallel()
	ca := harness.NewAuthority(t)
	g := harness.StartGateway(t, harness.Options{NoRules: true, VehicleCA: ca, Auth: "alg: EdDSA, client_certificate: {vin_from: cn}"})
	cert := ca.Vehicle(t, vinA, false)
	got, err := call(t, g, &cert, 0, "POST", "/v1/tokens", "")
	if err != nil || got.status != 201 || got.VIN != vinA {
		t.Fatalf("%+v, %v", got, err)
	}
	mustOpen(t, g.MQTT, connect{id: vinA, password: got.Token, version: 4})
	if keys, err := call(t, g, nil, 0, "GET", "/.well-known/jwks.json", ""); err != nil || !strings.Contains(keys.body, `"alg":"EdDSA"`) {
		t.Errorf("%+v, %v", keys, err)
	}
	// A locked-out vehicle gets no token.
	revoke(t, g, issuerOf(t, g).operator(), map[string]any{"sub": vinA, "issued_before": time.Now().Add(time.Hour)})
	check.Eventually(t, "403 once a second has passed", func() bool {
		got, err := call(t, g, &cert, 0, "POST", "/v1/tokens", "")
		return err == nil && got.status == 403
	})
}
