package dev

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// families returns the names of the metrics that a gateway exposes. Each sample carries the cell.
func (g *gateway) families() map[string]bool {
	g.t.Helper()
	resp, err := http.Get(g.App.HTTPURL() + "/metrics")
	check.OK(g.t, err)
	defer resp.Body.Close() //nolint:errcheck // read below
	names := make(map[string]bool)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if !strings.Contains(line, `cell="cell-dev"`) {
			g.t.Errorf("a sample without the cell: %s", line)
		}
		name, _, _ := strings.Cut(line, "{")
		names[name] = true
	}
	return names
}

func TestMetricsAreAsPromised(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	vin := fleet.VIN(12)
	c := g.connect(vin, g.vehicleToken(vin))
	send(c, "v1/"+vin+"/up/telemetry", `{"soc": 9}`)
	g.awaitRecords(g.Central.Addr(), "fleet.alerts", vin, 1)
	others := mqtt.Publish{Topic: "v1/LTEST000000000009/up/telemetry", Payload: "{}", QoS: 1}
	if reason, err := c.Client.Publish(others); reason != 0x87 || err != nil {
		t.Errorf("a publish to another vehicle's topic: reason 0x%02X, %v", reason, err)
	}
	if code := g.call("POST", "/v1/vehicles/"+vin+"/commands", g.operator, map[string]any{"name": "honk", "ttl": "1s", "id": "m1"}, nil); code != http.StatusAccepted {
		t.Fatalf("command answered %d", code)
	}
	check.Within(t, check.Patience, "the command to expire", func() error {
		var s struct{ State string }
		if g.call("GET", "/v1/vehicles/"+vin+"/commands/m1", g.operator, nil, &s); s.State != "expired" {
			return errors.New(s.State)
		}
		return nil
	})
	got := g.families()
	for _, want := range []string{
		"build_info", "connections", "connects_total", "messages_received_total", "puback_seconds_bucket", "journal_fsync_seconds_bucket",
		"journal_bytes", "journal_oldest_seconds", "ledger_total", "sink_lag_messages", "sink_lag_seconds", "rule_matched_total", "rule_errors_total",
		"commands_total", "command_seconds_bucket", "sync_lag_messages", "sync_lag_seconds", "rejected_total",
	} {
		if !got["cellgate_"+want] {
			t.Errorf("no cellgate_%s", want)
		}
	}
}
