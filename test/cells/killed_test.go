//go:build real

package cells

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// restartScale returns the load and the number of kills.
func restartScale(t *testing.T) (size scale, rounds int) {
	size = scale{
		vehicles: 60, commands: 1 << 20, rate: 20, calm: 3 * time.Second,
		habits: Habits{Telemetry: 300 * time.Millisecond, Settled: true, StayAtMost: time.Hour, SleepMost: time.Second},
	}
	rounds = 2
	if os.Getenv("CELLS") == "full" {
		size.vehicles, size.habits.Telemetry, size.calm, rounds = 2000, time.Second, 10*time.Second, fromEnv(t, "CELLS_KILLS", 30)
	}
	return size, rounds
}

// TestGatewayKilledUnderLoad repeatedly kills one of three gateways, then restarts all three one after the other.
// Vehicles and their commands continue at the other gateways. Nothing is lost, and the operator state of the rules
// follows the vehicles.
func TestGatewayKilledUnderLoad(t *testing.T) {
	size, rounds := restartScale(t)
	kafka := harness.EmbeddedKafka(t)
	kafka.CreateTopic("vehicle.commands", nil)
	redis := withSentinel(t, 1)
	redis.keepsPrimary()
	c := startCell(t, cellOptions{gateways: 3, redis: redis, kafka: kafka, seed: seed(t)})
	stop := c.addCars(size.vehicles, size.habits)
	c.await(time.Minute, "vehicles connected", (*car).quiet)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	all := startSenders(ctx, c, 8, size.rate, size.commands)
	pause(ctx, size.calm)
	var gaps, flows []time.Duration
	for round := range rounds {
		g, f := c.killOne(ctx, all, c.Nodes[round%len(c.Nodes)])
		gaps, flows = append(gaps, g...), append(flows, f...)
	}
	fmt.Printf("%d vehicles of killed gateways: gap p50 %v, p99 %v; from the return to the first command p50 %v, p99 %v\n", len(gaps),
		percentile(gaps, 50), percentile(gaps, 99), percentile(flows, 50), percentile(flows, 99))
	c.charge.Store(10) // the first alarm of every vehicle
	pause(ctx, size.calm)
	states := c.rollingRestart(ctx)
	c.charge.Store(50)
	pause(ctx, size.calm)
	cancel()
	all.group.Wait()
	c.settle(time.Minute, size.habits)
	e := c.gather(all)
	c.pronounce(e)
	c.useful(e)
	c.oneAlarmEach(states)
	stop()
}

// killOne kills a gateway. For each of its vehicles it returns the longest time without an acknowledgement, and the
// time from the reconnect to the first command.
func (c *Cell) killOne(ctx context.Context, all *senders, n *Node) (gaps, flows []time.Duration) {
	c.t.Helper()
	var victims []*car
	for _, v := range c.Cars {
		if w := v.at.Load(); w != nil && w.gateway == n {
			victims = append(victims, v)
		}
	}
	if len(victims) == 0 {
		c.t.Fatalf("%s has no vehicle", n.Name)
	}
	killed := time.Now()
	c.during(FaultOther, n.Name, "kill -9 "+n.Name, func() {
		n.down(n.Kill)
		for _, v := range victims {
			check.Within(c.t, time.Minute, v.VIN+" goes on", func() error { return v.goesOn(killed) })
			gaps = append(gaps, v.gap(killed))
			flows = append(flows, c.firstCommand(ctx, all, v, n))
		}
		check.OK(c.t, n.start())
		pause(ctx, time.Second)
	})
	return gaps, flows
}

// goesOn returns nil if a message sent after a time has been acknowledged.
func (v *car) goesOn(after time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := len(v.Acked); n == 0 || v.Acked[n-1].At.Before(after) {
		return fmt.Errorf("%s: nothing acknowledged since", v.VIN)
	}
	return nil
}

// gap returns the time without an acknowledgement around a point in time.
func (v *car) gap(around time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, _ := slices.BinarySearchFunc(v.Acked, around, func(a Ack, t time.Time) int { return a.At.Compare(t) })
	if i == 0 || i == len(v.Acked) {
		return 0
	}
	return v.Acked[i].At.Sub(v.Acked[i-1].At)
}

