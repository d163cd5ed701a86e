// Package rulestest has what tests of rules share.
package rulestest

import (
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// VIN is the vehicle of telemetry.
const VIN = "LTEST000000000001"

// Epoch is when tests begin, in ms.
const Epoch = int64(1_763_600_000_000)

// ErrorTopic is where errors of rules go that name no topic.
const ErrorTopic = "vehicle.rule-errors"

// Options are those of a gateway of a cell, without endpoints and keys. Its targets are those that package op describes.
func Options(cell string) lang.Options {
	return lang.Options{Cell: cell, ErrorTopic: ErrorTopic, Targets: op.Targets{&op.Kafka, &op.Redis, &op.Central, &op.MQTT}}
}

// Compile compiles one file and fails the test when it has findings.
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

// Telemetry is a record as a vehicle's PUBLISH makes it.
func Telemetry(seq uint64, at int64, payload string) message.Record {
	return message.Record{
		Seq: seq, ReceivedAt: at, Kind: message.KindPublish, QoS: 1, Client: VIN,
		Topic: "v1/" + VIN + "/up/telemetry", Payload: []byte(payload),
	}
}

// WriteFiles writes files into a new folder.
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
