//go:build bench

package cells

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

const (
	benchRounds   = 2 // of each mode, alternating
	benchSpan     = 10 * time.Second
	benchVehicles = 500
	benchRate     = 500 // commands per second
)

// eachMode runs a measurement alternately in single and in several mode.
func eachMode(t *testing.T, measure func(t *testing.T, name string, c *Cell)) {
	for range benchRounds {
		for _, single := range []bool{true, false} {
			name, gateways := "several", 3
			if single {
				name, gateways = "single", 1
			}
			t.Run(name, func(t *testing.T) {
				measure(t, name, startCell(t, cellOptions{
					gateways: gateways, redis: withSentinel(t, 1), kafka: harness.EmbeddedKafka(t), seed: 1, measured: true, single: single,
				}))
			})
		}
	}
}

// cpu returns the processor time that the gateways have used.
func (c *Cell) cpu() (sum time.Duration) {
	c.t.Helper()
	for _, n := range c.Nodes {
		one, err := n.CPU()
		check.OK(c.t, err)
		sum += one
	}
	return sum
}

// TestCommandLatency sends 500 commands per second to vehicles that do not move, and measures the time from the request
// to the 202 and to the vehicle.
func TestCommandLatency(t *testing.T) {
	eachMode(t, func(t *testing.T, name string, c *Cell) {
		stop := c.addCars(benchVehicles, Habits{Settled: true, StayAtMost: time.Hour, SleepMost: time.Second})
		c.await(time.Minute, "vehicles connected", (*car).quiet)
		before, asked, busy := c.cpu(), c.Redis.calls(), c.Redis.cpu()
		accepts, begun := c.commandLoad(benchRate, benchSpan)
		c.await(time.Minute, "commands answered", (*car).quiet)
		used, calls, redis := c.cpu()-before, c.Redis.calls(), c.Redis.cpu()-busy
		var deliveries []time.Duration
		for _, v := range c.Cars {
			v.mu.Lock()
			for _, l := range v.Lines {
				if at, ours := begun[l.ID]; ours && l.What == Received {
					deliveries = append(deliveries, l.At.Sub(at))
				}
			}
			v.mu.Unlock()
		}
		fmt.Printf("%-8s commands at %d/s: accepted p50 %v p99 %v, at the vehicle p50 %v p99 %v; %d of %d delivered; gateways' CPU %v a command\n", name, benchRate,
			percentile(accepts, 50), percentile(accepts, 99), percentile(deliveries, 50), percentile(deliveries, 99), len(deliveries), len(begun),
			(used / time.Duration(max(1, len(begun)))).Round(time.Microsecond))
		if name == "several" {
			fmt.Printf("%-8s Redis' CPU %v a command, and its commands for each: %s\n", name,
				(redis / time.Duration(max(1, len(begun)))).Round(time.Microsecond), perCommand(asked, calls, len(begun)))
		}
		stop()
	})
}

// perCommand divides what Redis ran meanwhile, the most frequent first.
func perCommand(before, after map[string]int, commands int) string {
	var all []string
	for _, name := range slices.SortedFunc(maps.Keys(after), func(a, b string) int { return after[b] - before[b] - after[a] + before[a] }) {
		if n := after[name] - before[name]; n >= commands/10 && n > 0 {
			all = append(all, fmt.Sprintf("%s %.2f", name, float64(n)/float64(commands)))
		}
	}
	return strings.Join(all, ", ")
}

// calls returns how often the primary has run each of Redis' commands, those in scripts included.
func (r *Redis) calls() map[string]int {
	r.t.Helper()
	p, err := r.primary()
	check.OK(r.t, err)
	out, err := p.CLI("INFO", "commandstats")
	check.OK(r.t, err)
	all := map[string]int{}
	for line := range strings.Lines(out) {
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls="); ok {
			text, _, _ := strings.Cut(rest, ",")
			all[name], err = strconv.Atoi(text)
			check.OK(r.t, err)
		}
	}
	return all
}

// cpu returns the processor time that the primary has used.
func (r *Redis) cpu() (sum time.Duration) {
	r.t.Helper()
	p, err := r.primary()
	check.OK(r.t, err)
	out, err := p.CLI("INFO", "cpu")
	check.OK(r.t, err)
	for _, of := range []string{"used_cpu_sys:", "used_cpu_user:"} {
		_, text, _ := strings.Cut(out, of)
		text, _, _ = strings.Cut(text, "\n")
		seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		check.OK(r.t, err)
		sum += time.Duration(seconds * float64(time.Second))
	}
	return sum
}

