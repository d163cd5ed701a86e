//go:build real

package cells

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"cellgate/test/harness"
)

// fromEnv returns a number from the environment, or byDefault.
func fromEnv(t *testing.T, name string, byDefault int) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), strconv.Itoa(byDefault)))
	if err != nil || n < 0 {
		t.Fatalf("%s=%q: want a number", name, os.Getenv(name))
	}
	return n
}

// seed returns $CELLS_SEED or a random seed; a failing run prints it.
func seed(t *testing.T) uint64 {
	s := fromEnv(t, "CELLS_SEED", int(time.Now().Unix()))
	fmt.Printf("%s: CELLS_SEED=%d\n", t.Name(), s)
	return uint64(s) //nolint:gosec // not negative
}

// scale is the size and duration of a storm.
type scale struct {
	vehicles, commands int
	rate               float64 // commands per second
	habits             Habits
	calm               time.Duration // before the first fault
	storm              Storm
}

// short is for CI, full ($CELLS=full) for soak tests.
func short() scale {
	return scale{
		vehicles: 100, commands: 3000, rate: 30, calm: 8 * time.Second,
		habits: Habits{Telemetry: time.Second, StayAtMost: 5 * time.Second, SleepMost: 2 * time.Second, Exactly: true},
		storm:  Storm{Kills: 3, Wipes: 1, Stops: 1, Failovers: 2, Cuts: 4, StopMost: 7 * time.Second, DownMost: 3 * time.Second, CutMost: 4 * time.Second},
	}
}

func full(t *testing.T) scale {
	times := func(n int) int { return max(1, n*fromEnv(t, "CELLS_PERCENT", 100)/100) }
	return scale{
		vehicles: times(2000), commands: times(50_000), rate: 45, calm: 30 * time.Second,
		habits: Habits{Telemetry: 5 * time.Second, StayAtMost: 40 * time.Second, SleepMost: 30 * time.Second, Exactly: true},
		storm: Storm{
			Kills: times(50), Wipes: times(12), Stops: times(20), Failovers: times(20), Cuts: times(60),
			StopMost: time.Minute, DownMost: 15 * time.Second, CutMost: 15 * time.Second,
		},
	}
}

// TestStorm has vehicles roam between three gateways and receive commands, while gateways are killed, stopped or lose
// their disks, Redis fails over and loses unconfirmed writes, and links are cut. The judge must find no violation.
func TestStorm(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *Redis{
		"sentinel": func(t *testing.T) *Redis { return withSentinel(t, 1) }, "cluster": withCluster,
	} {
		t.Run(name, func(t *testing.T) {
			size, kafka := short(), (*harness.Kafka)(nil)
			if os.Getenv("CELLS") == "full" {
				size, kafka = full(t), harness.ApacheKafka(t, harness.KafkaVersions()[1], 1)
			} else {
				kafka = harness.EmbeddedKafka(t)
			}
			kafka.CreateTopic("vehicle.commands", nil)
			c := startCell(t, cellOptions{gateways: 3, redis: start(t), kafka: kafka, seed: seed(t)})
			c.storm(size)
		})
	}
}

// storm runs a storm of the given size and judges the evidence.
func (c *Cell) storm(size scale) {
	c.t.Helper()
	stop := c.addCars(size.vehicles, size.habits)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	all := startSenders(ctx, c, 8, size.rate, size.commands)
	pause(ctx, size.calm)
	c.blow(ctx, size.storm)
	pause(ctx, size.calm)
	cancel()
	all.group.Wait()
	c.settle(time.Minute, size.habits)
	e := c.gather(all)
	c.pronounce(e)
	c.useful(e)
	stop()
}

// useful checks that the storm was a test: commands were accepted and executed, although faults were active most of the
// time.
func (c *Cell) useful(e *Evidence) {
	c.t.Helper()
	accepted, executed := map[string]int{}, 0
	for _, cmd := range e.Commands {
		for _, a := range cmd.Answers {
			if a.Said == SaidAccepted {
				accepted[cmd.Via]++
				break
			}
		}
	}
	for _, v := range e.Vehicles {
		for _, l := range v.Lines {
			if l.What == Executed {
				executed++
			}
		}
	}
	for _, via := range []string{"http", "mqtt", "kafka"} {
		if accepted[via]*20 < len(e.Commands) {
			c.t.Errorf("only %d of %d commands were accepted over %s", accepted[via], len(e.Commands), via)
		}
	}
	if executed*4 < len(e.Commands) {
		c.t.Errorf("only %d of %d commands were executed", executed, len(e.Commands))
	}
}
