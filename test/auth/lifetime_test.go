package authtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// short issues a token of a few seconds, shorter than any configuration allows.
func (i issuer) short(vin string, ttl time.Duration) (string, auth.Identity) {
	return i.issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle, TTL: ttl})
}

// TestExpiry checks that a connection is notified before its token's end on v1/{vin}/sys/token-expiring and then ended:
// on version 5 with 0x87 and a reason string, on 3.1.1 by closing.
func TestExpiry(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	i := issuerOf(t, g)
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			vin := map[byte]string{4: vinA, 5: vinB}[version]
			before := mustOpen(t, g.MQTT, connect{id: vin, password: i.vehicle(vin), version: version, keep: true})
			subscribe(before, "v1/"+vin+"/sys/#") // the notice may come one second after the next CONNECT
			leave(before)
			token, id := i.short(vin, 8*time.Second)
			m := mustOpen(t, g.MQTT, connect{id: vin, password: token, version: version, keep: true})
			if notice := m.AwaitTopic("v1/" + vin + "/sys/token-expiring"); !strings.Contains(notice.Payload, `"expires_at"`) {
				t.Errorf("notice %s", notice.Payload)
			}
			reason, why := ended(m)
			if version == 5 && (reason != reasonNotAuthorized || !strings.Contains(why, "expired")) {
				t.Errorf("on 5: reason 0x%02x %q", reason, why)
			}
			if version == 4 && reason != 0 {
				t.Errorf("a DISCONNECT on 3.1.1")
			}
			<-time.After(time.Until(id.Expires.Add(1100 * time.Millisecond))) // until the leeway of 1 s has passed, too
			if _, code := open(t, g.MQTT, connect{id: vin, password: token, version: version}); code != map[byte]byte{4: 4, 5: reasonBadCredentials}[version] {
				t.Errorf("the expired token: 0x%02x", code)
			}
		})
	}
}

// TestRefresh checks that a new token, by AUTH or by PUBLISH, keeps the connection beyond the end of the first one, and
// that the new end applies. A token for another subject ends the connection.
func TestRefresh(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	i := issuerOf(t, g)
	byPublish := func(m *mqtt.T, vin, token string) (byte, error) {
		return publish(m, mqtt.Publish{Topic: "v1/" + vin + "/token", Payload: token, QoS: 1})
	}
	byAuth := func(m *mqtt.T, _, token string) (byte, error) { return authenticate(m, token) }
	for name, c := range map[string]struct {
		vin     string
		version byte
		method  string
		refresh func(m *mqtt.T, vin, token string) (byte, error)
	}{
		"AUTH":             {vinA, 5, "CELL-JWT", byAuth},
		"PUBLISH on 5":     {vinB, 5, "", byPublish},
		"PUBLISH on 3.1.1": {"LTEST0000000000C3", 4, "", byPublish},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, id := i.short(c.vin, 6*time.Second)
			m := mustOpen(t, g.MQTT, connect{id: c.vin, password: token, version: c.version, method: c.method})
			m.TB = t
			fresh, next := i.short(c.vin, 16*time.Second)
			if code, err := c.refresh(m, c.vin, fresh); code != 0 || err != nil {
				t.Fatalf("refresh: 0x%02x, %v", code, err)
			}
			awaitAudit(t, g, `"event":"refresh"`, next.TokenID, `"sub":"`+c.vin, `"from":"127.0.0.1:`)
			<-time.After(time.Until(id.Expires.Add(1100 * time.Millisecond)))
			m.Publish(mqtt.Publish{Topic: "v1/" + c.vin + "/up/telemetry", QoS: 1})
			if reason, _ := ended(m); c.version == 5 && reason != reasonNotAuthorized {
				t.Errorf("at the new token's end: 0x%02x", reason)
			}

			m = mustOpen(t, g.MQTT, connect{id: c.vin, password: i.vehicle(c.vin), version: c.version, method: c.method})
			m.TB = t
			other, _ := i.short("LTEST00000000000X1", time.Hour)
			_, _ = c.refresh(m, c.vin, other)
			reason, why := ended(m)
			if c.version == 5 && (reason != reasonNotAuthorized || !strings.Contains(why, "another subject")) {
				t.Errorf("another's token: 0x%02x %q", reason, why)
			}
			awaitAudit(t, g, `"event":"refuse"`, `"reason":"other-subject"`)
		})
	}
	t.Cleanup(func() {
		for _, r := range records(t, g) {
			if strings.HasSuffix(r.Topic, "/token") {
				t.Errorf("a token was journaled: %s", r.Topic)
			}
		}
	})
}
