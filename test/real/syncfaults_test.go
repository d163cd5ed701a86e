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

// Load of TestSyncFaults. SYNC_FAULTS, SYNC_RATE (messages of a vehicle per second), SYNC_FAULT (a single kind) and
// FAULT_SEED come from the environment.
const (
	syncVehicles = 20
	syncRate     = 5 // messages per second and vehicle; each is a record in every lane
	syncBrokers  = 3 // of the centre
)

// syncRules send every message to the centre three times, by each lane to its own topic.
const syncRules = `
rules:
  - id: all
    from: ["v1/+/up/telemetry"]
    to:
      - central: {lane: p0, topic: fleet.first}
      - central: {lane: p1, topic: fleet.second}
      - central: {lane: p2, topic: fleet.third}
`

// syncTopics are the outbox topics and the central topics of syncRules.
var syncTopics = []struct{ outbox, central string }{
	{"central.p0", "fleet.first"}, {"central.p1", "fleet.second"}, {"central.p2", "fleet.third"},
}

// syncRig is a cell's Kafka of one broker and a central one of several, each reached over a link, and a gateway under steady load.
type syncRig struct {
	*harness.Gateway
	t             *testing.T
	cell, central *harness.Kafka
	rules         string // folder
	once          bool   // no record may be repeated
	redis         string // shared by the gateways of the cell
	rng           *rand.Rand
	repeats       []repeat // parts in which crashes explain repeated records
}

// syncFault is a fault between the two: begin starts it and returns a function that ends it.
type syncFault struct {
	name  string
	begin func(r *syncRig) (end func())
	// named is the dependency that /readyz must name meanwhile; empty if that takes longer than the fault.
	named string
	// crash: records may be repeated.
	crash bool
}

// syncFaults returns all faults; the first are those that a short run must include.
func syncFaults() []syncFault {
	// afflict adds a toxic to the links to all brokers of the centre.
	afflict := func(toxic func(r *syncRig) harness.Toxic) func(*syncRig) func() {
		return func(r *syncRig) func() {
			for _, l := range r.central.Links {
				l.Afflict(toxic(r))
			}
			return func() {
				for _, l := range r.central.Links {
					l.Heal()
				}
			}
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
			r.cutCentre()
			r.cell.Links[0].Cut()
			return func() {
				r.cell.Links[0].Restore()
				time.Sleep(2 * time.Second) // the outbox is read again while the centre is still away
				r.restoreCentre()
			}
		}},
		{name: "leaders moved", begin: func(r *syncRig) func() {
			r.moveLeaders()
			return r.moveLeaders
		}},
		{name: "two workers", crash: true, begin: func(r *syncRig) func() { return r.another() }},
		{name: "centre killed", named: "central-kafka", begin: func(r *syncRig) func() {
			for _, n := range r.central.Nodes {
				n.Kill()
			}
			return func() {
				for i := range r.central.Nodes {
					r.central.Restart(i)
				}
			}
		}},
		{name: "broker killed", begin: func(r *syncRig) func() {
			i := r.rng.IntN(syncBrokers)
			r.central.Nodes[i].Kill()
			return func() { r.central.Restart(i) }
		}},
		{name: "centre restarted", begin: func(r *syncRig) func() { // one broker after another
			for i, n := range r.central.Nodes {
				_ = n.Stop(30 * time.Second)
				r.central.Restart(i)
				r.inSync()
			}
			return func() {}
		}},
		{name: "links cut", named: "central-kafka", begin: func(r *syncRig) func() {
			r.cutCentre()
			return r.restoreCentre
		}},
		{name: "slow link", begin: afflict(func(*syncRig) harness.Toxic {
			return harness.Toxic{Type: "latency", Attributes: map[string]int64{"latency": 500, "jitter": 400}}
		})},
		{name: "cell's Kafka restarted", named: "sync", begin: func(r *syncRig) func() {
			_ = r.cell.Nodes[0].Stop(30 * time.Second)
			return func() { r.cell.Restart(0) }
		}},
		{name: "centre paused", begin: func(r *syncRig) func() {
			for _, n := range r.central.Nodes {
				n.Signal(syscall.SIGSTOP)
			}
			return func() {
				for _, n := range r.central.Nodes {
					n.Signal(syscall.SIGCONT)
				}
			}
		}},
		{name: "answers cut", begin: afflict(func(r *syncRig) harness.Toxic {
			return harness.Toxic{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": r.rng.Int64N(3000) + 300}}
		})},
		{name: "black hole", begin: afflict(func(*syncRig) harness.Toxic {
			return harness.Toxic{Type: "timeout", Stream: "downstream", Attributes: map[string]int64{"timeout": 0}}
		})},
	}
}

// TestSyncFaults subjects the path from the cell's Kafka to the central one to one fault after another. Afterwards the
// centre has every record of the outbox, in order per key, and repeats only where the gateway crashed.
func TestSyncFaults(t *testing.T) { syncFaultsIn(t, "at_least_once") }

// TestSyncFaultsOnce is the same in mode exactly_once: no record is repeated, even after crashes.
func TestSyncFaultsOnce(t *testing.T) { syncFaultsIn(t, "exactly_once") }

