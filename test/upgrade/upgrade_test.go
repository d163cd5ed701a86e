// Package upgrade puts another build of the gateway on the data of the one before, forward and back, killed midway.
package upgrade

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// before builds the gateway of another commit, UPGRADE_FROM. A clone that does not have it, as one of CI may, skips the test.
func before(t *testing.T) string {
	t.Helper()
	commit := os.Getenv("UPGRADE_FROM")
	if commit == "" {
		t.Skip("UPGRADE_FROM names no commit to upgrade from: run `make upgrade`")
	}
	if err := git(t, "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("this clone does not have the commit %s to upgrade from: fetch it, as `git fetch --unshallow` does", commit)
	}
	dir := t.TempDir()
	tar, err := git(t, "archive", commit).Output()
	check.OK(t, err)
	unpack := exec.CommandContext(t.Context(), "tar", "x", "-C", dir)
	unpack.Stdin = bytes.NewReader(tar)
	check.OK(t, unpack.Run())
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, "cellgate-before"), "./cmd/cellgate")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return filepath.Join(dir, "cellgate-before")
}

func git(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = harness.Root()
	return cmd
}

// TestUpgrade runs old, new, old and new again on one data_dir, each killed while a fleet publishes. Every message that any of them
// acknowledged is in Kafka, in order; a command that waits is there under each; rules remember what they did; the ledger adds up.
func TestUpgrade(t *testing.T) {
	old := before(t)
	kafka := harness.EmbeddedKafka(t)
	g := harness.PrepareGateway(t, harness.Options{Kafka: kafka, Central: harness.EmbeddedKafka(t), Redis: harness.EmbeddedRedis(t), Binary: old})
	const waiting = "LTEST000000000009"
	var ledgers []string
	for i, binary := range []string{old, harness.Binary(t), old, harness.Binary(t)} {
		g.Use(binary)
		g.Start()
		operator := g.OperatorToken()
		if i == 0 {
			status, body, err := g.Do("POST", "/v1/vehicles/"+waiting+"/commands", operator, map[string]any{"id": "c1", "name": "unlock", "ttl": "24h"})
			if err != nil || status/100 != 2 {
				t.Fatalf("send: %d %s %v", status, body, err)
			}
		}
		if got := state(t, g, operator, waiting, "c1"); got != "queued" {
			t.Errorf("run %d: the command is %s", i, got)
		}
		ledger := filepath.Join(g.Dir, fmt.Sprintf("ledger-%d", i))
		ledgers = append(ledgers, ledger)
		fleet := g.Fleet("fleet", "--vehicles", "20", "--rate", "20", "--duration", "1m", "--ledger", ledger, "--first", fmt.Sprint(20*i))
		check.Within(t, check.Patience, "messages are acknowledged", func() error {
			if acked, err := harness.ReadFleetLedger(ledger); err != nil || acked.Len() < 500 {
				return fmt.Errorf("%d acknowledged: %w", acked.Len(), err)
			}
			return nil
		})
		g.Kill()
		fleet.Kill()
	}
	g.Start()
	operator := g.OperatorToken()
	check.Within(t, time.Minute, "everything has settled, and the ledger adds up", func() error { return g.Settled(operator) })
	all := harness.Acked{} // each fleet has vehicles of its own
	for _, file := range ledgers {
		acked, err := harness.ReadFleetLedger(file)
		check.OK(t, err)
		maps.Copy(all, acked)
	}
	audit, err := harness.AuditTelemetry(all, kafka.Read("vehicle.telemetry"))
	check.OK(t, err)
	check.OK(t, audit.Err())
	t.Log(audit)
	for _, bad := range []string{"cannot be read", "damaged", "panic"} {
		if strings.Contains(g.Tail(10_000), bad) {
			t.Errorf("the log speaks of what is %s", bad)
		}
	}
}

func state(t *testing.T, g *harness.Gateway, operator, vin, id string) string {
	t.Helper()
	status, body, err := g.Get("/v1/vehicles/"+vin+"/commands/"+id, operator)
	var c struct{ State string }
	if err != nil || status != 200 || json.Unmarshal(body, &c) != nil {
		t.Fatalf("command: %d %s %v", status, body, err)
	}
	return c.State
}