// firstCommand sends a vehicle a command through any running gateway, and returns the time from the vehicle's reconnect
// to its delivery.
func (c *Cell) firstCommand(ctx context.Context, all *senders, v *car, killed *Node) time.Duration {
	c.t.Helper()
	others := slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n == killed })
	n := others[len(v.VIN)%len(others)]
	cmd := &Command{VIN: v.VIN, Via: "http", TTL: 20 * time.Second, Began: time.Now()}
	cmd.ID = fmt.Sprintf("first-%s-%d", v.VIN, cmd.Began.UnixNano())
	cmd.Meaning = cmd.ID
	all.add(cmd)
	body := map[string]any{"id": cmd.ID, "name": "do", "ttl": cmd.TTL.String(), "payload": map[string]string{"meaning": cmd.Meaning}}
	var status int
	var answer []byte
	var err error
	for again := true; again && time.Since(cmd.Began) < cmd.TTL; { // "unknown" is repeated, as the answer says
		status, answer, err = n.Do(http.MethodPost, "/v1/vehicles/"+v.VIN+"/commands?wait=20s", c.Token(), body)
		a := understood(status, answer, err)
		if a.Gateway, a.Call = n.Name, "send"; a.Said == SaidState {
			a.Said = SaidAccepted
		}
		cmd.Answered(a)
		again = a.Said == SaidUnknown
	}
	if err != nil || status != http.StatusOK {
		c.t.Errorf("%s: a command after its return: %d %s %v", v.VIN, status, answer, err)
	}
	return time.Since(cmd.Began)
}

// rollingRestart drains and restarts the gateways one after the other. It returns how the operator state of the vehicles
// came to their next gateways, by result, a number each.
func (c *Cell) rollingRestart(ctx context.Context) map[string]int {
	c.t.Helper()
	states := map[string]int{}
	for _, n := range c.Nodes {
		c.statesIn(n, states, -1)
	}
	for _, n := range c.Nodes {
		c.during(FaultOther, n.Name, "restart of "+n.Name, func() {
			if status, body, err := n.Do(http.MethodPost, "/v1/drain", c.Token(), map[string]any{"rate": 500}); err != nil || status >= 300 {
				c.t.Errorf("drain of %s: %d %s %v", n.Name, status, body, err)
			}
			n.up.Store(false)
			check.Within(c.t, time.Minute, n.Name+" drained", func() error { return c.none(n) })
			c.statesIn(n, states, 1)
			n.down(func() {
				if err := n.Stop(30 * time.Second); err != nil {
					c.t.Errorf("stop of %s: %v", n.Name, err)
				}
			})
			check.OK(c.t, n.start())
		})
		pause(ctx, 2*time.Second)
	}
	for _, n := range c.Nodes {
		c.statesIn(n, states, 1)
	}
	return states
}

var stateIn = regexp.MustCompile(`(?m)^cellgate_cell_operator_states_in_total\{.*result="(\w+)"\} (\d+)$`)

// statesIn adds times the gateway's counts of operator states that came from other gateways.
func (c *Cell) statesIn(n *Node, to map[string]int, times int) {
	_, body, err := n.Get("/metrics", "")
	check.OK(c.t, err)
	for _, m := range stateIn.FindAllStringSubmatch(string(body), -1) {
		count, err := strconv.Atoi(m[2])
		check.OK(c.t, err)
		to[m[1]] += times * count
	}
}

// none returns nil if no vehicle is connected to the gateway.
func (c *Cell) none(n *Node) error {
	for _, v := range c.Cars {
		if w := v.at.Load(); w != nil && w.gateway == n {
			return fmt.Errorf("%s is still there", v.VIN)
		}
	}
	return nil
}

// oneAlarmEach checks that a vehicle whose charge falls below 15 % once raises one alarm, although it changes gateways. A vehicle waits
// 2 s for its operator state: in the short form, which runs beside other tests, each state that the gateways have counted as not
// there in time excuses one alarm too many.
func (c *Cell) oneAlarmEach(states map[string]int) {
	c.t.Helper()
	alarms := map[string]map[string]bool{}
	c.Kafka.Each("vehicle.alerts", func(r harness.Record) {
		if r.Headers["rule"] != "low-battery" {
			return
		}
		if alarms[r.Key] == nil {
			alarms[r.Key] = map[string]bool{}
		}
		alarms[r.Key][r.Headers["msg-id"]] = true
	})
	none, more := 0, 0
	for _, v := range c.Cars {
		switch n := len(alarms[v.VIN]); {
		case n == 0:
			none++
		case n > 1:
			more += n - 1
		}
	}
	fmt.Printf("alarms: %d vehicles without, %d more than one each; operator states that came: %v\n", none, more, states)
	excused := 0
	if os.Getenv("CELLS") != "full" {
		excused = states["late"] + states["lost"]
	}
	if none > 0 || more > excused {
		c.t.Errorf("of %d vehicles %d have no alarm; %d alarms are too many; operator states that came: %v", len(c.Cars), none, more, states)
	}
}
