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

// What TestSyncFaults runs under. SYNC_FAULTS, SYNC_RATE (messages of a vehicle per second), SYNC_FAULT (a single kind) and
// FAULT_SEED come from the environment.
const (
	syncVehicles = 20
	syncRate     = 5 // messages per second and vehicle; each is a record in every lane
	syncBrokers  = 3 // of the centre
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

// syncRig is a cell's Kafka of one broker and a central one of several, each reached over a link, and a gateway under steady load.
type syncRig struct {
	*harness.Gateway
	t             *testing.T
	cell, central *harness.Kafka
	rules         string // folder
	once          bool   // nothing may come twice
	redis         string // where gateways of the cell meet
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
	// afflict has the ways to all brokers of the centre ill.
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
				r.cell.Links[0].Mend()
				time.Sleep(2 * time.Second) // the outbox is read again while the centre is still away
				r.mendCentre()
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
		{name: "centre restarted", begin: func(r *syncRig) func() { // one broker after the other
			for i, n := range r.central.Nodes {
				_ = n.Stop(30 * time.Second)
				r.central.Restart(i)
				r.inSync()
			}
			return func() {}
		}},
		{name: "links cut", named: "central-kafka", begin: func(r *syncRig) func() {
			r.cutCentre()
			return r.mendCentre
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

// TestSyncFaults has one fault after the other befall the way from the cell's Kafka to the central one. Afterwards
// the centre has every record of the outbox, in order per key, none of them twice but by a crash of the gateway.
func TestSyncFaults(t *testing.T) { syncFaultsIn(t, "at_least_once") }

// TestSyncFaultsOnce is the same in mode exactly_once: nothing comes twice, whatever crashes.
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

// options are those of a gateway of the cell. With exactly_once it is the only one, and another worker is one alone.
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

// another has a second worker come, and go: with at_least_once another gateway of the cell, with which this one divides the
// outbox; with exactly_once a worker alone, which takes over from this one.
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
		r.Kill() // it does not forward after another one
		r.Start()
	}
}

func (r *syncRig) cutCentre() {
	for _, l := range r.central.Links {
		l.Cut()
	}
}

func (r *syncRig) mendCentre() {
	for _, l := range r.central.Links {
		l.Mend()
	}
}

func (r *syncRig) moveLeaders() {
	r.t.Helper()
	for _, topic := range syncTopics {
		r.central.MoveLeaders(topic.central)
	}
}

// inSync waits until the centre has all its replicas, so that no broker is killed that alone has something.
func (r *syncRig) inSync() {
	r.t.Helper()
	for _, topic := range syncTopics {
		r.central.AwaitInSync(2*time.Minute, topic.central)
	}
}

// nothingRefused fails the test when the centre does not take what it is sent while all is well.
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
	r.inSync()
	r.awaitForwarded(2*time.Minute, r.outboxEnds())
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
