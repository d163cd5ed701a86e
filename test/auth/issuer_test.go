package authtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/forge"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

const partner = "https://partner.example"

// partnerForge returns the forge of an external issuer and its key set.
func partnerForge(t *testing.T, issuer, kid string) (*forge.Forge, []byte) {
	t.Helper()
	key := forge.AttackerKey(t)
	point, err := key.PublicKey.Bytes() // 0x04, X, Y
	check.OK(t, err)
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid, "x": forge.B64(point[1:33]), "y": forge.B64(point[33:]),
	}}})
	check.OK(t, err)
	f := (&forge.Forge{Key: key, KID: kid, Alg: "ES256", Cell: cellID, VIN: "analytics", Now: time.Now()}).Init()
	f.Claims = f.Claims.With("iss", issuer).With("role", "service").With("scope", "telemetry:read command:send vehicle:admin")
	return f, set
}

// TestExternalIssuers checks that tokens of external issuers are accepted by a key set on disk or at a URL, within what
// the configuration lets them grant. The copy on disk serves while the URL is away, also after a restart.
func TestExternalIssuers(t *testing.T) {
	t.Parallel()
	byFile, fileSet := partnerForge(t, partner, "p-1")
	byURL, urlSet := partnerForge(t, "https://login.example", "l-1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(urlSet) }))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "partner.jwks")
	check.OK(t, os.WriteFile(file, fileSet, 0o600))
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: fmt.Sprintf(`issuers: [
    {issuer: %q, jwks_file: %q, roles: [service], scopes: ["telemetry:read"]},
    {issuer: "https://login.example", jwks_url: %q, roles: [service], refresh: 10s}]`, partner, file, server.URL+"/jwks")})
	status := func(path, token string) int {
		t.Helper()
		status, _, err := g.Get(path, token)
		check.OK(t, err)
		return status
	}
	m := mustOpen(t, g.MQTT, connect{id: "analytics", password: byFile.Token(), version: 5})
	if code := subscribe(m, "v1/+/up/#"); code >= 0x80 {
		t.Errorf("a scope that is listed does not count: 0x%02x", code)
	}
	if code, _ := publish(m, mqtt.Publish{Topic: "v1/" + vinA + "/cmd/c1/lock", QoS: 1}); code != reasonNotAuthorized {
		t.Errorf("a scope that is not listed counts: 0x%02x", code)
	}
	if got := status("/v1/vehicles", byFile.Token()); got != 403 {
		t.Errorf("vehicle:admin by the partner: %d", got)
	}
	for role, claims := range map[string]forge.Obj{
		"vehicle":  byFile.Claims.With("role", "vehicle").With("sub", vinA),
		"operator": byFile.Claims.With("role", "operator"),
	} {
		if _, code := open(t, g.MQTT, connect{id: vinA, password: byFile.Sign(byFile.Header.JSON(), claims.JSON()), version: 5}); code != reasonBadCredentials {
			t.Errorf("role %s by the partner: 0x%02x", role, code)
		}
	}
	// By URL, without any scope.
	check.Eventually(t, "the key set is fetched", func() bool { return status("/v1/status", byURL.Token()) == 200 })
	if m := mustOpen(t, g.MQTT, connect{id: "analytics/url", password: byURL.Token(), version: 5}); subscribe(m, "v1/+/up/#") < 0x80 {
		t.Error("an issuer without scopes grants one")
	}
	server.Close()
	g.Kill()
	g.Start()
	if got := status("/v1/status", byURL.Token()); got != 200 {
		t.Errorf("with the URL away after a restart: %d", got)
	}
	// A key set that changes on disk is read again.
	next, nextSet := partnerForge(t, partner, "p-2")
	check.OK(t, os.WriteFile(file, nextSet, 0o600))
	check.Eventually(t, "the new key set is followed", func() bool {
		return status("/v1/status", next.Token()) == 200 && status("/v1/status", byFile.Token()) == 401
	})
}

// TestCommandLine runs the token commands against a running gateway, which must follow their changes.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles})
	token := g.VehicleToken(vinA)
	mustOpen(t, g.MQTT, connect{id: vinA, password: token, version: 4})
	var shown struct {
		Accepted bool
		Subject  string
		TokenID  string `json:"jti"`
		KeyID    string `json:"kid"`
	}
	inspect := func(token string) (string, error) {
		return harness.RunCellgate(t, g.Dir, "token", "inspect", "--config", g.Config, "--json", token)
	}
	out, err := inspect(token)
	if err != nil || json.Unmarshal([]byte(out), &shown) != nil || !shown.Accepted || shown.Subject != vinA {
		t.Fatalf("%s, %v", out, err)
	}
	if lab := g.Cellgate("token", "issue", "--config", g.Config, "--service", "lab-1", "--role", "lab"); lab != "" {
		mustOpen(t, g.MQTT, connect{password: lab, version: 5})
	}
	file := filepath.Join(g.Dir, "vins")
	check.OK(t, os.WriteFile(file, []byte(vinA+"\n"+vinB+"\n"), 0o600))
	many := strings.Fields(g.Cellgate("token", "issue", "--config", g.Config, "--vins", file, "--ttl", "10m"))
	if len(many) != 2 {
		t.Fatalf("%d tokens for two VINs", len(many))
	}
	mustOpen(t, g.MQTT, connect{id: vinB, password: many[1], version: 5})

	g.Cellgate("token", "revoke", "--config", g.Config, "--jti", shown.TokenID)
	check.Eventually(t, "the gateway refuses the token", func() bool {
		m, code := open(t, g.MQTT, connect{id: vinA, password: token, version: 5})
		leave(m)
		return code == reasonBadCredentials
	})
	if out, err := inspect(token); err == nil || !strings.Contains(out, "revoked") {
		t.Errorf("inspect of a revoked token: %s, %v", out, err)
	}

	var keys []auth.KeyInfo
	if out := g.Cellgate("token", "rotate", "--config", g.Config, "--alg", "EdDSA", "--json"); json.Unmarshal([]byte(out), &keys) != nil || len(keys) != 2 {
		t.Fatalf("rotate: %s", out)
	}
	check.Eventually(t, "both keys are published", func() bool {
		_, body, err := g.Get("/.well-known/jwks.json", "")
		return err == nil && strings.Contains(string(body), keys[0].KID) && strings.Contains(string(body), keys[1].KID) && !strings.Contains(string(body), `"d"`)
	})
	mustOpen(t, g.MQTT, connect{id: vinB, password: many[1], version: 4}) // signed with the older key
	for _, event := range []string{"issue", "revoke", "rotate"} {
		awaitAudit(t, g, `"event":"`+event+`"`, `"by":"cli:`)
	}
	checkAudit(t, g)
	searchSecrets(t, g, append(many, token)...)
	files, err := filepath.Glob(filepath.Join(g.Dir, "data", "auth", "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range append(files, filepath.Join(g.Dir, "data", "audit.log")) {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}

// checkAudit checks that every line is an object with who, what and when.
func checkAudit(t *testing.T, g *harness.Gateway) {
	t.Helper()
	n := 0
	for line := range strings.Lines(auditLog(t, g)) {
		var e auth.AuditEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.At.IsZero() || e.Event == "" || e.Cell != cellID {
			t.Errorf("audit line %q: %v", line, err)
		}
		n++
	}
	if n == 0 {
		t.Error("no audit line")
	}
}
