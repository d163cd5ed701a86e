// Package rulestest has what tests of rules share.
package rules

import (
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/message"
)

// sampleVIN is the vehicle of telemetry.
const sampleVIN = "LTEST000000000001"

// epoch is when tests begin, in ms.
const epoch = int64(1_763_600_000_000)

// compileText compiles one file and fails the test when it has findings.
func compileText(t testing.TB, text string) *Set {
	t.Helper()
	set, diags := Compile(NewSource(map[string][]byte{"t.rules.yaml": []byte(text)}), Options{Cell: "cell-1"})
	if diags.HasErrors() {
		t.Fatalf("compile:\n%v", diags)
	}
	return set
}

// compileSamples compiles the shipped rules.
func compileSamples(t testing.TB) *Set {
	t.Helper()
	src, err := Load("../configs/rules")
	if err != nil {
		t.Fatal(err)
	}
	set, diags := Compile(src, Options{Cell: "cell-1"})
	if diags.HasErrors() {
		t.Fatalf("compile:\n%v", diags)
	}
	return set
}

// telemetry is a record as a vehicle's PUBLISH makes it.
func telemetry(seq uint64, at int64, payload string) message.Record {
	return message.Record{
		Seq: seq, ReceivedAt: at, Kind: message.KindPublish, QoS: 1, Client: sampleVIN,
		Topic: "v1/" + sampleVIN + "/up/telemetry", Payload: []byte(payload),
	}
}

// writeFiles writes files into a new folder.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// oneRule is a file with one rule.
const oneRule = `rules:
  - id: hot
    from: ["v1/+/up/telemetry"]
    when: payload.temp > 80
    to: [{kafka: {topic: hot}}]
`
