package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/eclipse/paho.golang/paho"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestSharesOfASubject tests every bound per subject, and that of levels, from outside, and that a reload changes them.
func TestSharesOfASubject(t *testing.T) {
	t.Parallel()
	const settings = `sessions: {max_per_subject: 2, max_subscriptions_per_subject: 1, max_retained_per_subject: 1, max_queued_bytes_per_subject: 1KiB}
limits: {max_topic_levels: 8}
`
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: settings})
	token := g.Cellgate("token", "issue", "--config", g.Config, "--service", "billing", "--scope", "telemetry:read")
	subscribe := func(v *scenario.V5, filter string) byte {
		t.Helper()
		ack, err := v.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}})
		if ack == nil {
			t.Fatal(err)
		}
		return ack.Reasons[0]
	}
	hold := func(what string, got, want byte) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %#x, want %#x", what, got, want)
		}
	}
	first := scenario.MustV5(t, g, "billing/1", token)
	scenario.MustV5(t, g, "billing/2", token)
	refused, err := scenario.DialV5(t, g, "billing/3", token)
	if err == nil || refused.Connack == nil {
		t.Fatalf("a third session: %v", err)
	}
	hold("a third session", refused.Connack.ReasonCode, 0x97)
	hold("a subscription", subscribe(first, "v1/+/up/a"), 1)
	hold("a second subscription", subscribe(first, "v1/+/up/b"), 0x97)
	hold("a deep filter", subscribe(first, "v1/+/up/a/b/c/d/e/f"), 0x8F)

	vin := scenario.NewVIN()
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	retain := func(class, payload string) byte {
		t.Helper()
		ack, err := v.Publish(t.Context(), &paho.Publish{QoS: 1, Retain: true, Topic: "v1/" + vin + "/up/" + class, Payload: []byte(payload)})
		if ack == nil {
			t.Fatal(err)
		}
		return ack.ReasonCode
	}
	hold("a retained message", retain("r1", "x"), 0)
	hold("a second retained message", retain("r2", "x"), 0x97)
	hold("the end of the first", retain("r1", ""), 0)
	hold("one in its place", retain("r2", "x"), 0)
	hold("a deep topic", v.Send(t, "v1/"+vin+"/up/a/b/c/d/e/f", "x"), 0x90)
	hold("a large one that nobody has room for", v.Send(t, "v1/"+vin+"/up/a", strings.Repeat("x", 4<<10)), 0)

	names := []string{"subject_sessions", "subject_subscriptions", "subject_bytes", "retained_share"}
	check.Within(t, check.Patience, "what /readyz names", func() error {
		_, body, err := g.Get("/readyz", "")
		for _, name := range names {
			if err == nil && !strings.Contains(string(body), name) {
				t.Logf("%s", body)
				return os.ErrNotExist
			}
		}
		return err
	})
	b := check.Read(t, g.Config)
	check.OK(t, os.WriteFile(g.Config, []byte(strings.ReplaceAll(string(b), settings, "")), 0o600))
	g.Signal(syscall.SIGHUP)
	check.Within(t, check.Patience, "a third session after the reload", func() error {
		_, err := scenario.DialV5(t, g, "billing/3", token)
		return err
	})
	hold("a second subscription after the reload", subscribe(first, "v1/+/up/b"), 1)
	hold("a deep topic after the reload", v.Send(t, "v1/"+vin+"/up/a/b/c/d/e/f", "x"), 0)
}
