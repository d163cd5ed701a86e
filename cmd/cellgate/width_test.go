package main

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTablesFitTheScreen: no line that a command prints is wider than a terminal of 80 columns, however long names, topics and
// reasons are.
func TestTablesFitTheScreen(t *testing.T) {
	t.Parallel()
	const (
		vin    = "LTEST000000000001-of-a-maker-with-a-long-number"
		client = "fleet-analytics-service-of-the-energy-team/worker-0012"
		topic  = "v1/+/up/telemetry/battery/cells/temperatures"
		reason = "dial tcp 10.0.0.7:9092: connect: connection refused, for the last 20 tries; look at kafka.brokers, the network between and the broker's log"
		at     = "2026-11-20T20:07:33Z"
	)
	answers := map[string]string{
		"/v1/vehicles":        `{"vehicles": [{"vin": "` + vin + `", "node": "gw-1", "connected": true, "mqtt": "3.1.1", "since": "` + at + `", "queued": 123456}]}`,
		"/v1/vehicles/" + vin: `{"vin": "` + vin + `", "connected": true, "mqtt": "5", "since": "` + at + `", "subscriptions": [{"filter": "` + topic + `"}]}`,
		"/v1/sessions":        `{"sessions": [{"client": "` + client + `", "role": "service", "since": "` + at + `", "session_ends": "` + at + `", "queued": 123456}]}`,
		"/v1/sessions/" + client: `{"client": "` + client + `", "role": "service", "issuer": "https://issuer.of.another.company.example.com", "since": "` + at +
			`", "subscriptions": [{"filter": "` + topic + `"}, {"filter": "` + topic + `"}]}`,
		"/v1/commands": `{"commands": [{"id": "0123456789abcdef0123456789abcdef", "vin": "` + vin + `", "name": "climate.precondition", "state": "succeeded", "created_at": "` + at + `"}]}`,
		"/v1/vehicles/" + vin + "/commands/A": `{"id": "A", "vin": "` + vin + `", "name": "climate.precondition", "state": "failed", "cause": "` + reason + `", "created_at": "` + at +
			`", "by": "` + client + `", "payload": {"text": "` + reason + `"}}`,
		"/v1/rules": `{"hash": "ea1aeb2111ad09ae0c8630a1", "rules": [{"id": "battery-watch-while-driving", "mode": "enabled", "from": ["` + topic + `", "` + topic + `"],
			"to": [{"sink": "kafka", "name": "vehicle.battery.of.the.energy.team"}, {"sink": "redis", "name": "battery:${vin}"}]}]}`,
		"/v1/rules/history": `{"sets": [{"hash": "ea1aeb2111ad09ae0c8630a1", "at": "` + at + `", "applied": true, "in_force": true}]}`,
		"/v1/sync": `{"lanes": [{"centre": "centre-of-the-region-east", "lane": "p0", "known": true, "lag_records": 123456789, "lag_bytes": 1234567890123, "lag_seconds": 123456, "headroom_seconds": 86400,
			"drain_seconds": 1000000, "records_per_second": 123456, "wire_bytes": 1048576, "raw_bytes": 4194304, "gaps": [{"lane": "p0", "topic": "central.p0", "partition": 2, "from": 1000, "next": 1980,
			"records": 980, "since": "` + at + `", "reason": "` + reason + `"}]}],
			"skipped": [{"lane": "p0", "topic": "central.p0", "partition": 2, "from": 1000, "next": 1980, "records": 980, "at": "` + at + `", "by": "operator ` + client + `", "done": true}]}`,
		"/v1/gateways": `{"gateways": [{"node": "gateway-of-the-east-1", "address": "https://gateway-of-the-east-1.cell-sh-01.example.com:8080", "version": "0.1.0", "phase": "serving", "lives": true,
			"connections": 99999, "started": "` + at + `", "differs": ["rules", "configuration"]}]}`,
		"/v1/status": `{"cell": "cell-sh-01", "region": "cn-east", "node": "gateway-of-the-east-1", "phase": "serving", "uptime": "5h", "sinks": [{"sink": "kafka", "lag_records": 123456789, "lag_seconds": 12345}],
			"parked": [{"sink": "kafka", "destination": "topic vehicle.battery.of.the.energy.team", "reason": "` + reason + `", "messages": 123456, "bytes": 123456, "since": "` + at + `"}],
			"rules": {"hash": "ea1aeb2111ad09ae0c8630a1", "rules": 5, "error": "` + reason + `"},
			"dependencies": [{"name": "kafka", "ok": false, "since": "` + at + `", "reason": "` + reason + `"}], "lanes": [{"centre": "default", "lane": "p0", "known": true}]}`,
		"/v1/ledger":    `{"sinks": [{"sink": "kafka", "received": 123456789012, "delivered": 123456789000, "filtered": 12, "dropped": {"retention": 5, "expired": 6, "parked_full": 7}, "balanced": true}]}`,
		"/v1/capacity":  `{"connections": {"used": 99999, "max": 100000, "ratio": 0.99}, "sinks": [{"sink": "kafka", "lag_records": 5}]}`,
		"/v1/drain":     `{"draining": true, "rate": 2.5, "endpoint": "gateway-of-the-east-2.cell-sh-01.example.com:8883", "since": "` + at + `", "sent_away": 1, "connected": 80}`,
		"/v1/dev/parts": `{"parts": [{"name": "kafka", "address": "127.0.0.1:9092", "running": true}]}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answers[r.URL.Path])) }))
	t.Cleanup(s.Close)
	for _, line := range []string{
		"vehicles", "vehicles " + vin, "sessions list", "sessions show " + client + " --role service", "command list", "command status A --vin " + vin,
		"rules status", "rules history", "sync status", "gateways list", "status", "capacity", "drain --status", "dev parts",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			code := run(append(strings.Fields(line), "--api", s.URL, "--token", "t"), nil, strings.NewReader(""), &printer{Writer: bufio.NewWriter(&out), columns: 80}, &errOut)
			if code == exitUsage || out.Len() == 0 {
				t.Fatalf("exit %d: %s", code, errOut.String())
			}
			for l := range strings.Lines(out.String()) {
				if l = strings.TrimSuffix(l, "\n"); utf8.RuneCountInString(l) > 80 {
					t.Errorf("%d columns: %s", utf8.RuneCountInString(l), l)
				}
			}
		})
	}
}
