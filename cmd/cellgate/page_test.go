package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"cellgate/cmd/cellgate/human"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/cmd/cellgate/app"
	"cellgate/rules/sink"
	"cellgate/test/check"
)

func unmarshal(t *testing.T, text string, v any) {
	t.Helper()
	check.OK(t, json.Unmarshal([]byte(text), v))
}

const healthyStatus = `{"cell":"cell-dev","region":"local","node":"gw-1","build":{"version":"1.2.0","commit":"0f3a"},
"phase":"serving","started":"2026-11-20T20:07:33Z","uptime":"1h2m3s","connections":1204,
"journal":{"epoch":7,"first":1,"durable":120345,"bytes":134217728,"max_bytes":21474836480,"oldest":"2026-11-20T20:07:34Z","needed":{"mqtt":120340,"rules":120339}},
"rules":{"hash":"ea1aeb2111ad09ae0c8630a1","rules":5,"since":"2026-11-20T20:07:34Z"},
"sinks":[{"sink":"kafka","lag_records":0,"lag_seconds":0,"log_bytes":8,"live":true},{"sink":"redis","lag_records":1250,"lag_seconds":75.4,"log_bytes":51200,"live":false}],
"dependencies":[{"name":"kafka","ok":true,"since":"2026-11-20T20:07:33Z"},{"name":"redis","ok":false,"since":"2026-11-20T21:08:21Z","reason":"dial tcp 10.0.0.7:6379: connect: connection refused"}],
"commands":{"open":2,"kept":14,"events_waiting":0},"lanes":[{"lane":"p0","lag_records":0,"lag_seconds":0},{"lane":"p2","lag_records":4000,"lag_seconds":7201}]}`

const fullStatus = `{"cell":"cell-1","node":"gw-2","build":{"version":"dev","commit":"unknown"},"phase":"draining","uptime":"5s","connections":0,
"journal":{"epoch":7,"first":1,"durable":0,"bytes":0,"max_bytes":0,"full":"journal: full","corruptions":[{}]},
"rules":{"hash":"","rules":0,"error":"a.rules.yaml:1:8: error[R001] a: not closed\nbogus: [\n       ^"},"sinks":[],"dependencies":null,"commands":{"open":0,"kept":0,"events_waiting":0}}`

func page(status string, ledger []sink.SinkLedger) func(*testing.T, *printer, time.Time) {
	return func(_ *testing.T, p *printer, now time.Time) {
		printStatus(p, json.RawMessage(status), ledger, now)
	}
}

