package authtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// TestIssuersAndRolesAreApart checks that a client with the name and client identifier of one of the cell's services,
// but of another issuer or role, neither ends its connection nor finds its session, and that a revocation of one does
// not affect the other.
func TestIssuersAndRolesAreApart(t *testing.T) {
	t.Parallel()
	foreign, set := partnerForge(t, partner, "p-1")
	file := filepath.Join(t.TempDir(), "partner.jwks")
	check.OK(t, os.WriteFile(file, set, 0o600))
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: fmt.Sprintf(
		`issuers: [{issuer: %q, jwks_file: %q, roles: [service], scopes: ["telemetry:read"]}]`, partner, file)})
	i := issuerOf(t, g)
	operator := i.operator()
	car := mustOpen(t, g.MQTT, connect{id: vinA, password: i.vehicle(vinA), version: 5})
	own := i.service("billing", auth.ScopeTelemetryRead)
	theirs := foreign.Sign(foreign.Header.JSON(), foreign.Claims.With("sub", "billing").JSON())
	others := map[string]string{"another issuer's": theirs, "a vehicle's": vehicleNamed(t, g, operator, "billing")}

	for name, token := range others {
		live := mustOpen(t, g.MQTT, connect{id: "billing", password: own, version: 5, keep: true})
		subscribe(live, "v1/+/up/#")
		if _, ack := tryOpen(t, g.MQTT, connect{id: "billing", password: token, version: 5, keep: true}); ack.Type == 0 || ack.Present != 0 || ack.Reason != 0 {
			t.Fatalf("%s: %v, %d for the session, want a session of its own", name, ack, ack.Present)
		}
		car.Publish(mqtt.Publish{Topic: "v1/" + vinA + "/up/live", QoS: 1})
		live.AwaitTopic("v1/" + vinA + "/up/live")
		leave(live)
		for n := range 20 {
			car.Publish(mqtt.Publish{Topic: fmt.Sprintf("v1/%s/up/queued/%d", vinA, n), QoS: 1})
		}
		otherUse, _ := tryOpen(t, g.MQTT, connect{id: "billing", password: token, version: 5, keep: true})
		back, ack := tryOpen(t, g.MQTT, connect{id: "billing", password: own, version: 5, keep: true})
		if ack.Present != 1 {
			t.Fatalf("%s took the session: %v", name, ack)
		}
		back.AwaitTopic("v1/" + vinA + "/up/queued/19")
		if n := len(back.Received()); n != 20 {
			t.Errorf("%s: %d of 20 queued messages", name, n)
		}
		if got := otherUse.Received(); len(got) != 0 {
			t.Errorf("%s was sent %+v", name, got)
		}
		leave(back)
		leave(otherUse)
	}

	revoke(t, g, operator, map[string]any{"sub": "billing", "role": "service"})
	if _, code := open(t, g.MQTT, connect{id: "billing", password: own, version: 5}); code != reasonBadCredentials {
		t.Errorf("the cell's own after its revocation: 0x%02x", code)
	}
	for name, token := range others {
		if _, code := open(t, g.MQTT, connect{id: "billing", password: token, version: 5}); code != 0 {
			t.Errorf("%s after the revocation of the cell's own: 0x%02x", name, code)
		}
	}
	revoke(t, g, operator, map[string]any{"sub": "billing", "iss": partner, "purge": true})
	if _, code := open(t, g.MQTT, connect{id: "billing", password: theirs, version: 5}); code != reasonBadCredentials {
		t.Errorf("another issuer's after its revocation: 0x%02x", code)
	}
	if _, ack := tryOpen(t, g.MQTT, connect{id: "billing", password: i.service("billing", auth.ScopeTelemetryRead), version: 5, keep: true}); ack.Present != 1 {
		t.Errorf("the purge of another issuer's took the session: %v", ack)
	}
}

// vehicleNamed gets a vehicle's token like a service with token:issue.
func vehicleNamed(t *testing.T, g *harness.Gateway, caller, name string) string {
	t.Helper()
	status, body, err := g.Do(http.MethodPost, "/v1/tokens", caller, map[string]any{"vin": name})
	var got struct{ Token string }
	if err != nil || status != http.StatusCreated || json.Unmarshal(body, &got) != nil || strings.Count(got.Token, ".") != 2 {
		t.Fatalf("token for %s: %d %s %v", name, status, body, err)
	}
	return got.Token
}