// commandLoad sends commands at a rate over persistent connections, and returns the latency of their acceptance and the
// time of each request. A request does not wait for earlier ones, and its time is when it is due: a gateway that stalls delays every
// command that is due meanwhile.
func (c *Cell) commandLoad(rate int, d time.Duration) (accepts []time.Duration, begun map[string]time.Time) {
	c.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: rate}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var group sync.WaitGroup
	failed := 0
	begun = map[string]time.Time{}
	every := time.Second / time.Duration(rate)
	start := time.Now()
	for i := range int(d / every) {
		at := start.Add(time.Duration(i) * every)
		time.Sleep(time.Until(at))
		v, n := c.Cars[rand.IntN(len(c.Cars))], c.Nodes[rand.IntN(len(c.Nodes))] //nolint:gosec // a measurement
		group.Add(1)
		go func() {
			defer group.Done()
			id, err := post(&client, "http://"+n.HTTP+"/v1/vehicles/"+v.VIN+"/commands", c.Token())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if failed++; failed == 1 {
					c.t.Error(err)
				}
				return
			}
			accepts, begun[id] = append(accepts, time.Since(at)), at
		}()
	}
	group.Wait()
	return accepts, begun
}

// post sends a command and returns its id.
func post(client *http.Client, url, token string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(`{"name":"ping","payload":{"meaning":"x"},"ttl":"30s"}`)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var cmd struct{ ID string }
	if err := json.Unmarshal(body, &cmd); err != nil || resp.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("%d: %s", resp.StatusCode, body)
	}
	return cmd.ID, nil
}

// TestConnectRate connects vehicles as fast as possible, then measures the memory in Redis per vehicle.
func TestConnectRate(t *testing.T) {
	eachMode(t, func(t *testing.T, name string, c *Cell) {
		memory, before, began := c.Redis.memory(), c.cpu(), time.Now()
		var entered atomic.Int64
		var group sync.WaitGroup
		for worker := range 16 {
			group.Add(1)
			go func() {
				defer group.Done()
				for i := 0; time.Since(began) < benchSpan; i++ {
					n := c.Nodes[(worker+i)%len(c.Nodes)]
					client, err := mqtt.Open(n.Door, mqtt.Connect{
						Version: mqtt.V5, ID: fmt.Sprintf("LTEST%02dR%09d", worker, i), Keep: true, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)},
					}, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := client.Subscribe(nil, mqtt.Filter("v1/"+client.ID+"/cmd/#", 1)); err != nil {
						t.Error(err)
						return
					}
					client.Drop()
					entered.Add(1)
				}
			}()
		}
		group.Wait()
		took, used, n := time.Since(began), c.cpu()-before, entered.Load()
		time.Sleep(2 * time.Second) // for background writes
		fmt.Printf("%-8s %.0f connects a second, with a session and a subscription each; gateways' CPU %v a connect; Redis %d bytes a vehicle\n", name,
			float64(n)/took.Seconds(), (used / time.Duration(max(1, n))).Round(time.Microsecond), (c.Redis.memory()-memory)/max(1, n))
	})
}

// memory returns the memory used by the primary.
func (r *Redis) memory() int64 {
	r.t.Helper()
	p, err := r.primary()
	check.OK(r.t, err)
	out, err := p.CLI("INFO", "memory")
	check.OK(r.t, err)
	_, text, _ := strings.Cut(out, "used_memory:")
	text, _, _ = strings.Cut(text, "\n")
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	check.OK(r.t, err)
	return n
}

// TestTelemetryCost measures one gateway receiving telemetry, alone and as one of three.
func TestTelemetryCost(t *testing.T) {
	eachMode(t, func(t *testing.T, name string, c *Cell) {
		n := c.Nodes[0]
		before, err := n.CPU()
		check.OK(t, err)
		out := n.Cellgate("fleet", "--config", n.Config, "--vehicles", "200", "--rate", "25", "--duration", benchSpan.String(), "--json")
		after, err := n.CPU()
		check.OK(t, err)
		var report struct{ Acknowledged int64 }
		check.OK(t, json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &report))
		fmt.Printf("%-8s %d messages acknowledged, with their delivery to Kafka and Redis %v of the gateway's CPU each\n", name, report.Acknowledged,
			((after - before) / time.Duration(max(1, report.Acknowledged))).Round(10*time.Nanosecond))
	})
}
