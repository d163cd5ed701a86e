package authtest

import (
	"encoding/json"
	"fmt"
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

// cell starts two gateways of one cell with one Redis, and the keys of the first in both.
func cell(t *testing.T) (first, second *harness.Gateway, i issuer) {
	t.Helper()
	redis := harness.EmbeddedRedis(t)
	first = harness.StartGateway(t, harness.Options{NoRules: true, Redis: redis, Several: true})
	second = harness.PrepareGateway(t, harness.Options{NoRules: true, Redis: redis, Node: "gw-2", Several: true})
	shareKeys(t, first, second)
	return first, second, issuerOf(t, first)
}

func shareKeys(t *testing.T, from, to *harness.Gateway) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from.Dir, "data", "auth", "key-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("key files %v, %v", files, err)
	}
	dir := filepath.Join(to.Dir, "data", "auth")
	check.OK(t, os.MkdirAll(dir, 0o700))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), b, 0o600)
		}
		check.OK(t, err)
	}
}

// revoke calls POST /v1/revocations, which must succeed.
func revoke(t *testing.T, g *harness.Gateway, operator string, body map[string]any) {
	t.Helper()
	if status, answer, err := g.Do("POST", "/v1/revocations", operator, body); err != nil || status != 201 {
		t.Fatalf("revoke %v: %d %s, %v", body, status, answer, err)
	}
}

// endedSince checks that a connection ends as revoked, and logs the time since the answer to the revocation.
func endedSince(t *testing.T, m *mqtt.T, since time.Time) {
	t.Helper()
	reason, why := ended(m)
	if m.Version == 5 && (reason != reasonNotAuthorized || !strings.Contains(why, "revoked")) {
		t.Errorf("reason 0x%02x %q", reason, why)
	}
	t.Logf("%s was off after %v", m.Conn.LocalAddr(), time.Since(since))
}

// TestRevocation revokes by jti, by sub and by issue time, over HTTP and with the command line. The live connections of
// the gateway and of another one, started later, must end.
func TestRevocation(t *testing.T) {
	t.Parallel()
	first, second, i := cell(t)
	operator := i.operator()
	vin := func(n int) string { return fmt.Sprintf("LTEST%012d", n) }
	on := func(g *harness.Gateway, n int, version byte, token string) *mqtt.T {
		return mustOpen(t, g.MQTT, connect{id: vin(n), password: token, version: version})
	}
	refused := func(g *harness.Gateway, n int, token string) bool {
		m, code := open(t, g.MQTT, connect{id: vin(n), password: token, version: 5})
		leave(m)
		return code != 0
	}

	// One token by its jti; the vehicle's next one is valid.
	byID, id := i.issue(auth.IssueRequest{Subject: vin(1), Role: auth.RoleVehicle})
	m, unaffected := on(first, 1, 5, byID), on(first, 9, 5, i.vehicle(vin(9)))
	revoke(t, first, operator, map[string]any{"jti": id.TokenID, "reason": "lost key"})
	endedSince(t, m, time.Now())
	if b, err := os.ReadFile(filepath.Join(first.Dir, "data", "auth", "revocations.log")); err != nil || !strings.Contains(string(b), id.TokenID) {
		t.Errorf("not on disk when the call returned: %v", err)
	}
	if !refused(first, 1, byID) || refused(first, 1, i.vehicle(vin(1))) {
		t.Error("the revoked token must be refused, and the next one accepted")
	}
	awaitAudit(t, first, `"event":"revoke"`, id.TokenID, `"by":"operator tester"`, `"reason":"lost key"`, `"from":"127.0.0.1:`)

	// A gateway that starts later learns of it from the version in Redis.
	second.Start()
	check.Eventually(t, "the second gateway refuses the token", func() bool { return refused(second, 1, byID) })

	// Every token of a subject, with the command line on the first gateway; the connection is on the second.
	bySub := i.vehicle(vin(2))
	here, there := on(first, 2, 4, bySub), on(second, 2, 5, bySub)
	begin := time.Now()
	first.Cellgate("token", "revoke", "--config", first.Config, "--sub", vin(2), "--reason", "stolen")
	endedSince(t, here, time.Now())
	if reason, _ := ended(there); reason != reasonNotAuthorized {
		t.Errorf("on the second gateway: 0x%02x", reason)
	}
	t.Logf("the second gateway's connection was off %v after the command line began", time.Since(begin))
	if !refused(first, 2, bySub) || !refused(second, 2, bySub) || refused(second, 2, i.vehicle(vin(2))) {
		t.Error("the subject's old tokens must be refused, and a new one accepted")
	}

	// In the other direction: everything issued up to a time.
	old := i.vehicle(vin(3))
	m = on(first, 3, 5, old)
	status, answer, err := second.Do("POST", "/v1/revocations", i.service("svc", auth.ScopeTokenIssue), map[string]any{"issued_before": time.Now()})
	if err != nil || status != 403 {
		t.Errorf("a service revokes all tokens: %d %s, %v", status, answer, err)
	}
	<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // times are whole seconds
	revoke(t, second, operator, map[string]any{"issued_before": time.Now().UTC().Format(time.RFC3339)})
	if reason, _ := ended(m); reason != reasonNotAuthorized {
		t.Errorf("issued before: 0x%02x", reason)
	}
	ended(unaffected)
	if !refused(first, 3, old) || !refused(second, 3, old) {
		t.Error("a token issued before the time is accepted")
	}
	if status, _, err := second.Get("/v1/status", operator); err != nil || status != 401 {
		t.Errorf("the operator's own token was issued before it too: %d, %v", status, err)
	}
}

