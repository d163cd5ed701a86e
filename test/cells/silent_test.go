//go:build real

package cells

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestOneServerSilent makes one server of a Redis cluster unreachable, without a failover, for longer than a heartbeat counts. It is the
// server with the list of gateways. Commands that it has no part in are accepted all the time, the others are refused at once. Nobody's
// vehicles are reported as lost when it is back, although no gateway has sent it a heartbeat.
func TestOneServerSilent(t *testing.T) {
	away, after := 13*time.Second, 14*time.Second
	habits := Habits{Telemetry: 300 * time.Millisecond, Settled: true, StayAtMost: time.Hour, SleepMost: time.Second}
	kafka := harness.EmbeddedKafka(t)
	kafka.CreateTopic("vehicle.commands", nil)
	redis := withCluster(t)
	for _, n := range redis.Servers {
		redis.say(n, "CONFIG", "SET", "cluster-node-timeout", "600000")
		redis.say(n, "CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	c := startCell(t, cellOptions{gateways: 2, redis: redis, kafka: kafka, seed: seed(t)})
	stop := c.addCars(60, habits)
	c.await(time.Minute, "vehicles connected", (*car).quiet)
	silent := shardOf("cellgate:cell-test-01:gateways")
	all := &senders{cell: c}
	var served, refused []Answer
	c.during(FaultOther, "redis", "one server is silent", func() {
		for _, n := range c.Nodes {
			for _, stream := range []string{"upstream", "downstream"} {
				n.View.Links[silent].Afflict(harness.Toxic{Type: "timeout", Stream: stream, Attributes: map[string]int64{"timeout": 0}})
			}
		}
		began := time.Now()
		check.Within(t, check.Patience, "both gateways know", func() error { return c.unsure(silent) })
		for _, n := range c.Nodes {
			named := []string{"[0-5460]", "[5461-10922]", "[10923-16383]"}[silent]
			if _, body, err := n.Get("/readyz", ""); err != nil || !strings.Contains(string(body), named) {
				t.Errorf("%s does not name the slots %s: %s, %v", n.Name, named, body, err)
			}
		}
		fmt.Printf("both gateways knew after %v\n", time.Since(began).Round(time.Millisecond))
		for i := 0; time.Since(began) < away; i++ {
			cmd, part := c.commandTo(i)
			if a := c.send(t.Context(), all, cmd, c.Nodes[i%2]); part[0] == silent || part[1] == silent {
				refused = append(refused, a)
			} else {
				served = append(served, a)
			}
		}
		for _, n := range c.Nodes {
			n.View.Links[silent].Heal()
		}
	})
	count(t, "accepted", served, SaidAccepted)
	count(t, "refused", refused, SaidUnknown)
	pause(t.Context(), after)
	c.settle(time.Minute, habits)
	e := c.gather(all)
	c.pronounce(e)
	lost := 0
	for _, p := range e.Presence {
		if p.Reason == "gateway_lost" {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d sessions of living gateways were reported as lost", lost)
	}
	stop()
}

// shardOf returns the place of a key's server among those of a cluster of three, as redis-cli divides the slots.
func shardOf(key string) int { return min(2, remote.RedisSlot(key)/5461) }

// commandTo makes a command for a vehicle, and tells which servers decide about it: the vehicle's and the id's.
func (c *Cell) commandTo(i int) (cmd *Command, part [2]int) {
	vin, id := c.Cars[i%len(c.Cars)].VIN, fmt.Sprintf("silent-%d", i)
	cmd = &Command{ID: id, VIN: vin, Via: "http", Meaning: id, TTL: 20 * time.Second, Began: time.Now()}
	return cmd, [2]int{shardOf("{" + vin + "}"), shardOf("{" + id + "}")}
}

// unsure returns nil if every gateway refuses commands of a server's vehicles at once.
func (c *Cell) unsure(shard int) error {
	for _, n := range c.Nodes {
		for i := range c.Cars {
			cmd, part := c.commandTo(1000 + i)
			if part[0] != shard {
				continue
			}
			began := time.Now()
			status, body, err := n.Do(http.MethodGet, "/v1/vehicles/"+cmd.VIN+"/commands/"+cmd.ID, c.Token(), nil)
			if took := time.Since(began); err != nil || status != http.StatusServiceUnavailable || took > 500*time.Millisecond {
				return fmt.Errorf("%s: %d after %v: %s, %w", n.Name, status, took, body, err)
			}
			break
		}
	}
	return nil
}

// send asks a gateway once to send a command.
func (c *Cell) send(ctx context.Context, all *senders, cmd *Command, n *Node) Answer {
	all.add(cmd)
	body := map[string]any{"id": cmd.ID, "name": "do", "ttl": cmd.TTL.String(), "payload": map[string]string{"meaning": cmd.Meaning}}
	began := time.Now()
	a := understood(n.Do(http.MethodPost, "/v1/vehicles/"+cmd.VIN+"/commands", c.Token(), body))
	if a.Gateway, a.Call, a.Took = n.Name, "send", time.Since(began); a.Said == SaidState {
		a.Said = SaidAccepted
	}
	cmd.Answered(a)
	pause(ctx, 10*time.Millisecond)
	return a
}

// count checks that all answers are the same.
func count(t *testing.T, name string, answers []Answer, want Said) {
	t.Helper()
	var took []time.Duration
	others := map[Said]int{}
	for _, a := range answers {
		if took = append(took, a.Took); a.Said != want {
			others[a.Said]++
		}
	}
	p99 := percentile(took, 99)
	fmt.Printf("%s: %d commands, p50 %v, p99 %v\n", name, len(took), percentile(took, 50), p99)
	if len(others) > 0 || len(took) == 0 {
		t.Errorf("of %d commands to be %s: %v", len(took), name, others)
	}
	if os.Getenv("CELLS") == "full" && p99 > 50*time.Millisecond {
		t.Errorf("%s: p99 %v", name, p99)
	}
}
