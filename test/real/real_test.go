//go:build real

package real

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestScenarios runs the same scenarios as test/e2e, against each Kafka release and Redis.
func TestScenarios(t *testing.T) {
	for _, version := range harness.KafkaVersions() {
		t.Run("Kafka "+version, func(t *testing.T) {
			cell, central := harness.ApacheKafka(t, version, 1), harness.ApacheKafka(t, version, 1)
			redis, _ := harness.Redis(t)
			e := scenario.Start(t, cell, central, redis)
			scenario.Run(t, e)
			t.Run("foreign clients", func(t *testing.T) { foreignClients(t, e) })
		})
	}
}

// foreignClients publishes with mosquitto_pub, and reads with kcat, mosquitto_sub and redis-cli.
func foreignClients(t *testing.T, e *scenario.Env) {
	vin := scenario.NewVIN()
	host, port, _ := strings.Cut(e.MQTTS, ":")
	login := func(version string) []string {
		return []string{"-h", host, "-p", port, "--cafile", e.CAFile(), "--insecure", "-V", version, "-i", vin, "-u", vin, "-P", e.VehicleToken(vin), "-q", "1"}
	}
	for i, version := range []string{"311", "5"} {
		run(t, "mosquitto_pub", append(login(version), "-t", "v1/"+vin+"/up/telemetry", "-m", fmt.Sprintf(`{"soc": %d}`, 9-i))...)
	}
	kcat := func(topic string) func() error {
		return func() error {
			out := run(t, "kcat", "-b", e.Cell.Hosts(), "-C", "-t", topic, "-e", "-q", "-f", "%k %s [%h]\n")
			if !strings.Contains(out, vin) || !strings.Contains(out, "vin="+vin) {
				return fmt.Errorf("kcat shows no record of %s", vin)
			}
			return nil
		}
	}
	check.Within(t, 20*time.Second, "telemetry in kcat", kcat("vehicle.telemetry"))
	check.Within(t, 20*time.Second, "alert in kcat", kcat("vehicle.alerts"))
	redisHost, redisPort, _ := strings.Cut(e.RedisAddr, ":")
	check.Within(t, 20*time.Second, "hash in redis-cli", func() error {
		if out := run(t, "redis-cli", "-h", redisHost, "-p", redisPort, "HGET", "veh:"+vin, "soc"); strings.TrimSpace(out) != "8" {
			return fmt.Errorf("soc is %q, want 8", out)
		}
		return nil
	})
	mosquittoSub(t, e, vin, login("5"))
}

// mosquittoSub waits for a command with mosquitto_sub, as a vehicle would.
func mosquittoSub(t *testing.T, e *scenario.Env, vin string, login []string) {
	t.Helper()
	argv := append([]string{"mosquitto_sub"}, append(login, "-t", "v1/"+vin+"/cmd/#", "-C", "1", "-W", "30")...)
	sub := harness.StartProcess(t, "mosquitto_sub", e.Dir, nil, argv...)
	id := e.Cellgate("command", "send", "--config", e.Config, "--vin", vin, "--name", "honk", "--payload", `{"times":2}`, "--json")
	select {
	case <-sub.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("mosquitto_sub was sent nothing after %s", id)
	}
	if got := sub.Tail(1); got != `{"times":2}` {
		t.Errorf("mosquitto_sub printed %q", got)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// runFleet runs the simulator to its end, appends to the ledger, and returns its report.
func runFleet(t *testing.T, g *harness.Gateway, ledger string, d time.Duration, vehicles int, rate string) fleet.Report {
	t.Helper()
	return harness.FleetReport(t, g.Cellgate("fleet", "--config", g.Config, "--vehicles", fmt.Sprint(vehicles), "--rate", rate,
		"--duration", d.String(), "--ledger", ledger, "--json"))
}

func auditTelemetry(t *testing.T, cell *harness.Kafka, ledger string) harness.Acked {
	t.Helper()
	acked, err := harness.ReadFleetLedger(ledger)
	check.OK(t, err)
	auditor := harness.NewAuditor(acked)
	cell.Each("vehicle.telemetry", auditor.Add)
	audit, err := auditor.Audit()
	check.OK(t, err)
	fmt.Println(audit)
	if audit.Err() != nil || audit.Acked == 0 {
		t.Error(audit.Err())
	}
	return acked
}

// TestStartsAlone starts the gateway while Kafka, Redis and the centre are unreachable; it serves vehicles, reports
// what is missing, and delivers when they appear.
func TestStartsAlone(t *testing.T) {
	versions := harness.KafkaVersions()
	cell := harness.ApacheKafka(t, versions[0], 1)
	cell.Nodes[0].Kill()
	redis, process := harness.Redis(t)
	process.Kill()
	central := &harness.Kafka{Brokers: []string{harness.FreeAddr(t)}}
	g := harness.StartGateway(t, harness.Options{Kafka: cell, Central: central, Redis: redis})
	vin := scenario.NewVIN()
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	if code := v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": 50, "seq": 1}`); code != 0 {
		t.Errorf("PUBACK 0x%02x with everything away", code)
	}
	cell.Restart(0)
	cell.AwaitReady(time.Minute)
	cell.Await("vehicle.telemetry", time.Minute, harness.AtLeast(1))
}
