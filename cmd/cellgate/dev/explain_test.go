package dev

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestExplainByWhatIsRemembered: a running gateway explains a vehicle's last message, or another one, by what operators remember of it,
// and explaining changes nothing.
func TestExplainByWhatIsRemembered(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	check.Write(t, filepath.Join(data, "configs", "rules", "a.rules.yaml"), `
rules:
  - {id: low, from: ["v1/+/up/telemetry"], threshold: {enter: payload.soc < 15, for: 30m}, to: [{kafka: {topic: low}}]}
  - {id: thrice, from: ["v1/+/up/telemetry"], count: {at_least: 3, window: 1h}, to: [{kafka: {topic: thrice}}]}
`)
	g := start(t, data)
	const vin = "LTEST000000000042"
	c := g.connect(vin, g.vehicleToken(vin))
	explain := func(body map[string]any) map[string]string {
		t.Helper()
		var x struct {
			Rules []struct {
				ID      string
				Matched bool
				Stage   string
				Reason  string
			}
		}
		if code := g.call("POST", "/v1/rules/explain", g.operator, body, &x); code != http.StatusOK {
			t.Fatalf("answered %d", code)
		}
		out := map[string]string{}
		for _, r := range x.Rules {
			out[r.ID] = r.Stage + ": " + r.Reason
			if r.Matched {
				out[r.ID] = "match"
			}
		}
		return out
	}
	if code := g.call("POST", "/v1/rules/explain", g.operator, map[string]any{"vin": vin}, nil); code != http.StatusNotFound {
		t.Errorf("a vehicle without a message: %d", code)
	}
	for range 2 {
		send(c, "v1/"+vin+"/up/telemetry", `{"soc": 9}`)
	}
	other := map[string]any{"topic": "v1/" + vin + "/up/telemetry", "payload": map[string]any{"soc": 8}}
	check.Within(t, check.Patience, "both messages evaluated", func() error {
		if got := explain(other); got["thrice"] != "match" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	for range 2 { // an explanation leaves no state
		if got := explain(map[string]any{"vin": vin}); !strings.Contains(got["low"], "threshold: ") || !strings.Contains(got["low"], "of 30m") {
			t.Errorf("the last message: %q", got)
		}
		if got := explain(other); got["thrice"] != "match" || !strings.Contains(got["low"], "of 30m") {
			t.Errorf("another message, the third: %q", got)
		}
	}
	other["topic"] = "v1/LTEST000000000043/up/telemetry"
	if got := explain(other); !strings.Contains(got["thrice"], "count: ") {
		t.Errorf("another vehicle: %q", got)
	}
}
