//go:build real

package real

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestCommandsWithCommonTools: mosquitto_pub gets a command's decision as reason code, mosquitto_rr gets the outcome on
// its response topic, and kcat names the sender of a record.
func TestCommandsWithCommonTools(t *testing.T) {
	t.Parallel()
	cell := harness.EmbeddedKafka(t)
	g := harness.StartGateway(t, harness.Options{Kafka: cell, Extra: "commands: {max_queued: 2, max_payload: 64B}\n"})
	vin := scenario.NewVIN()
	host, port, err := net.SplitHostPort(g.MQTT)
	check.OK(t, err)
	login := func(name, token string) []string {
		return []string{"-h", host, "-p", port, "-V", "5", "-i", name, "-u", name, "-P", token, "-q", "1"}
	}
	service := g.Cellgate("token", "issue", "--config", g.Config, "--service", "control", "--scope", "command:send,command:read")
	publish := func(id, payload string) string {
		out, _ := exec.CommandContext(t.Context(), "mosquitto_pub", append(login("control", service), //nolint:gosec // a test
			"-t", "v1/"+vin+"/cmd/"+id+"/unlock", "-m", payload)...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	for _, c := range [][3]string{
		{"m1", "{}", ""},
		{"m1", "1", "Implementation specific error"},
		{"m%2", "{}", "Topic Name invalid"},
		{"m3", strings.Repeat("x", 65), "Quota exceeded"},
		{"m4", "{}", ""},
		{"m5", "{}", "Quota exceeded"},
	} {
		if got := publish(c[0], c[1]); c[2] == "" && got != "" || !strings.Contains(got, c[2]) {
			t.Errorf("%s: mosquitto_pub says %q, want %q", c[0], got, c[2])
		}
	}
	for _, id := range []string{"m1", "m4"} {
		if status, body, err := g.Do("DELETE", "/v1/vehicles/"+vin+"/commands/"+id, service, nil); err != nil || status != http.StatusOK {
			t.Fatalf("cancel %s: %d %s, %v", id, status, body, err)
		}
	}
	requestResponse(t, g, vin, login(vin, g.VehicleToken(vin)), login("control", service))
	value := fmt.Sprintf(`{"id":"k1","vin":%q,"name":"lock","ttl":"7d","urgent":true}`, vin)
	kcat := exec.CommandContext(t.Context(), "kcat", "-b", cell.Hosts(), "-t", "vehicle.commands", "-P", "-H", "by=planner") //nolint:gosec // a test
	kcat.Stdin = strings.NewReader(value)
	if out, err := kcat.CombinedOutput(); err != nil {
		t.Fatalf("kcat: %v: %s", err, out)
	}
	cell.Await("vehicle.command-results", 30*time.Second, func(all []harness.Record) error {
		for _, r := range all {
			var e struct{ ID, By, Origin string }
			if err := json.Unmarshal(r.Value, &e); err == nil && e.ID == "k1" && e.By == "planner" && e.Origin == "kafka" {
				return nil
			}
		}
		return fmt.Errorf("no event of k1 by planner among %d", len(all))
	})
}

// requestResponse sends a command with mosquitto_rr, and answers it as the vehicle.
func requestResponse(t *testing.T, g *harness.Gateway, vin string, vehicle, service []string) {
	t.Helper()
	sub := harness.StartProcess(t, "mosquitto_sub", g.Dir, nil, append([]string{"mosquitto_sub"}, append(vehicle,
		"-t", "v1/"+vin+"/cmd/#", "-C", "1", "-W", "30", "-F", "%t %p %D [%R] %P")...)...)
	check.Within(t, 20*time.Second, "the vehicle subscribed", func() error {
		_, body, err := g.Get("/v1/vehicles/"+vin, g.OperatorToken())
		if err == nil && !strings.Contains(string(body), `"ready":true`) {
			err = fmt.Errorf("%s", body)
		}
		return err
	})
	rr := harness.StartProcess(t, "mosquitto_rr", g.Dir, nil, append([]string{"mosquitto_rr"}, append(service,
		"-t", "v1/"+vin+"/cmd/r1/unlock", "-e", "v1/"+vin+"/res/r1/outcome", "-m", "{}", "-W", "30", "-F", "%t %D %p",
		"-D", "publish", "correlation-data", "trip-7", "-D", "publish", "user-property", "trace", "t-7")...)...)
	await := func(p *harness.Process, what string) string {
		select {
		case <-p.Done():
		case <-time.After(40 * time.Second):
			t.Fatalf("%s was sent nothing", what)
		}
		return p.Tail(1)
	}
	if got := await(sub, "the vehicle"); !strings.HasPrefix(got, "v1/"+vin+"/cmd/r1/unlock {} trip-7 [] ") || !strings.Contains(got, "trace:t-7") {
		t.Errorf("the vehicle got %q", got)
	}
	run(t, "mosquitto_pub", append(vehicle, "-t", "v1/"+vin+"/res/r1/succeeded", "-m", `{"locked":false}`)...)
	if got := await(rr, "mosquitto_rr"); !strings.HasPrefix(got, "v1/"+vin+"/res/r1/outcome trip-7 {") || !strings.Contains(got, `"state":"succeeded"`) {
		t.Errorf("mosquitto_rr got %q", got)
	}
}
