// Package crash kills the gateway with kill -9 at random moments under load and compares the fleet's acknowledgements
// with the records in Kafka.
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

	"cellgate/test/check"
	"cellgate/test/harness"
)

// fromEnv returns a number from the environment, or byDefault.
func fromEnv(t *testing.T, name string, byDefault int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1", name, text)
	}
	return n
}

const (
	vehicles = 200
	// auditEvery is the number of rounds between two audits.
	auditEvery = 50
	// startKills is the share of rounds that kill the gateway during startup: while it recovers the journal, reads its
	// state and admits the fleet.
	startKills = 0.3
)

// killed is a gateway under load that is killed repeatedly.
type killed struct {
	*harness.Gateway
	t      *testing.T
	ledger string
	start  time.Duration // duration of the last complete start
}

// TestKillUnderLoad: 200 vehicles publish five times per second through a journal with segments of about a second. The
// gateway is killed and restarted $CRASH_ROUNDS times (default 3). Every message that a vehicle saw acknowledged must
// be in Kafka, in order, with one msg-id.
func TestKillUnderLoad(t *testing.T) {
	rounds := int(fromEnv(t, "CRASH_ROUNDS", 3))
	kafka := harness.EmbeddedKafka(t)
	k := &killed{t: t, Gateway: harness.StartGateway(t, harness.Options{
		Kafka: kafka, Redis: harness.EmbeddedRedis(t),
		Extra: "log: {level: warn}\nuplink: {journal: {segment_bytes: 1MiB, max_bytes: 256MiB}}\n",
	})}
	k.ledger = filepath.Join(k.Dir, "ledger.txt")
	fleet := k.Fleet("fleet", "--ledger", k.ledger,
		"--vehicles", strconv.Itoa(vehicles), "--rate", "5", "--payload-bytes", "1000",
		"--reconnect-max", "300ms", "--connect-rate", "5000", "--tls-resume")
	k.acknowledged(0, 2*vehicles)
	audit := newAuditor(kafka.Brokers, "vehicle.telemetry", k.ledger)
	began := time.Now()
	for round := 1; round <= rounds; round++ {
		k.round(round, rounds)
		if round%auditEvery == 0 && round < rounds {
			check.OK(t, audit.audit(t.Context(), time.Minute))
			fmt.Printf("audit after %d kills in %v: %v\n", round, time.Since(began).Round(time.Second), audit)
		}
	}
	fleet.Signal(syscall.SIGINT)
	select {
	case <-fleet.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the fleet did not end within 30 s of SIGINT")
	}
	operator := k.OperatorToken()
	check.Within(t, 5*time.Minute, "everything delivered", func() error { return k.Settled(operator) })
	check.OK(t, audit.audit(t.Context(), time.Minute))
	if audit.acked < rounds*vehicles/4 {
		t.Fatalf("only %v", audit)
	}
	fmt.Printf("%d kills in %v: %v\n", rounds, time.Since(began).Round(time.Second), audit)
}

// round kills the gateway at a random moment, sometimes during startup, and waits until it serves again.
func (k *killed) round(n, of int) {
	k.t.Helper()
	if rand.Float64() < startKills && k.start > 0 {
		moment := time.Duration(rand.Int64N(int64(k.start) * 3 / 2))
		k.Kill()
		k.Launch()
		select {
		case <-k.Done():
			k.t.Fatalf("the gateway ended while starting:\n%s", k.Tail(40))
		case <-time.After(moment):
		}
		k.Kill()
		fmt.Printf("round %d/%d: killed %v after its start\n", n, of, moment.Round(time.Millisecond))
	} else {
		moment := time.Duration(rand.Int64N(int64(700 * time.Millisecond)))
		time.Sleep(moment)
		k.Kill()
		fmt.Printf("round %d/%d: killed %v into the load\n", n, of, moment.Round(time.Millisecond))
	}
	before, began := size(k.t, k.ledger), time.Now()
	k.Gateway.Start()
	k.start = time.Since(began)
	// The next round starts after a quarter of one second's messages have been acknowledged.
	k.acknowledged(before, vehicles/4)
	fmt.Printf("  serving again after %v, acknowledging after %v\n", k.start.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// bytesPerLine is the minimum length of a ledger line: a VIN, a space, a digit and the newline.
const bytesPerLine = 20

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	check.OK(t, err)
	return info.Size()
}

// acknowledged waits until the ledger has grown by the given number of lines.
func (k *killed) acknowledged(before int64, lines int64) {
	k.t.Helper()
	want := before + lines*bytesPerLine
	check.Within(k.t, time.Minute, "growth of the ledger", func() error {
		info, err := os.Stat(k.ledger)
		if err != nil {
			return err
		}
		if info.Size() < want {
			return fmt.Errorf("%d bytes of %d", info.Size(), want)
		}
		return nil
	})
}