// TestRevocationSurvivesKill checks that a confirmed revocation applies after kill -9 and a restart, with Redis and
// everything else away.
func TestRevocationSurvivesKill(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	i := issuerOf(t, g)
	operator := i.operator()
	byID, id := i.issue(auth.IssueRequest{Subject: vinA, Role: auth.RoleVehicle})
	bySub := i.vehicle(vinB)
	revoke(t, g, operator, map[string]any{"jti": id.TokenID})
	revoke(t, g, operator, map[string]any{"sub": vinB})
	g.Kill()
	g.Start()
	for _, c := range []connect{{id: vinA, password: byID, version: 5}, {id: vinB, password: bySub, version: 4}} {
		if _, code := open(t, g.MQTT, c); code == 0 {
			t.Errorf("%s: a revoked token is accepted after kill -9", c.id)
		}
	}
	mustOpen(t, g.MQTT, connect{id: vinA, password: i.vehicle(vinA), version: 5})
	mustOpen(t, g.MQTT, connect{id: vinB, password: i.vehicle(vinB), version: 4})
}

// TestRevocationPurges checks that with purge the vehicle's session and queued messages are removed.
func TestRevocationPurges(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	i := issuerOf(t, g)
	operator := i.operator()
	for _, purge := range []bool{false, true} {
		vin := map[bool]string{false: vinA, true: vinB}[purge]
		m := mustOpen(t, g.MQTT, connect{id: vin, password: i.vehicle(vin), version: 5, keep: true})
		subscribe(m, "v1/"+vin+"/cmd/#")
		leave(m)
		awaitOffline(t, g, operator, vin)
		if status, answer, err := g.Do("POST", "/v1/vehicles/"+vin+"/commands", operator, map[string]any{"name": "unlock", "payload": 1}); err != nil || status != 202 {
			t.Fatalf("command: %d %s, %v", status, answer, err)
		}
		revoke(t, g, operator, map[string]any{"sub": vin, "purge": purge})
		present := func() bool {
			status, _, err := g.Get("/v1/vehicles/"+vin, operator)
			return err == nil && status == 200
		}
		if purge {
			check.Eventually(t, "the session is gone", func() bool { return !present() })
		}
		again, ack := tryOpen(t, g.MQTT, connect{id: vin, password: i.vehicle(vin), version: 5, keep: true})
		if ack.Type == 0 || ack.Reason != 0 || (ack.Present == 1) == purge {
			t.Errorf("purge %v: %v, %d for the session", purge, ack, ack.Present)
		}
		if !purge {
			again.AwaitTopic("v1/" + vin + "/cmd/") // it was queued, so the test can fail
			continue
		}
		check.Eventually(t, "the command is cancelled", func() bool {
			_, body, err := g.Get("/v1/commands?state=cancelled", operator)
			return err == nil && strings.Contains(string(body), vin)
		})
		subscribe(again, "v1/"+vin+"/cmd/#")
		if status, answer, err := g.Do("POST", "/v1/vehicles/"+vin+"/commands", operator, map[string]any{"name": "fence", "payload": 1}); err != nil || status != 202 {
			t.Fatalf("command: %d %s, %v", status, answer, err)
		}
		again.AwaitTopic("v1/" + vin + "/cmd/")
		if got := again.Received(); len(got) != 1 || !strings.HasSuffix(got[0].Topic, "/fence") {
			t.Errorf("after a purge it was sent %+v", got)
		}
	}
}

func awaitOffline(t *testing.T, g *harness.Gateway, operator, vin string) {
	t.Helper()
	check.Eventually(t, vin+" is offline", func() bool {
		_, body, err := g.Get("/v1/vehicles/"+vin, operator)
		var v struct {
			Connected bool `json:"connected"`
		}
		return err == nil && json.Unmarshal(body, &v) == nil && !v.Connected
	})
}
