//go:build bench

package bench

import (
	"context"
	"flag"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/rules/rulestest"
	"cellgate/test/check"
	"cellgate/test/harness"
)

var checkpointVINs = flag.Int("checkpoint-vins", 200_000, "VINs that the rules' operators remember in TestAcknowledgementsDuringCheckpoints")

// remembering are rules with state for each VIN.
const remembering = `
rules:
  - {id: low, from: ["v1/+/up/telemetry"], threshold: {enter: payload.soc < 15, for: 30s}, to: [{kafka: {topic: t}}]}
  - {id: mean, from: ["v1/+/up/telemetry"], average: {of: payload.speed, window: 24h}, to: [{kafka: {topic: t}}]}
`

// TestAcknowledgementsDuringCheckpoints reports PUBACK latency with operators' state of 200,000 VINs in memory, a
// checkpoint each second, and 2,000 VINs changing between two of them. In turns it measures a gateway without rules,
// whose checkpoints write nothing. The difference is the cost of checkpoints for a vehicle.
func TestAcknowledgementsDuringCheckpoints(t *testing.T) {
	const conns, rate, rounds, span = 500, 2000, 7, 6 * time.Second
	with := harness.StartGateway(t, harness.Options{Rules: rulestest.WriteFiles(t, map[string]string{"a.rules.yaml": remembering}), Extra: unlimited})
	without := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
	began := time.Now()
	remember(t, with, *checkpointVINs)
	operator := with.OperatorToken()
	check.Within(t, 2*time.Minute, "all VINs remembered", func() error { return remembered(with, operator, *checkpointVINs*97/100) })
	t.Logf("%d VINs remembered in %v", *checkpointVINs, time.Since(began).Round(time.Second))
	out := table{
		Title:   fmt.Sprintf("PUBACK beside checkpoints, %d vehicles at %d messages/s, %v each, in turns", conns, rate, span),
		Columns: []string{"server", "VINs remembered", "PUBACK p50 ms", "p99 ms", "p99.9 ms", "max ms", "checkpoints, mean ms"},
	}
	servers := []struct {
		name string
		g    *harness.Gateway
		vins int
		open []net.Conn
	}{{"rules with memory", with, *checkpointVINs, nil}, {"no rules", without, 0, nil}}
	// Of each round the longest, and the 99.9th percentile: a checkpoint each second that stalls everybody for 5 ms
	// does so to five of a thousand. The median over the rounds depends less on other load of the machine than the
	// longest of all.
	var longest, slow [2][]time.Duration
	for i := range servers {
		s := &servers[i]
		load := Load{Addr: s.g.Lab}
		for v := range conns {
			c, err := load.connect(t.Context(), VIN(v))
			check.OK(t, err)
			t.Cleanup(func() { _ = c.Close() })
			s.open = append(s.open, c)
		}
	}
	for range rounds {
		for i := range servers {
			s := &servers[i]
			p, err := Pace{Conns: s.open, Period: conns * time.Second / rate, Payload: telemetry(256)[0]}.Run(span, nil)
			check.OK(t, err)
			longest[i], slow[i] = append(longest[i], p.Max), append(slow[i], p.P999)
			out.row(s.name, s.vins, ms(p.P50), ms(p.P99), ms(p.P999), ms(p.Max), checkpoints(t, s.g))
		}
	}
	summary.add(out)
	beyond := func(of [2][]time.Duration) float64 {
		for i := range of {
			slices.Sort(of[i])
		}
		return float64((of[0][rounds/2] - of[1][rounds/2]).Microseconds()) / 1000
	}
	const beside = "beside checkpoints of 200,000 VINs, above that without rules"
	summary.atMost("the longest PUBACK "+beside, beyond(longest), "ms", 20, 5)
	summary.atMost("the slowest PUBACK of a thousand "+beside, beyond(slow), "ms", 10, 5)
}

// remember has the gateway evaluate a message of each of n vehicles.
func remember(t *testing.T, g *harness.Gateway, n int) {
	t.Helper()
	const clients = 64
	load := Load{Addr: g.Lab}
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for v := k; v < n && errs[k] == nil; v += clients {
				errs[k] = publishOnce(t.Context(), load, VIN(v))
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		check.OK(t, err)
	}
}

// publishOnce connects a vehicle and publishes one message.
func publishOnce(ctx context.Context, load Load, vin string) error {
	c, err := load.connect(ctx, vin)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	frame, idAt := publishFrame("v1/"+vin+"/up/telemetry", telemetry(256)[0])
	frame[idAt+1] = 1
	if _, err := c.Write(frame); err != nil {
		return err
	}
	ack := make([]byte, 4)
	_, err = c.Read(ack)
	return err
}

// remembered returns an error while operators have state of fewer VINs. Each shard of VINs has its share of the bound,
// so a few are evicted.
func remembered(g *harness.Gateway, operator string, n int) error {
	v, err := metricOf(g, "cellgate_rule_state_vins")
	if err != nil {
		return err
	}
	if int(v) < n {
		return fmt.Errorf("%v VINs", v)
	}
	return g.Settled(operator)
}

// checkpoints returns the mean time of a gateway's checkpoints.
func checkpoints(t *testing.T, g *harness.Gateway) string {
	t.Helper()
	sum, err := metricOf(g, "cellgate_dispatch_checkpoint_seconds_sum")
	check.OK(t, err)
	n, err := metricOf(g, "cellgate_dispatch_checkpoint_seconds_count")
	check.OK(t, err)
	return fmt.Sprintf("%.1f", 1000*sum/max(n, 1))
}

// metricOf returns the value of a metric with a single series.
func metricOf(g *harness.Gateway, name string) (float64, error) {
	status, body, err := g.Get("/metrics", "")
	if err != nil || status != 200 {
		return 0, fmt.Errorf("metrics: %d %w", status, err)
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, name+"{"); ok {
			_, value, _ := strings.Cut(rest, "} ")
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