func syncFaultsIn(t *testing.T, mode string) {
	t.Helper()
	n, seed := fromEnv(t, "SYNC_FAULTS", 4), uint64(fromEnv(t, "FAULT_SEED", int(time.Now().Unix()))) //nolint:gosec // positive
	fmt.Printf("sync faults: %d, FAULT_SEED=%d\n", n, seed)
	r := newSyncRig(t, seed, mode, syncBrokers)
	ledger := filepath.Join(r.Dir, "ledger.txt")
	fleet := startFleet(t, r.Gateway, "fleet", ledger, syncVehicles, fromEnv(t, "SYNC_RATE", syncRate))
	r.central.Await("fleet.third", time.Minute, harness.AtLeast(2*syncVehicles*syncRate))
	r.nothingRefused()
	all := slices.DeleteFunc(syncFaults(), func(f syncFault) bool {
		only := os.Getenv("SYNC_FAULT")
		return only != "" && f.name != only
	})
	for i := range n {
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

func newSyncRig(t *testing.T, seed uint64, mode string, brokers int) *syncRig {
	t.Helper()
	versions := harness.KafkaVersions()
	r := &syncRig{t: t, once: mode == "exactly_once", rng: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // repeatable
	r.cell = harness.LinkedKafka(t, versions[len(versions)-1], 1)
	r.central = harness.LinkedKafka(t, versions[0], brokers)
	rules := t.TempDir()
	check.OK(t, os.WriteFile(filepath.Join(rules, "all.rules.yaml"), []byte(syncRules), 0o600))
	redis := harness.DurableRedis(t)
	redis.Configure("appendfsync", "always")
	r.redis, r.rules = redis.Addr, rules
	r.Gateway = harness.StartGateway(t, r.options("gw-1"))
	return r
}

// options returns those of a gateway of the cell. With exactly_once it is the only gateway, and another worker runs
// alone.
func (r *syncRig) options(node string) harness.Options {
	mode := "at_least_once"
	if r.once {
		mode = "exactly_once"
	}
	return harness.Options{
		Node: node, Kafka: r.cell, Central: r.central, CentralMode: mode, Rules: r.rules, Several: !r.once,
		RedisSettings: fmt.Sprintf("addresses: [%q]", r.redis),
		Extra:         "commands: {from_kafka: false}\n", // no other group in the cell
	}
}

// another starts and stops a second worker: with at_least_once another gateway of the cell, which shares the outbox
// with this one; with exactly_once a standalone worker, which takes over from this one.
func (r *syncRig) another() (end func()) {
	r.t.Helper()
	if !r.once {
		other := harness.StartGateway(r.t, r.options("gw-2"))
		return func() { check.OK(r.t, other.Stop(30*time.Second)) }
	}
	g := harness.PrepareGateway(r.t, r.options("alone"))
	alone := harness.StartProcess(r.t, "worker", g.Dir, nil, harness.Binary(r.t), "sync", "--config", g.Config)
	check.Within(r.t, 20*time.Second, "the other worker's take-over", func() error { return r.degraded("sync") })
	return func() {
		alone.Kill()
		r.Kill() // it does not forward after another worker took over
		r.Start()
	}
}

func (r *syncRig) cutCentre() {
	for _, l := range r.central.Links {
		l.Cut()
	}
}

func (r *syncRig) restoreCentre() {
	for _, l := range r.central.Links {
		l.Restore()
	}
}

func (r *syncRig) moveLeaders() {
	r.t.Helper()
	for _, topic := range syncTopics {
		r.central.MoveLeaders(topic.central)
	}
}

// inSync waits until all replicas of the centre are in sync, so that no killed broker is the only one with a record.
func (r *syncRig) inSync() {
	r.t.Helper()
	for _, topic := range syncTopics {
		r.central.AwaitInSync(2*time.Minute, topic.central)
	}
}

// nothingRefused fails the test if the centre refuses records while it has no fault.
func (r *syncRig) nothingRefused() {
	r.t.Helper()
	_, body, err := r.Get("/metrics", "")
	check.OK(r.t, err)
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "cellgate_sync_retries_total{") && strings.Contains(line, `reason="Unsupported`) {
			r.t.Errorf("the centre refuses what the worker sends: %s", line)
		}
	}
}

// strike runs one fault for 2 to 3 seconds, and waits until the delayed records are forwarded.
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
	r.inSync()
	r.awaitForwarded(2*time.Minute, r.outboxEnds())
	if f.crash && !r.once {
		r.repeats = append(r.repeats, repeat{before, r.ends(r.central, "fleet.first", "fleet.second", "fleet.third")})
	}
	fmt.Printf("sync fault %3d/%d %-22s %4.1fs, caught up in %4.1fs\n", i, n, f.name, healed.Sub(start).Seconds(), time.Since(healed).Seconds())
}

// degraded returns nil when /readyz says that vehicles are served and names the dependency, or none with "".
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

// lag returns the sum of cellgate_sync_lag_messages.
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
