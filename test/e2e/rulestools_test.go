package e2e

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

const slowlyLow = `tables: {models: {file: data/models.csv, key: vin}}
rules:
  - id: low
    from: ["v1/+/up/telemetry"]
    when: payload.soc != nil
    threshold: {enter: 'payload.soc < models[vin].least', for: 30m}
    to: [{kafka: {topic: low}}]
  - id: alarms
    from: ["v1/+/up/alarms"]
    each: payload.alarms
    when: item.level > 2
    dedupe: {by: item.code, within: 1h}
    to: [{kafka: {topic: alarms}}]
`

// TestRulesAtTheCommandLine: an analyst applies rules with a table to a running gateway, gets them explained with the
// state of a vehicle, also after a kill, and rolls back.
func TestRulesAtTheCommandLine(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{})
	vin, other := scenario.NewVIN(), scenario.NewVIN()
	folder := filepath.Join(g.Dir, "new")
	check.Write(t, filepath.Join(folder, "low.rules.yaml"), slowlyLow)
	check.Write(t, filepath.Join(folder, "data", "models.csv"), "vin,least\n"+vin+",15\n"+other+",5\n")
	if out := g.Cellgate("rules", "apply", folder, "--config", g.Config); !strings.HasPrefix(out, "2 rules in force") || !strings.Contains(out, "applied over the API") {
		t.Errorf("apply says %q", out)
	}
	if _, err := harness.RunCellgate(t, g.Dir, "rules", "lift", "low", "--config", g.Config); err == nil || !strings.Contains(err.Error(), `"low" is not held`) {
		t.Errorf("lifting what is not held: %v", err)
	}
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": 9}`)
	live := func(args ...string) string { return g.Cellgate(append([]string{"rules", "explain"}, args...)...) }
	waits := regexp.MustCompile(`(?m)^no     low: stopped at threshold: enter true since \d\d:\d\d:\d\d, [^ ]+ of 30m$`)
	remembered := func() error {
		if out := live("--live", "--config", g.Config, "--vin", vin); !waits.MatchString(out) || !strings.Contains(out, "models[vin].least = 15") {
			return errors.New(out)
		}
		return nil
	}
	check.Within(t, check.Patience, "what the gateway remembers of the vehicle", remembered)
	g.Kill()
	g.Start()
	check.Within(t, check.Patience, "what it remembers after it was killed", remembered)
	api := []string{"--api", "http://" + g.HTTP, "--token", g.OperatorToken(), "--vin", vin}
	if out := live(append(api, "--payload", `{"soc": 8}`)...); !waits.MatchString(out) {
		t.Errorf("another message: %s", out)
	}
	if out := live(append(api, "--payload", `{"speed": 8}`)...); !strings.Contains(out, "low: stopped at when: the condition is false") || !strings.Contains(out, "payload.soc = null") {
		t.Errorf("without the field: %s", out)
	}
	if out := live("--live", "--config", g.Config, "--vin", other, "--payload", `{"soc": 4}`); !strings.Contains(out, "enter true since now, 0s of 30m") {
		t.Errorf("another vehicle: %s", out)
	}
	if out := g.Cellgate("rules", "rollback", "--config", g.Config); !strings.Contains(out, "in force") || strings.Contains(g.Cellgate("rules", "status", "--config", g.Config), "low ") {
		t.Errorf("rolled back: %s", out)
	}
}
