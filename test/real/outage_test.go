//go:build real

package real

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Promises of TestOutage, and its load. OUTAGE comes from the environment.
const (
	outageVehicles = 1000
	outageRate     = 5 // messages per second and vehicle
	outageBefore   = 20 * time.Second
	outageGrowth   = 64 << 20 // bytes of RSS
	outageDrain    = 3.0      // times the ingest rate
	outageP99      = 1.5      // times the p99 before the outage
	// Below this p99 the noise of the machine, shared with the fleet and Kafka, decides.
	outageFloor = 20.0 // ms
)

// TestOutage stops Kafka under load, for OUTAGE: no vehicle notices, the gateway's memory does not grow, and when Kafka
// is back the backlog drains while the vehicles continue. Afterwards nothing is missing.
func TestOutage(t *testing.T) {
	outage, err := time.ParseDuration(cmp.Or(os.Getenv("OUTAGE"), "60s"))
	check.OK(t, err)
	versions := harness.KafkaVersions()
	cell := harness.ApacheKafka(t, versions[len(versions)-1], 1)
	redis, _ := harness.Redis(t)
	g := harness.StartGateway(t, harness.Options{Kafka: cell, Redis: redis, Extra: "uplink: {journal: {max_bytes: 20GiB}}\n"})
	ledger := filepath.Join(g.Dir, "ledger.txt")
	memory := watchRSS(t, g)
	before := runFleet(t, g, ledger, outageBefore, outageVehicles, fmt.Sprint(outageRate))
	base := memory.max()
	if err := cell.Nodes[0].Stop(time.Minute); err != nil {
		t.Log("kafka's exit: ", err) // it ends with 143 after SIGTERM
	}
	during := runFleet(t, g, ledger, outage, outageVehicles, fmt.Sprint(outageRate))
	if status, body, err := g.Get("/readyz", ""); err != nil || status != 200 || !strings.Contains(string(body), "kafka") {
		t.Errorf("readyz while Kafka is away: %d %s %v; want 200 and kafka named", status, body, err)
	}
	drain := drainUnderLoad(t, g, cell, ledger)
	operator := g.OperatorToken()
	check.Within(t, 2*time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	grown := memory.max() - base

	floor := ""
	limit := outageP99 * before.Latency.P99
	if limit < outageFloor {
		limit, floor = outageFloor, ", the noise floor"
	}
	fmt.Printf("Kafka away for %v at %d messages/s: %d acknowledged meanwhile\n", outage, outageVehicles*outageRate, during.Acknowledged)
	fmt.Printf("  PUBACK p50/p99  before %.2f/%.2f ms, away %.2f/%.2f ms (bound %.2f%s)\n", before.Latency.P50, before.Latency.P99,
		during.Latency.P50, during.Latency.P99, limit, floor)
	fmt.Printf("  RSS             before at most %d MiB, grew by %d MiB (bound %d)\n", base>>20, grown>>20, outageGrowth>>20)
	fmt.Printf("  drain           %s (bound %.1f×)\n", drain, outageDrain)

	// Three quarters of the earlier rate: a fleet needs time to connect.
	enough := uint64(0.75 * float64(before.Acknowledged) * outage.Seconds() / outageBefore.Seconds())
	if during.Reconnects != 0 || during.Refused != 0 || during.Acknowledged < enough {
		t.Errorf("vehicles noticed: %+v against %+v in %v", during, before, outageBefore)
	}
	if during.Latency.P99 > limit {
		t.Errorf("PUBACK p99 %.2f ms with Kafka away, want at most %.2f", during.Latency.P99, limit)
	}
	if grown > outageGrowth {
		t.Errorf("RSS grew by %d MiB, want at most %d", grown>>20, outageGrowth>>20)
	}
	if drain.ratio() < outageDrain {
		t.Errorf("the backlog drained with %.1f times the ingest rate, want %.1f", drain.ratio(), outageDrain)
	}
	auditTelemetry(t, cell, ledger)
}

// drained describes the time from Kafka's return until its backlog was delivered, under load.
type drained struct {
	backlog, received, delivered int64
	took                         time.Duration
}

// ratio is how many times faster the sink delivered than the vehicles sent.
func (d drained) ratio() float64 { return float64(d.delivered) / float64(max(1, d.received)) }

func (d drained) String() string {
	s := d.took.Seconds()
	return fmt.Sprintf("%d pending gone in %.1fs: %.0f/s delivered, %.0f/s received, %.1f×", d.backlog, s,
		float64(d.delivered)/s, float64(d.received)/s, d.ratio())
}

// drainUnderLoad restarts Kafka while the fleet sends, and measures the drain: from the first message that Kafka
// accepts until less than a second's messages are pending.
func drainUnderLoad(t *testing.T, g *harness.Gateway, cell *harness.Kafka, ledger string) drained {
	t.Helper()
	operator := g.OperatorToken()
	look := func() harness.SinkLedger {
		lines, err := g.Ledger(operator)
		check.OK(t, err)
		return lines["kafka"]
	}
	away := look()
	fleet := startFleet(t, g, "fleet", ledger, outageVehicles, outageRate)
	check.Within(t, time.Minute, "the fleet to send", func() error {
		if now := look(); now.Received < away.Received+outageVehicles*outageRate {
			return fmt.Errorf("%d received since it began", now.Received-away.Received)
		}
		return nil
	})
	cell.Restart(0)
	var first harness.SinkLedger
	check.Within(t, 2*time.Minute, "Kafka to take messages again", func() error {
		if first = look(); first.Delivered == away.Delivered {
			return fmt.Errorf("%d pending", first.Pending)
		}
		return nil
	})
	start := time.Now()
	last := first
	check.Within(t, 30*time.Minute, "the backlog to drain", func() error {
		if last = look(); last.Pending > outageVehicles*outageRate {
			return fmt.Errorf("%d pending", last.Pending)
		}
		return nil
	})
	d := drained{first.Pending, last.Received - first.Received, last.Delivered - first.Delivered, time.Since(start)}
	if report := harness.EndFleet(t, fleet); report.Refused != 0 {
		t.Errorf("vehicles noticed the drain: %+v", report)
	}
	return d
}
