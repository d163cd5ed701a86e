//go:build real

package real

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// What TestSyncFaults runs under. SYNC_FAULTS and FAULT_SEED come from the environment.
const (
	syncVehicles = 20
	syncRate     = 5 // messages per second and vehicle; each is a record in every lane
)

// syncRules send every message to the centre three times, by each lane to a topic of its own.
const syncRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to:
      - central: {lane: p0, topic: fleet.first}
      - central: {lane: p1, topic: fleet.second}
      - central: {lane: p2, topic: fleet.third}
`

// syncTopics are the outbox topics and where syncRules have the worker forward them to.
var syncTopics = []struct{ outbox, central string }{
	{"central.p0", "fleet.first"}, {"central.p1", "fleet.second"}, {"central.p2", "fleet.third"},
}

// syncRig is a cell's Kafka and a central one, each of one broker reached over a link, and a gateway under steady load.
type syncRig struct {
	*harness.Gateway
	t             *testing.T
	cell, central *harness.Kafka
	once          bool // nothing may come twice
	rng           *rand.Rand
	repeats       []repeat // where the crashes so far explain records that came twice
}

// syncFault is one thing that goes wrong between the two: begin makes it so and returns what ends it.
type syncFault struct {
	name  string
	begin func(r *syncRig) (end func())
	// named is the dependency that /readyz must name while it lasts; empty where that takes longer than the fault.
	named string
	// crash says that records may come twice by it.
	crash bool
}

// syncFaults are all there are, those first that a short run must not miss.
func syncFaults() []syncFault {
	afflict := func(toxic func(r *syncRig) harness.Toxic) func(*syncRig) func() {
		return func(r *syncRig) func() {
			r.central.Links[0].Afflict(toxic(r))
			return r.central.Links[0].Heal
		}
	}
	return []syncFault{
		{name: "batches cut", begin: afflict(func(r *syncRig) harness.Toxic {
			return harness.Toxic{Type: "limit_data", Attributes: map[string]int64{"bytes": r.rng.Int64N(20_000) + 500}}
		})},
		{name: "gateway killed", crash: true, begin: func(r *syncRig) func() {
			r.Kill()
			r.committedIsThere()
			return r.Start
		}},
		{name: "both links cut", named: "central-kafka", begin: func(r *syncRig) func() {
			r.central.Links[0].Cut()
			r.cell.Links[0].Cut()
			return func() {
				r.cell.Links[0].Mend()
				time.Sleep(2 * time.Second) // the group comes together again while the centre is still away
				r.central.Links[0].Mend()
			}
		}},
		{name: "centre killed", named: "central-kafka", begin: func(r *syncRig) func() {
			r.central.Nodes[0].Kill()
			return func() { r.central.Restart(0) }
		}},
		{name: "slow link", begin: afflict(func(*syncRig) harness.Toxic {
			return harness.Toxic{Type: "latency", Attributes: map[string]int64{"latency": 500, "jitter": 400}}
		})},
		{name: "cell's Kafka restarted", named: "sync", begin: func(r *syncRig) func() {
			_ = r.cell.Nodes[0].Stop(30 * time.Second)
			return func() { r.cell.Restart(0) }
		}},
		{name: "centre paused", begin: func(r *syncRig) func() {
			r.central.Nodes[0].Signal(syscall.SIGSTOP)
			return func() { r.central.Nodes[0].Signal(syscall.SIGCONT) }
		}},
		{name: "answers cut", begin: afflict(func(r *syncRig) harness.Toxic {
			return harness.Toxic{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": r.rng.Int64N(3000) + 300}}
		})},
		{name: "black hole", begin: afflict(func(*syncRig) harness.Toxic {
			return harness.Toxic{Type: "timeout", Stream: "downstream", Attributes: map[string]int64{"timeout": 0}}
		})},
	}
}

// TestSyncFaults has one fault after the other befall the way from the cell's Kafka to the central one. Afterwards
// the centre has every record of the outbox, in order per key, none of them twice but by a crash of the gateway.
func TestSyncFaults(t *testing.T) { syncFaultsIn(t, "at_least_once") }

// TestSyncFaultsOnce is the same in mode exactly_once: nothing comes twice, whatever crashes.
func TestSyncFaultsOnce(t *testing.T) { syncFaultsIn(t, "exactly_once") }

func syncFaultsIn(t *testing.T, mode string) {
	t.Helper()
	n, seed := fromEnv(t, "SYNC_FAULTS", 4), uint64(fromEnv(t, "FAULT_SEED", int(time.Now().Unix()))) //nolint:gosec // positive
	fmt.Printf("sync faults: %d, FAULT_SEED=%d\n", n, seed)
	r := newSyncRig(t, seed, mode)
	ledger := filepath.Join(r.Dir, "ledger.txt")
	fleet := startFleet(t, r.Gateway, "fleet", ledger, syncVehicles, syncRate)
	r.central.Await("fleet.third", 30*time.Second, harness.AtLeast(2*syncVehicles*syncRate))
	for i := range n {
		all := syncFaults()
		r.strike(i+1, n, all[i%len(all)])
	}
	if report := harness.EndFleet(t, fleet); report.Refused != 0 || report.Acknowledged == 0 {
		t.Errorf("vehicles noticed: %+v", report)
	}
	operator := r.OperatorToken()
	check.Within(t, time.Minute, "everything in the outbox", func() error { return r.Settled(operator) })
	r.awaitForwarded(time.Minute, r.outboxEnds())
	check.Within(t, 10*time.Second, "no lag, and all well", func() error {
		if lag := r.lag(); lag != 0 {
			return fmt.Errorf("a lag of %v", lag)
		}
		return r.degraded("")
	})
	r.audit(ledger)
	r.priorities()
}

func newSyncRig(t *testing.T, seed uint64, mode string) *syncRig {
	t.Helper()
	versions := harness.KafkaVersions()
	r := &syncRig{t: t, once: mode == "exactly_once", rng: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // repeatable
	r.cell = harness.LinkedKafka(t, versions[len(versions)-1], 1)
	r.central = harness.LinkedKafka(t, versions[0], 1)
	rules := t.TempDir()
	check.OK(t, os.WriteFile(filepath.Join(rules, "all.rules.yaml"), []byte(syncRules), 0o600))
	redis, _ := harness.Redis(t)
	r.Gateway = harness.StartGateway(t, harness.Options{
		Kafka: r.cell, Central: r.central, CentralMode: mode, Redis: redis, Rules: rules, Extra: "commands: {from_kafka: false}\n", // no other group in the cell
	})
	return r
}

// strike has one fault happen for 2 to 3 seconds, and waits until what it held up is forwarded.
func (r *syncRig) strike(i, n int, f syncFault) {
	r.t.Helper()
	before := r.ends(r.central, "fleet.first", "fleet.second", "fleet.third")
	start := time.Now()
	end := f.begin(r)
	over := time.After(2*time.Second + time.Duration(r.rng.Int64N(int64(time.Second))))
	if f.named != "" {
		check.Within(r.t, 15*time.Second, f.name+" in /readyz", func() error { return r.degraded(f.named) })
	}
	<-over
	end()
	healed := time.Now()
	if f.name == "cell's Kafka restarted" || f.name == "both links cut" {
		r.cell.AwaitReady(time.Minute)
	}
	r.awaitForwarded(time.Minute, r.outboxEnds())
	if f.crash && !r.once {
		r.repeats = append(r.repeats, repeat{before, r.ends(r.central, "fleet.first", "fleet.second", "fleet.third")})
	}
	fmt.Printf("sync fault %3d/%d %-22s %4.1fs, caught up in %4.1fs\n", i, n, f.name, healed.Sub(start).Seconds(), time.Since(healed).Seconds())
}

// degraded returns nil when /readyz says that vehicles are served and names the dependency; none at all with "".
func (r *syncRig) degraded(name string) error {
	status, body, err := r.Get("/readyz", "")
	if err != nil {
		return err
	}
	var answer struct{ Degraded []struct{ Name string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	named := slices.ContainsFunc(answer.Degraded, func(d struct{ Name string }) bool { return d.Name == name })
	if status != 200 || named != (name != "") || (name == "" && len(answer.Degraded) > 0) {
		return fmt.Errorf("readyz %d: %s; want 200 and %q named", status, body, name)
	}
	return nil
}

// lag is the sum of cellgate_sync_lag_messages.
func (r *syncRig) lag() (sum float64) {
	r.t.Helper()
	_, body, err := r.Get("/metrics", "")
	check.OK(r.t, err)
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "cellgate_sync_lag_messages{") {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &v); err != nil {
				r.t.Fatalf("%q: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}