// The pages as printed; `go test ./cmd/cellgate -run TestPages -update` rewrites them.
func TestPages(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 21, 9, 36, 0, time.UTC)
	ledger := []sink.SinkLedger{
		{Sink: "kafka", Received: 120345, Delivered: 120300, Filtered: 45, Balanced: true},
		{Sink: "redis", Received: 120345, Delivered: 100000, Filtered: 19000, Dropped: map[string]uint64{"retention": 90, "expired": 5}, Pending: 1249, Unevaluated: 1000, Balanced: false},
	}
	for name, print := range map[string]func(*testing.T, *printer, time.Time){
		"status":       page(healthyStatus, ledger),
		"status-empty": page(fullStatus, nil),
		"status-narrow": func(_ *testing.T, p *printer, now time.Time) {
			p.columns = 60
			printStatus(p, json.RawMessage(healthyStatus), ledger, now)
		},
		"vehicles": func(t *testing.T, p *printer, now time.Time) {
			var list app.VehiclePage
			unmarshal(t, `{"vehicles":[{"vin":"LTEST000000000001","connected":true,"ready":true,"mqtt":"3.1.1","since":"2026-11-20T21:09:30.5Z","queued":1200},
				{"vin":"LTEST000000000002","connected":false,"ready":false,"since":"2026-11-18T21:09:30Z","queued":0}],"next":"LTEST000000000002"}`, &list)
			printVehicles(p, &list, "", now)
		},
		"vehicles-none": func(_ *testing.T, p *printer, now time.Time) {
			printVehicles(p, &app.VehiclePage{}, "", now)
		},
		"vehicles-end": func(_ *testing.T, p *printer, now time.Time) {
			printVehicles(p, &app.VehiclePage{}, "LTEST9", now)
		},
		"vehicle": func(_ *testing.T, p *printer, now time.Time) {
			printVehicle(p, raw(`{"vin":"LTEST000000000001","connected":true,"ready":true,"mqtt":"5","since":"2026-11-20T21:09:30Z","token_ends":"2026-11-20T22:09:30Z",
				"session_expiry":"1h0m0s","queued":1,"inflight":1,"queued_bytes":2048,"will":true,"subscriptions":[{"filter":"v1/LTEST000000000001/cmd/#","qos":1},{"filter":"v1/LTEST000000000001/sys/#","qos":0}]}`), now)
		},
		"vehicle-away": func(_ *testing.T, p *printer, now time.Time) {
			printVehicle(p, raw(`{"vin":"LTEST000000000001","since":"2026-11-20T21:00:00Z","session_ends":"2026-11-20T22:00:00Z","session_expiry":"1h0m0s","queued":3,"queued_bytes":300}`), now)
		},
		"command": func(t *testing.T, p *printer, now time.Time) {
			var s commandState
			unmarshal(t, `{"id":"C1","vin":"LTEST000000000001","name":"unlock","state":"succeeded","payload":{"doors":"all"},"ttl":"1m","created_at":"2026-11-20T21:09:30.000Z",
				"expires_at":"2026-11-20T21:10:30.000Z","sent_at":"2026-11-20T21:09:30.001Z","delivered_at":"2026-11-20T21:09:30.059Z","accepted_at":"2026-11-20T21:09:30.005Z",
				"finished_at":"2026-11-20T21:09:30.204Z","result":{"took_ms":121},"origin":"http","by":"cli:ann"}`, &s)
			s.print(p, now)
		},
		"command-queued": func(t *testing.T, p *printer, now time.Time) {
			var s commandState
			unmarshal(t, `{"id":"C2","vin":"LTEST000000000001","name":"honk","state":"queued","created_at":"2026-11-20T21:09:30.000Z","expires_at":"2026-11-20T21:10:30.000Z","origin":"kafka"}`, &s)
			s.print(p, now)
		},
		"drain": func(_ *testing.T, p *printer, now time.Time) {
			printDrain(p, json.RawMessage(`{"draining":true,"rate":2.5,"since":"2026-11-20T21:09:00Z","sent_away":1,"connected":80}`), now)
		},
		"sync": func(t *testing.T, p *printer, now time.Time) {
			const gap = `"topic":"central.p0","partition":2,"from":1000,"next":1980,"records":980,"since":"2026-11-20T21:00:00Z","reason":"gone"`
			var s app.SyncAnswer
			unmarshal(t, `{"lanes":[{"lane":"p0","known":true,"lag_records":120,"lag_seconds":75,"lag_bytes":48480,"drain_seconds":65,"headroom_seconds":86400,"records_per_second":120.4,"in_flight":4100,"wire_bytes":1048576,"retries":{"connection":2,"timeout":3},"raw_bytes":4194304,"gaps":[{"lane":"p0",`+gap+`}]},{"lane":"p1","known":false,"lag_records":null,"lag_seconds":null,"paused":true}],
				"skipped":[{"lane":"p0",`+gap+`,"at":"2026-11-20T21:05:00Z","by":"operator ann","done":true},
				{"lane":"p2","topic":"central.p2","partition":0,"from":70,"next":0,"records":null,"anew":true,"at":"2026-11-18T21:05:00Z","by":"operator ann","done":false}]}`, &s)
			printSync(p, &s, now)
		},
		"journal": func(_ *testing.T, p *printer, _ time.Time) {
			printJournal(p, &journal.Report{
				Dir: "data/journal", Epoch: 7, First: 1, Last: 120345, Bytes: 134217728, Spares: 1, TornBytes: 48,
				Segments:    []journal.SegmentInfo{{Name: "0000000000000001.log", First: 1, Last: 120345, Bytes: 67108864, Used: 48480123, Created: now, Batches: 1131}},
				Corruptions: []wal.Corruption{{File: "0000000000000001.log", Offset: 4096, Length: 48, First: 7, Last: 9, Reason: "checksum"}},
				Steps:       []journal.Step{{Seq: 1071, ClockStep: message.ClockStep{From: 1_795_208_976_000, To: 1_795_212_576_123}}}, StepsInAll: 1,
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			p := newPrinter(&got)
			print(t, p, now)
			check.OK(t, errors.Join(p.err, p.Flush()))
			check.Golden(t, filepath.Join("testdata", "golden", name+".txt"), got.String())
		})
	}
}

func TestSizesAndSpans(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		-1: "0 B", 0: "0 B", 1023: "1023 B", 1024: "1 KiB", 48480: "47.3 KiB", 1<<20 - 1: "1 MiB", 64 << 20: "64 MiB", 20401094580: "19 GiB", 1 << 50: "1 PiB", 1 << 62: "4096 PiB",
	} {
		if got := human.Size(n); got != want {
			t.Errorf("size %d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", 65 * time.Second: "1m5s", 3*time.Hour + 12*time.Minute + 9*time.Second: "3h12m", 122 * time.Hour: "5d2h",
	} {
		if got := human.Span(d); got != want {
			t.Errorf("span %v: %q, want %q", d, got, want)
		}
	}
}

func raw(text string) *json.RawMessage {
	b := json.RawMessage(text)
	return &b
}
