package hostile

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// clockSource replaces the function of broker/clock that reads the machine's clocks, in a separate build: the wall
// clock is off by the nanoseconds in a file.
const clockSource = `package clock

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

func System() Source {
	var off atomic.Int64
	read := func() {
		if b, err := os.ReadFile(os.Getenv("CLOCK_OFF_BY")); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				off.Store(n)
			}
		}
	}
	read()
	go func() {
		for range time.Tick(10 * time.Millisecond) {
			read()
		}
	}()
	begin := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0).Add(time.Duration(off.Load())), now.Sub(begin)
	}
}
`

// steppedBinary builds the gateway with a wall clock that the test can set.
func steppedBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(harness.Root(), "broker", "clock", "system.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: filepath.Join(dir, "system.go")}})
	check.OK(t, err)
	check.OK(t, os.WriteFile(filepath.Join(dir, "system.go"), []byte(clockSource), 0o600))
	check.OK(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	bin := filepath.Join(dir, "cellgate")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, "./cmd/cellgate") //nolint:gosec // of this test
	cmd.Dir = harness.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// TestClockSteps sets the gateway's wall clock by a second, an hour and ten years, forward and back, while it runs and
// while it is down. Honest vehicles are not affected, rules with intervals keep their rate, and no state is lost.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	off := filepath.Join(t.TempDir(), "off")
	k := &steppedClock{file: off}
	k.set(t, 0)
	attackUntilDone(t, attackPlan{
		options:    harness.Options{Binary: steppedBinary(t), Env: []string{"CLOCK_OFF_BY=" + off}, Extra: "log: {level: error}\n", Auth: "token_ttl: 480h"},
		attack:     k.attack,
		afterwards: k.afterwards,
	})
}

type steppedClock struct{ file string }

func (k *steppedClock) set(t *testing.T, off time.Duration) {
	t.Helper()
	check.OK(t, os.WriteFile(k.file+".new", fmt.Append(nil, int64(off)), 0o600))
	check.OK(t, os.Rename(k.file+".new", k.file))
}

// attack steps the clock within the lifetime of tokens, which the wall clock decides, so that honest vehicles stay
// connected.
func (k *steppedClock) attack(ctx context.Context, t *testing.T, c *cell) {
	for round := 0; round == 0 || ctx.Err() == nil; round++ {
		for _, by := range []time.Duration{time.Second, -time.Second, time.Hour, 240 * time.Hour} {
			before := k.steps(t, c)
			k.set(t, by)
			check.Eventually(t, "the step is counted", func() bool { return k.steps(t, c) > before })
			before = k.steps(t, c)
			k.set(t, 0)
			check.Eventually(t, "the step is counted", func() bool { return k.steps(t, c) > before })
		}
	}
	if _, body, err := c.Get("/readyz", ""); err != nil || !strings.Contains(string(body), `"clock"`) {
		t.Errorf("/readyz does not name the clock: %s %v", body, err)
	}
}

func (k *steppedClock) steps(t *testing.T, c *cell) (n float64) {
	t.Helper()
	for _, v := range metric(t, c.Gateway, "cellgate_clock_steps_total") {
		n += v
	}
	return n
}

// afterwards sets the clock off by ten years, while the gateway runs and across a kill. A revocation, a key and a
// command still exist when the clock is right again.
func (k *steppedClock) afterwards(t *testing.T, c *cell) {
	const vin, year = "LTESTCLOCK0000001", 365 * 24 * time.Hour
	keys := k.get(t, c, "/.well-known/jwks.json")
	k.post(t, c, "/v1/vehicles/"+vin+"/commands", `{"id":"waits","name":"horn","payload":{},"ttl":"1h"}`)
	gone := c.Cellgate("token", "issue", "--config", c.Config, "--service", "gone")
	if code, body, err := c.Get("/v1/status", gone); err != nil || code != 200 {
		t.Errorf("before its revocation: %d %s %v", code, body, err)
	}
	k.post(t, c, "/v1/revocations", `{"sub":"gone"}`)
	for _, by := range []time.Duration{10 * year, -10 * year} {
		for _, kill := range []bool{false, true} {
			if kill {
				c.Kill()
			}
			k.set(t, by)
			if kill {
				c.Start()
			}
			time.Sleep(2 * time.Second) // anything that a wrong clock ends has ended by now
			if kill {
				c.Kill()
			}
			k.set(t, 0)
			if kill {
				c.Start()
			}
			time.Sleep(time.Second)
			if body := k.get(t, c, "/v1/vehicles/"+vin+"/commands/waits"); !strings.Contains(body, `"queued"`) {
				t.Errorf("after %v, killed %v: the command: %s", by, kill, body)
			}
			if code, _, err := c.Get("/v1/status", gone); err != nil || code != 401 {
				t.Errorf("after %v, killed %v: a revoked token: %d %v", by, kill, code, err)
			}
			if now := k.get(t, c, "/.well-known/jwks.json"); now != keys {
				t.Errorf("after %v, killed %v: keys %s, were %s", by, kill, now, keys)
			}
		}
	}
}

func (k *steppedClock) get(t *testing.T, c *cell, path string) string {
	t.Helper()
	_, body, err := c.Get(path, c.operator)
	check.OK(t, err)
	return string(body)
}

func (k *steppedClock) post(t *testing.T, c *cell, path, body string) {
	t.Helper()
	code, answer, err := c.Do("POST", path, c.operator, json.RawMessage(body))
	if err != nil || code >= 300 {
		t.Errorf("%s: %d %s %v", path, code, answer, err)
	}
}
