//go:build real

package real

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Load of TestFaults. FAULTS and FAULT_SEED come from the environment.
const (
	faultVehicles = 200
	faultRate     = 5 // messages per second and vehicle
	// faultGrowth bounds the growth of the gateway's memory over its size under load before the first fault. Each of
	// three sinks may keep rules.queue_messages (16,384) of 256 bytes and the message, about 9 MiB; a Kafka lane in use
	// keeps up to two batches of 900 KiB; and Go's collector lets garbage grow to the size of live data (GOGC=100).
	faultGrowth = 64 << 20
)

// faultRig is a three-broker cluster and a Redis, each reached over a link, and a gateway under steady load.
type faultRig struct {
	*harness.Gateway
	t         *testing.T
	kafka     *harness.Kafka
	redis     *harness.RedisNode
	redisLink *harness.Link
	operator  string
	rng       *rand.Rand
}

// fault is a fault: begin starts it and returns where, and a function that ends it.
type fault struct {
	name  string
	begin func(r *faultRig) (where string, end func())
}

func faults() []fault {
	return []fault{
		{"broker killed", func(r *faultRig) (string, func()) {
			return r.broker(func(i int) { r.kafka.Nodes[i].Kill() }, r.kafka.Restart)
		}},
		{"broker stopped", func(r *faultRig) (string, func()) {
			return r.broker(func(i int) { _ = r.kafka.Nodes[i].Stop(30 * time.Second) }, r.kafka.Restart)
		}},
		{"broker paused", func(r *faultRig) (string, func()) {
			return r.broker(func(i int) { r.kafka.Nodes[i].Signal(syscall.SIGSTOP) },
				func(i int) { r.kafka.Nodes[i].Signal(syscall.SIGCONT) })
		}},
		{"batches cut", onLink(func(r *faultRig) []harness.Toxic {
			return []harness.Toxic{{Type: "limit_data", Attributes: map[string]int64{"bytes": r.rng.Int64N(20_000) + 500}}}
		})},
		{"answers cut", onLink(func(r *faultRig) []harness.Toxic {
			return []harness.Toxic{{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": r.rng.Int64N(3000) + 300}}}
		})},
		{"connections reset", onLink(func(r *faultRig) []harness.Toxic {
			return []harness.Toxic{{Type: "reset_peer", Attributes: map[string]int64{"timeout": r.rng.Int64N(300)}}}
		})},
		{"slow link", onLink(func(*faultRig) []harness.Toxic {
			return []harness.Toxic{
				{Type: "latency", Attributes: map[string]int64{"latency": 300, "jitter": 200}},
				{Type: "bandwidth", Stream: "downstream", Attributes: map[string]int64{"rate": 20}},
			}
		})},
		{"black hole", onLink(func(*faultRig) []harness.Toxic {
			return []harness.Toxic{
				{Type: "timeout", Attributes: map[string]int64{"timeout": 0}},
				{Type: "timeout", Stream: "downstream", Attributes: map[string]int64{"timeout": 0}},
			}
		})},
		{"all links cut", func(r *faultRig) (string, func()) {
			for _, l := range r.kafka.Links {
				l.Cut()
			}
			return "kafka", func() {
				for _, l := range r.kafka.Links {
					l.Restore()
				}
			}
		}},
		{"leaders moved", func(r *faultRig) (string, func()) {
			r.kafka.MoveLeaders("vehicle.telemetry")
			return "vehicle.telemetry", func() { r.kafka.MoveLeaders("vehicle.telemetry") }
		}},
		{"redis killed", func(r *faultRig) (string, func()) {
			r.redis.Kill()
			return "redis", r.redis.Restart
		}},
		{"redis paused", func(r *faultRig) (string, func()) {
			r.redis.Signal(syscall.SIGSTOP)
			return "redis", func() { r.redis.Signal(syscall.SIGCONT) }
		}},
		{"redis link cut", func(r *faultRig) (string, func()) {
			r.redisLink.Cut()
			return "redis", r.redisLink.Restore
		}},
		{"redis answers cut", func(r *faultRig) (string, func()) {
			r.redisLink.Afflict(harness.Toxic{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": r.rng.Int64N(2000) + 10}})
			return "redis", r.redisLink.Heal
		}},
	}
}

// broker returns a fault of one random broker.
func (r *faultRig) broker(begin, end func(i int)) (string, func()) {
	i := r.rng.IntN(len(r.kafka.Nodes))
	begin(i)
	return fmt.Sprintf("broker %d", i+1), func() { end(i) }
}

// onLink returns a fault of the link to one broker.
func onLink(toxics func(*faultRig) []harness.Toxic) func(*faultRig) (string, func()) {
	return func(r *faultRig) (string, func()) {
		i := r.rng.IntN(len(r.kafka.Links))
		r.kafka.Links[i].Afflict(toxics(r)...)
		return fmt.Sprintf("broker %d", i+1), r.kafka.Links[i].Heal
	}
}

// sequence returns n faults: each kind once in a random order, then all again in another order.
func sequence(rng *rand.Rand, n int) []fault {
	var all []fault
	for kinds := faults(); len(all) < n; {
		for _, i := range rng.Perm(len(kinds)) {
			all = append(all, kinds[i])
		}
	}
	return all[:n]
}

// TestFaults subjects Kafka and Redis under load to one fault after another. Afterwards every acknowledged message is
// in Kafka, in order, and Redis has the newest of every vehicle.
func TestFaults(t *testing.T) {
	n, seed := fromEnv(t, "FAULTS", 20), uint64(fromEnv(t, "FAULT_SEED", int(time.Now().Unix()))) //nolint:gosec // positive
	fmt.Printf("faults: %d, FAULT_SEED=%d\n", n, seed)
	r := newFaultRig(t, seed)
	ledger := filepath.Join(r.Dir, "ledger.txt")
	fleet := startFleet(t, r.Gateway, "fleet", ledger, faultVehicles, faultRate)
	check.Within(t, 30*time.Second, "telemetry in Kafka and Redis", func() error { return r.delivered(5 * faultVehicles * faultRate) })
	memory := watchRSS(t, r.Gateway)
	before := memory.max()
	for i, f := range sequence(r.rng, n) {
		r.strike(i+1, n, f)
	}
	report := harness.EndFleet(t, fleet)
	check.Within(t, 2*time.Minute, "everything delivered", func() error { return r.Settled(r.operator) })
	grown := memory.max() - before
	fmt.Printf("RSS %d MiB before the faults, at most %d MiB more, bound %d\n", before>>20, grown>>20, faultGrowth>>20)
	if grown > faultGrowth {
		t.Errorf("RSS grew by %d MiB, bound %d", grown>>20, faultGrowth>>20)
	}
	if report.Reconnects != 0 || report.Refused != 0 {
		t.Errorf("vehicles noticed: %+v", report)
	}
	r.nothingGivenUp()
	acked := auditTelemetry(t, r.kafka, ledger)
	auditNewest(t, r.redis.Addr, acked)
	refusals(t, r.kafka)
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(otherwise)))
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is no count", name, os.Getenv(name))
	}
	return n
}

func newFaultRig(t *testing.T, seed uint64) *faultRig {
	t.Helper()
	versions := harness.KafkaVersions()
	r := &faultRig{t: t, rng: rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // repeatable
	r.kafka = harness.LinkedKafka(t, versions[len(versions)-1], 3)
	r.redis = harness.DurableRedis(t)
	r.redisLink = harness.NewLink(t, "redis", r.redis.Addr)
	r.Gateway = harness.StartGateway(t, harness.Options{Kafka: r.kafka, Redis: r.redisLink.Addr})
	r.operator = r.OperatorToken()
	return r
}

// delivered returns nil when Kafka and Redis have at least n messages.
func (r *faultRig) delivered(n int64) error {
	lines, err := r.Ledger(r.operator)
	if err != nil {
		return err
	}
	for _, name := range []string{"kafka", "redis"} {
		if lines[name].Delivered < n {
			return fmt.Errorf("%s: %d delivered, want %d", name, lines[name].Delivered, n)
		}
	}
	return nil
}

// strike runs one fault for 3 to 6 seconds, and waits until the delayed messages are delivered.
func (r *faultRig) strike(i, n int, f fault) {
	r.t.Helper()
	start := time.Now()
	tries := r.retries()
	where, end := f.begin(r)
	lasts := 3*time.Second + time.Duration(r.rng.Int64N(int64(3*time.Second)))
	heldUp := r.lookUntil(time.After(lasts - time.Since(start)))
	end()
	healed := time.Now()
	lines := r.awaitCaughtUp(f.name)
	caughtUp := time.Now()
	r.kafka.AwaitInSync(2*time.Minute, "vehicle.telemetry", "central.p1")
	fmt.Printf("fault %3d/%d %-17s %-17s %4.1fs, at most %5d pending, caught up in %4.1fs, in sync in %4.1fs, %d delivered, retries %v\n", i, n,
		f.name, where, healed.Sub(start).Seconds(), heldUp, caughtUp.Sub(healed).Seconds(), time.Since(healed).Seconds(),
		lines["kafka"].Delivered, more(r.retries(), tries))
}

// awaitCaughtUp waits until no sink lags by more than a second's messages.
func (r *faultRig) awaitCaughtUp(after string) (lines map[string]harness.SinkLedger) {
	r.t.Helper()
	check.Within(r.t, 2*time.Minute, "caught up after "+after, func() (err error) {
		if lines, err = r.Ledger(r.operator); err != nil {
			return err
		}
		for name, s := range lines {
			if s.Pending > faultVehicles*faultRate {
				return fmt.Errorf("%s: %d pending", name, s.Pending)
			}
		}
		return nil
	})
	return lines
}

// lookUntil polls the ledger, whose lines must always add up, and returns the highest number of pending messages.
func (r *faultRig) lookUntil(end <-chan time.Time) (most int64) {
	r.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		lines, err := r.Ledger(r.operator)
		check.OK(r.t, err)
		for name, s := range lines {
			most = max(most, s.Pending)
			if !s.Balanced {
				r.t.Errorf("the ledger of %s does not add up: %+v", name, s)
			}
		}
		select {
		case <-end:
			return most
		case <-tick.C:
		}
	}
}

// retries returns how often the gateway has resent to Kafka so far, by reason.
func (r *faultRig) retries() map[string]int {
	r.t.Helper()
	_, body, err := r.Get("/metrics", "")
	check.OK(r.t, err)
	sums := map[string]int{}
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "cellgate_kafka_retries_total") {
			continue
		}
		_, reason, _ := strings.Cut(line, `reason="`)
		reason, _, _ = strings.Cut(reason, `"`)
		v, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		sums[reason] += int(v)
	}
	return sums
}

// more returns the increase from before to now.
func more(now, before map[string]int) map[string]int {
	d := map[string]int{}
	for k, v := range now {
		if v > before[k] {
			d[k] = v - before[k]
		}
	}
	return d
}

// nothingGivenUp fails the test if a sink settled a message without delivering it.
func (r *faultRig) nothingGivenUp() {
	r.t.Helper()
	lines, err := r.Ledger(r.operator)
	check.OK(r.t, err)
	for name, s := range lines {
		if s.DeadLettered != 0 || len(s.Dropped) != 0 || !s.Balanced {
			r.t.Errorf("ledger of %s: %+v", name, s)
		}
	}
	fmt.Printf("ledger: kafka %+v, redis %+v\n", lines["kafka"], lines["redis"])
}
