// Package rulestest has helpers for tests of rules.
package rulestest

import (
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// VIN is the vehicle that Telemetry records come from.
const VIN = "LTEST000000000001"

// Epoch is the start time of tests, in ms since the Unix epoch.
const Epoch = int64(1_763_600_000_000)

// ErrorTopic is the error topic of rules without on_error.
const ErrorTopic = "vehicle.rule-errors"

// Options returns the options of a gateway in a cell, without endpoints and keys, with the targets of package op.
func Options(cell string) lang.Options {
	return lang.Options{Cell: cell, ErrorTopic: ErrorTopic, Targets: op.Targets{&op.Kafka, &op.Redis, &op.Central, &op.MQTT}}
}

// Compile compiles one file and fails the test if there are findings.
func Compile(t testing.TB, text string) *lang.Set {
	t.Helper()
	set, diags := lang.Compile(lang.NewSource(map[string][]byte{"t.rules.yaml": []byte(text)}), Options("cell-1"))
	if diags.HasErrors() {
		t.Fatalf("compile:\n%v", diags)
	}
	return set
}

// Samples compiles the shipped rules.
func Samples(t testing.TB) *lang.Set {
	t.Helper()
	src, err := lang.Load("../../configs/rules")
	if err != nil {
		t.Fatal(err)
	}
	set, diags := lang.Compile(src, Options("cell-1"))
	if diags.HasErrors() {
		t.Fatalf("compile:\n%v", diags)
	}
	return set
}

// Telemetry returns the journal record of a vehicle's PUBLISH.
func Telemetry(seq uint64, at int64, payload string) message.Record {
	return message.Record{
		Seq: seq, ReceivedAt: at, Kind: message.KindPublish, QoS: 1, Client: VIN,
		Topic: "v1/" + VIN + "/up/telemetry", Payload: []byte(payload),
	}
}

// WriteFiles writes files into a new folder and returns its path.
func WriteFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// OneRule is a file with one rule.
const OneRule = `rules:
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.temp > 80
    to: [{kafka: {topic: hot}}]
`
