package hostile

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestRulesFolder repeatedly changes the rules folder like editors, deployments and mounts do, while vehicles publish.
// No acknowledged message may be filtered because rules were missing for a moment. At the end the process is killed and
// restarted without the folder.
func TestRulesFolder(t *testing.T) {
	t.Parallel()
	attackUntilDone(t, attackPlan{
		options: harness.Options{Extra: "log: {level: warn}\n"},
		prepare: func(t *testing.T, g *harness.Gateway, _ *harness.Kafka) {
			only := filepath.Join(g.Dir, "rules")
			check.OK(t, os.RemoveAll(only))
			check.OK(t, os.Mkdir(only, 0o750))
			check.OK(t, os.WriteFile(filepath.Join(only, "a.rules.yaml"), []byte(everyTelemetry), 0o600))
		},
		attack:     func(ctx context.Context, t *testing.T, c *cell) { (&folder{c.Gateway, c.Gateway.Dir}).attack(ctx, t) },
		afterwards: func(t *testing.T, c *cell) { (&folder{c.Gateway, c.Gateway.Dir}).afterwards(t, c) },
	})
}

const everyTelemetry = "rules:\n  - {id: every, from: [\"v1/+/up/telemetry\"], to: [{kafka: {topic: vehicle.telemetry}}]}\n"

// folder is a gateway's rules folder.
type folder struct {
	g   *harness.Gateway
	dir string
}

func (f *folder) path() string { return filepath.Join(f.dir, "rules") }
func (f *folder) file() string { return filepath.Join(f.path(), "a.rules.yaml") }

func (f *folder) write(t *testing.T, text string) {
	t.Helper()
	check.OK(t, os.WriteFile(f.file(), []byte(text), 0o600))
}

// attack restores the folder at its end.
func (f *folder) attack(ctx context.Context, t *testing.T) {
	for round := 0; round == 0 || ctx.Err() == nil; round++ {
		for range 8 {
			f.write(t, "")
			time.Sleep(200 * time.Millisecond) // like a slow writer
			f.write(t, everyTelemetry)
			f.await(t, true)
		}
		for name, harm := range f.damages(t) {
			harm()
			if !f.await(t, false) {
				t.Errorf("%s: /readyz does not name the rules", name)
			}
			check.OK(t, os.RemoveAll(f.path()+".old"))
			check.OK(t, os.MkdirAll(f.path(), 0o750))
			f.write(t, everyTelemetry)
			if !f.await(t, true) {
				t.Errorf("%s: /readyz names the rules still", name)
			}
		}
	}
}

func (f *folder) damages(t *testing.T) map[string]func() {
	return map[string]func(){
		"truncated": func() { f.write(t, "") },
		"cut":       func() { f.write(t, everyTelemetry[:len("rules:\n")]) },
		"half":      func() { f.write(t, everyTelemetry[:len(everyTelemetry)/2]) },
		"emptied":   func() { check.OK(t, os.Remove(f.file())) },
		"removed":   func() { check.OK(t, os.RemoveAll(f.path())) },
		"renamed over": func() {
			check.OK(t, os.Mkdir(f.path()+".new", 0o750))
			check.OK(t, os.Rename(f.path(), f.path()+".old"))
			check.OK(t, os.Rename(f.path()+".new", f.path()))
		},
	}
}

// await waits until /readyz reports whether the active rules are those of the files.
func (f *folder) await(t *testing.T, want bool) bool {
	t.Helper()
	for end := time.Now().Add(check.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_, body, err := f.g.Get("/readyz", "")
		if err == nil && strings.Contains(string(body), `"rules"`) != want {
			return true
		}
	}
	return false
}

// afterwards checks that nothing was filtered, kills the gateway, and restarts it without the folder: the rules must
// stay active.
func (f *folder) afterwards(t *testing.T, c *cell) {
	ledger, err := c.Ledger(c.operator)
	if err != nil || ledger["kafka"].Filtered != 0 {
		t.Errorf("filtered %d, %v", ledger["kafka"].Filtered, err)
	}
	c.Kill()
	check.OK(t, os.RemoveAll(f.path()))
	c.Start()
	if _, err := os.Stat(f.path()); err == nil {
		t.Error("the gateway made the folder")
	}
	if !f.await(t, false) {
		t.Error("/readyz does not name the missing folder")
	}
	_, body, err := c.Get("/v1/rules", c.operator)
	var running struct{ Rules []struct{ ID string } }
	if err == nil {
		err = json.Unmarshal(body, &running)
	}
	if err != nil || len(running.Rules) != 1 || running.Rules[0].ID != "every" {
		t.Errorf("rules after the start: %s, %v", body, err)
	}
	fleet, consumer := newHonestFleet(c.Gateway, vehicleTokens(t, c.Gateway, 2)), consume(t, c.kafka, "vehicle.telemetry")
	fleet.start(t)
	check.Within(t, check.Patience, "acknowledged messages", func() error {
		if acked, _ := fleet.takeFigures(); acked == 0 {
			return fmt.Errorf("%d", acked)
		}
		return nil
	})
	fleet.end()
	fleet.awaitDelivery(t, consumer)
}
