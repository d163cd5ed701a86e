package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// counting keeps state of every VIN that publishes to up/seen and sends nothing.
const counting = `rules:
  - {id: counting, from: ["v1/+/up/seen"], count: {at_least: 1000, window: 1h}, to: [{kafka: {topic: vehicle.alerts}}]}
`

// TestVehiclesSeenForTheFirstTime publishes as vehicles new to the rules, a million per minute at full length. Their
// operator state is stored every second and must not delay commands.
func TestVehiclesSeenForTheFirstTime(t *testing.T) {
	t.Parallel()
	vins, bound := 3_000, 2_048 // new VINs per second; bound of rules.max_vins
	if full() {
		vins, bound = 17_000, 200_000
	}
	for name, bound := range map[string]int{"above the bound": bound, "within the bound": 100 * vins} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attackUntilDone(t, attackPlan{
				options: harness.Options{
					LabRole: "seen", Auth: `roles: {seen: {publish: ["v1/+/up/seen"]}}`, Extra: "limits: {messages_per_second: 100000}\n",
					RuleSettings: fmt.Sprintf("max_vins: %d", bound),
				},
				lasts:    time.Minute,
				commands: true,
				prepare: func(t *testing.T, g *harness.Gateway, _ *harness.Kafka) {
					check.OK(t, os.WriteFile(filepath.Join(g.Dir, "rules", "counting.rules.yaml"), []byte(counting), 0o600))
				},
				attack:       func(ctx context.Context, t *testing.T, c *cell) { firstSeen(ctx, t, c, vins) },
				worstCommand: 50 * time.Millisecond,
				maxGrowth:    1 << 30,
				until: func(t *testing.T, c *cell) error {
					if seen, evicted := remembered(t, c); seen+evicted < 2*float64(vins) {
						return fmt.Errorf("%.0f VINs", seen+evicted)
					}
					return nil
				},
				afterwards: func(t *testing.T, c *cell) {
					seen, evicted := remembered(t, c)
					t.Logf("%.0f VINs remembered, %.0f forgotten", seen, evicted)
					if within := evicted == 0; within != (bound == 100*vins) || seen > float64(bound) || seen < float64(vins)/2 {
						t.Errorf("%.0f VINs remembered of at most %d, %.0f forgotten", seen, bound, evicted)
					}
				},
			})
		})
	}
}

// remembered returns how many VINs the rules remember, and how many they have forgotten.
func remembered(t *testing.T, c *cell) (seen, evicted float64) {
	t.Helper()
	return metric(t, c.Gateway, "cellgate_rule_state_vins")[""], metric(t, c.Gateway, "cellgate_rule_state_evicted_total")["vins"]
}

// firstSeen publishes one message each of vins new VINs per second, over a few connections.
func firstSeen(ctx context.Context, t *testing.T, c *cell, vins int) {
	const conns, tick = 20, 20 * time.Millisecond
	each := max(1, vins*int(tick)/int(time.Second)/conns)
	var all sync.WaitGroup
	for i := range conns {
		all.Go(func() {
			conn, err := net.Dial("tcp", c.Lab)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = conn.Write(login(fmt.Sprintf("SEEN%d", i), "").Encode())
			go func() { _, _ = io.Copy(io.Discard, conn) }() // PUBACKs
			ticker := time.NewTicker(tick)
			defer ticker.Stop()
			var frames []byte
			for n := 0; ; {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				frames = frames[:0]
				for end := n + each; n < end; n++ {
					vin := fmt.Sprintf("S%016X", uint64(n*conns+i+1)*0x9E3779B97F4A7C15) //nolint:gosec // positive
					frames = append(frames, publishFrame(1, uint16(1+n%60_000), "v1/"+vin+"/up/seen", `{"soc":50}`)...)
				}
				if _, err := conn.Write(frames); err != nil {
					t.Errorf("the gateway has ended connection %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}
