package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// TestTrace: a tracer gets each step of a vehicle's message, up to the outcome at each target, a refusal, and nothing
// of other vehicles; the trace is audited.
func TestTrace(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{Kafka: harness.EmbeddedKafka(t), Central: harness.EmbeddedKafka(t)})
	vin, other := scenario.NewVIN(), scenario.NewVIN()
	steps := trace(t, g, "--vin", vin)
	v, w := scenario.MustV5(t, g, vin, g.VehicleToken(vin)), scenario.MustV5(t, g, other, g.VehicleToken(other))
	w.Send(t, "v1/"+other+"/up/alarm", `{"code": 1}`)
	v.Send(t, "v1/"+other+"/up/alarm", `{"code": 1}`)
	v.Send(t, "v1/"+vin+"/up/alarm", `{"code": 7}`)
	want := map[string]bool{
		"received": true, "journaled": true, "acknowledged": true, "rule alarms matched": true,
		"target alarms 0 kafka delivered": true, "target alarms 1 central delivered": true,
	}
	for len(want) > 0 {
		s, more := <-steps
		if !more {
			t.Fatalf("the trace has ended without %v", want)
		}
		if !strings.Contains(s["vin"]+s["seq"], vin) && s["step"] == "received" {
			t.Fatalf("of another vehicle: %v", s)
		}
		text := s["step"]
		for _, name := range []string{"rule", "target", "sink", "outcome"} {
			if s[name] != "" {
				text += " " + s[name]
			}
		}
		delete(want, text)
	}
	audit := check.Read(t, filepath.Join(g.Dir, "data", "audit.log"))
	if !strings.Contains(string(audit), `"event":"trace"`) || !strings.Contains(string(audit), "/v1/trace?vin="+vin) {
		t.Errorf("not audited:\n%s", audit)
	}
}

// trace runs `cellgate trace` and returns its steps once it is attached.
func trace(t *testing.T, g *harness.Gateway, args ...string) <-chan map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"trace", "--json", "--config", g.Config}, args...)...) //nolint:gosec // a test's
	out, err := cmd.StdoutPipe()
	check.OK(t, err)
	check.OK(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	steps := make(chan map[string]string, 1000)
	go func() {
		defer close(steps)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var raw map[string]any
			if json.Unmarshal(lines.Bytes(), &raw) != nil {
				return
			}
			step := map[string]string{}
			for name, value := range raw {
				step[name] = fmt.Sprint(value)
			}
			steps <- step
		}
	}()
	check.Within(t, check.Patience, "the trace has begun", func() error {
		_, body, err := g.Get("/metrics", "")
		if err == nil && !regexp.MustCompile(`(?m)^cellgate_tracers\{.*\} 1$`).Match(body) {
			err = errors.New("nobody looks on")
		}
		return err
	})
	return steps
}
