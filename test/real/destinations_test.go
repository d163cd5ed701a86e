//go:build real

package real

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestDestinations deletes a topic under a running gateway, restarts the gateway without it, and recreates it with
// fewer partitions. All other topics continue; once the topic exists, it has all of its messages in order.
func TestDestinations(t *testing.T) {
	for _, version := range harness.KafkaVersions() {
		t.Run("Kafka "+version, func(t *testing.T) { destinations(t, harness.ApacheKafka(t, version, 1)) })
	}
}

func destinations(t *testing.T, cell *harness.Kafka) {
	rules := t.TempDir()
	text := `rules:
  - {id: every, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: vehicle.telemetry}}]}
  - {id: second, from: ["v1/+/up/telemetry"], to: [{kafka: {topic: vehicle.second}}]}
`
	check.OK(t, os.WriteFile(filepath.Join(rules, "a.rules.yaml"), []byte(text), 0o600))
	cell.MakeTopics(6, "vehicle.telemetry", "vehicle.second", "vehicle.presence", "vehicle.commands", "vehicle.command-results")
	g := harness.StartGateway(t, harness.Options{Kafka: cell, Redis: harness.EmbeddedRedis(t), KeepTopics: true, Rules: rules})
	operator := g.OperatorToken()
	ledger := filepath.Join(g.Dir, "ledger.txt")
	runFleet(t, g, ledger, 3*time.Second, 50, "10")
	check.Within(t, time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	deleted := readLedger(t, ledger)

	cell.DeleteTopics("vehicle.second")
	runFleet(t, g, ledger, 5*time.Second, 50, "10")
	awaitOnly(t, g, operator, cell, ledger)
	g.Kill()
	g.Start()
	runFleet(t, g, ledger, 5*time.Second, 50, "10")
	awaitOnly(t, g, operator, cell, ledger)

	cell.MakeTopics(2, "vehicle.second")
	runFleet(t, g, ledger, 3*time.Second, 50, "10")
	check.Within(t, time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	for _, topic := range []string{"vehicle.telemetry", "vehicle.second"} {
		acked := readLedger(t, ledger)
		for vin, seqs := range deleted {
			for seq := range seqs {
				if topic == "vehicle.second" {
					delete(acked[vin], seq)
				}
			}
		}
		auditor := harness.NewAuditor(acked)
		cell.Each(topic, auditor.Add)
		audit, err := auditor.Audit()
		t.Logf("%s: %v", topic, audit)
		if err != nil || audit.Err() != nil || audit.Acked == 0 {
			t.Errorf("%s: %v, %v", topic, err, audit.Err())
		}
	}
	l, err := g.Ledger(operator)
	if err != nil || l["kafka"].DeadLettered > 0 || len(l["kafka"].Dropped) > 0 {
		t.Errorf("ledger %+v, %v", l, err)
	}
	check.Within(t, 20*time.Second, "nothing parked", func() error {
		_, body, err := g.Get("/v1/status", operator)
		if err == nil && strings.Contains(string(body), `"destination"`) {
			return fmt.Errorf("parked: %s", body)
		}
		return err
	})
	for _, partitions := range []int32{2, 6} {
		recreated(t, g, operator, cell, ledger, partitions)
	}
}

// recreated deletes and recreates a topic at once, with as many partitions or more, under load. The new topic has all
// messages of a vehicle from its first one on, in order; the earlier ones are lost with the old topic.
func recreated(t *testing.T, g *harness.Gateway, operator string, cell *harness.Kafka, ledger string, partitions int32) {
	t.Helper()
	fleet := startFleet(t, g, fmt.Sprint("fleet-", partitions), ledger, 50, 10)
	before := readLedger(t, ledger).Len()
	arrived := func() error {
		if now := readLedger(t, ledger).Len(); now < before+1000 {
			return fmt.Errorf("%d messages", now-before)
		}
		return nil
	}
	check.Within(t, 30*time.Second, "messages", arrived)
	cell.MakeTopics(partitions, "vehicle.second")
	before = readLedger(t, ledger).Len()
	check.Within(t, 30*time.Second, "messages", arrived)
	harness.EndFleet(t, fleet)
	check.Within(t, time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	first := map[string]int64{}
	cell.Each("vehicle.second", func(r harness.Record) {
		var payload struct{ Seq int64 }
		check.OK(t, json.Unmarshal(r.Value, &payload))
		if n, ok := first[r.Key]; !ok || payload.Seq < n {
			first[r.Key] = payload.Seq
		}
	})
	acked := readLedger(t, ledger)
	for vin, seqs := range acked {
		if _, ok := first[vin]; !ok {
			t.Errorf("%s has nothing in the topic", vin)
		}
		for seq := range seqs {
			if seq < first[vin] {
				delete(seqs, seq)
			}
		}
	}
	auditor := harness.NewAuditor(acked)
	cell.Each("vehicle.second", auditor.Add)
	audit, err := auditor.Audit()
	t.Logf("made anew with %d partitions: %v", partitions, audit)
	if err != nil || len(audit.Lost) > 0 || audit.Acked < 1000 {
		t.Errorf("%v, %v", err, audit)
	}
	if partitions == 2 && audit.Err() != nil { // else keys change their partitions, and order across partitions cannot be checked
		t.Error(audit.Err())
	}
}

func readLedger(t *testing.T, file string) harness.Acked {
	t.Helper()
	acked, err := harness.ReadFleetLedger(file)
	check.OK(t, err)
	return acked
}

// awaitOnly waits until one topic has all of the fleet's messages while they wait for the other one, which /readyz
// names.
func awaitOnly(t *testing.T, g *harness.Gateway, operator string, cell *harness.Kafka, ledger string) {
	t.Helper()
	acked := readLedger(t, ledger)
	check.Within(t, time.Minute, "the other topic goes on", func() error {
		auditor := harness.NewAuditor(acked)
		cell.Each("vehicle.telemetry", auditor.Add)
		audit, err := auditor.Audit()
		if err != nil {
			return err
		}
		return audit.Err()
	})
	if _, body, err := g.Get("/readyz", ""); err != nil || !strings.Contains(string(body), "vehicle.second") {
		t.Errorf("/readyz does not name the topic: %s, %v", body, err)
	}
	if l, err := g.Ledger(operator); err != nil || !l["kafka"].Balanced || l["kafka"].Pending == 0 {
		t.Errorf("ledger %+v, %v; %d messages wait", l, err, acked.Len())
	}
	t.Log(g.Cellgate("status", "--config", g.Config))
}
