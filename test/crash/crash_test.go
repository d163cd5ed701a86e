// Package crash kills the gateway with kill -9 at random moments under load, and compares what the fleet
// was acknowledged with what arrived in Kafka.
package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cellgate/test/harness"
)

// rounds is how often the gateway is killed: $CRASH_ROUNDS, else 3.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CRASH_ROUNDS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CRASH_ROUNDS=%q: want a number from 1", text)
	}
	return n
}

// TestKillUnderLoad: 500 vehicles publish twice a second, the gateway is killed and started again and
// again, and every message that a vehicle saw acknowledged is in Kafka, in order, under one msg-id.
func TestKillUnderLoad(t *testing.T) {
	n := rounds(t)
	kafka := harness.EmbeddedKafka(t)
	g := harness.StartGateway(t, harness.Options{Kafka: kafka, Redis: harness.EmbeddedRedis(t), Extra: "log: {level: warn}\n"})
	ledger := filepath.Join(g.Dir, "ledger.txt")
	fleet := harness.StartProcess(t, "fleet", g.Dir, nil, harness.Binary(t), "fleet", "--config", g.Config,
		"--vehicles", "500", "--rate", "2", "--ledger", ledger)
	awaitGrowth(t, ledger, 1000)
	for round := range n {
		before := size(t, ledger)
		time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second)))) // the random moment
		g.Kill()
		start := time.Now()
		g.Start()
		// Half of the fleet has been acknowledged again before the next round.
		awaitGrowth(t, ledger, before+250*bytesPerLine)
		fmt.Printf("round %d/%d: killed, serving again after %v, %d KB of ledger\n", round+1, n, time.Since(start).Round(time.Millisecond), size(t, ledger)>>10)
	}
	fleet.Signal(syscall.SIGINT)
	select {
	case <-fleet.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the fleet did not end within 30 s of SIGINT")
	}
	operator := g.OperatorToken()
	harness.Eventually(t, 2*time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	acked, err := harness.ReadFleetLedger(ledger)
	if err != nil {
		t.Fatal(err)
	}
	audit, err := harness.AuditTelemetry(acked, kafka.Read("vehicle.telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%d kills: %v\n", n, audit)
	if audit.Err() != nil || audit.Acked == 0 {
		t.Fatal(audit.Err())
	}
}

// bytesPerLine is the least that a ledger line takes: a VIN, a space, a digit and the newline.
const bytesPerLine = 20

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func awaitGrowth(t *testing.T, file string, bytes int64) {
	t.Helper()
	harness.Eventually(t, time.Minute, "growth of the ledger", func() error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if info.Size() < bytes {
			return fmt.Errorf("%d bytes of %d", info.Size(), bytes)
		}
		return nil
	})
}
