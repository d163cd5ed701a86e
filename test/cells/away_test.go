//go:build real

package cells

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestRedisGone stops Redis, empties it, restores an old backup, and fills its memory. Vehicles are not affected: they
// connect and get acknowledgements as before. Commands are refused at once, and work again afterwards.
func TestRedisGone(t *testing.T) {
	size := scale{
		vehicles: 60, commands: 1 << 20, rate: 30,
		habits: Habits{Telemetry: 200 * time.Millisecond, StayAtMost: 4 * time.Second, SleepMost: time.Second},
	}
	away, around := 8*time.Second, 3*time.Second
	if os.Getenv("CELLS") == "full" {
		size.vehicles, away, around = 500, time.Duration(fromEnv(t, "CELLS_AWAY", 600))*time.Second, 30*time.Second
	}
	kafka := harness.EmbeddedKafka(t)
	kafka.CreateTopic("vehicle.commands", nil)
	redis := alone(t)
	c := startCell(t, cellOptions{gateways: 2, redis: redis, kafka: kafka, seed: seed(t)})
	stop := c.addCars(size.vehicles, size.habits)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	all := startSenders(ctx, c, 4, size.rate, size.commands)
	pause(ctx, 5*time.Second)
	calm := c.span(ctx, all, "calm", around+2*time.Second, nil)
	server := redis.Servers[0]
	backup := filepath.Join(t.TempDir(), "backup")
	for _, one := range []struct {
		name     string
		closed   bool // commands are refused all the time
		do, undo func()
	}{
		{"away", true, func() { server.Kill(); c.keepCopy(server, backup); pause(ctx, away) }, server.Restart},
		{"flushed", false, func() { redis.say(server, "FLUSHALL"); pause(ctx, around) }, func() {}},
		{"an old backup", false, func() { server.Kill(); c.putBack(server, backup); server.Restart(); pause(ctx, around) }, func() {}},
		{
			"out of memory", true, func() { redis.say(server, "CONFIG", "SET", "maxmemory", "1mb"); pause(ctx, around) },
			func() { redis.say(server, "CONFIG", "SET", "maxmemory", "0") },
		},
	} {
		var faulty spanFigures
		c.during(FaultOther, "redis", "Redis "+one.name, func() {
			faulty = c.span(ctx, all, one.name, 0, one.do)
			one.undo()
			pause(ctx, 2*time.Second)
		})
		c.compare(calm, faulty, one.closed)
		c.span(ctx, all, "after it was "+one.name, around, nil)
	}
	cancel()
	all.group.Wait()
	c.settle(time.Minute, size.habits)
	e := c.gather(all)
	c.pronounce(e)
	stop()
	c.refusesEviction(server)
}

// keepCopy copies the data of a stopped server.
func (c *Cell) keepCopy(n *harness.RedisNode, to string) {
	check.OK(c.t, os.CopyFS(to, os.DirFS(filepath.Join(n.Dir(), "appendonlydir"))))
}

// putBack replaces the data of a stopped server.
func (c *Cell) putBack(n *harness.RedisNode, from string) {
	at := filepath.Join(n.Dir(), "appendonlydir")
	check.OK(c.t, os.RemoveAll(at))
	check.OK(c.t, os.CopyFS(at, os.DirFS(from)))
}

// refusesEviction checks that a gateway does not start with a Redis that may evict commands, and that the error says
// what to do.
func (c *Cell) refusesEviction(server *harness.RedisNode) {
	c.t.Helper()
	n := c.Nodes[0]
	n.down(func() { _ = n.Stop(30 * time.Second) })
	c.Redis.say(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	n.Launch()
	select {
	case <-n.Done():
	case <-time.After(30 * time.Second):
		c.t.Errorf("a gateway runs on a Redis that evicts")
	}
	if last := n.Tail(3); !strings.Contains(last, "noeviction") {
		c.t.Errorf("the start is refused without the remedy:\n%s", last)
	}
}

// spanFigures are the measurements of vehicles and senders in a period.
type spanFigures struct {
	name              string
	acks, entries     int
	failed            int64         // failed CONNECTs
	longest, entering time.Duration // p99 of acknowledgements and of CONNECTs
	sends             map[Said]int
	answered          []time.Duration // latencies of refusals
}

// span measures a period d, or as long as do takes.
func (c *Cell) span(ctx context.Context, s *senders, name string, d time.Duration, do func()) spanFigures {
	from, failed := time.Now(), c.failed.Load()
	if do != nil {
		do()
	} else {
		pause(ctx, d)
	}
	to := time.Now()
	f := spanFigures{name: name, failed: c.failed.Load() - failed, sends: map[Said]int{}}
	var acks, entries []time.Duration
	for _, v := range c.Cars {
		a, e := v.figures(from, to)
		acks, entries = append(acks, a...), append(entries, e...)
	}
	f.acks, f.entries, f.longest, f.entering = len(acks), len(entries), percentile(acks, 99), percentile(entries, 99)
	s.mu.Lock()
	commands := s.Commands
	s.mu.Unlock()
	for _, cmd := range commands {
		cmd.mu.Lock()
		for _, a := range cmd.Answers {
			if begun := a.At.Add(-a.Took); a.Call == "send" && a.Gateway != "kafka" && begun.After(from.Add(time.Second)) && a.At.Before(to) {
				f.sends[a.Said]++
				if a.Said == SaidUnknown && a.Took > 0 {
					f.answered = append(f.answered, a.Took)
				}
			}
		}
		cmd.mu.Unlock()
	}
	fmt.Printf("%-28s %5d acknowledged, p99 %v; %4d connects, %d failed, p99 %v; commands %v, refused in p50 %v p99 %v\n", name, f.acks, f.longest, f.entries, f.failed, f.entering,
		f.sends, percentile(f.answered, 50), percentile(f.answered, 99))
	return f
}

// compare checks that vehicles were not affected and that commands were refused at once.
func (c *Cell) compare(calm, f spanFigures, closed bool) {
	c.t.Helper()
	if f.acks == 0 || f.entries == 0 || f.failed > 0 {
		c.t.Errorf("%s: %d messages and %d connects, %d failed", f.name, f.acks, f.entries, f.failed)
	}
	if closed && f.sends[SaidAccepted] > 0 {
		c.t.Errorf("%s: %d commands were accepted", f.name, f.sends[SaidAccepted])
	}
	if closed && len(f.answered) == 0 {
		c.t.Errorf("%s: no command was refused", f.name)
	}
	if os.Getenv("CELLS") != "full" {
		return
	}
	if p50 := percentile(f.answered, 50); p50 > 50*time.Millisecond {
		c.t.Errorf("%s: commands were refused after %v", f.name, p50)
	}
	if f.longest > calm.longest*3/2+5*time.Millisecond || f.entering > calm.entering*3/2+5*time.Millisecond {
		c.t.Errorf("%s: p99 of acknowledgements %v, before %v; of connects %v, before %v", f.name, f.longest, calm.longest, f.entering, calm.entering)
	}
}
