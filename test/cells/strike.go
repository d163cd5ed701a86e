//go:build real || bench

package cells

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"cellgate/test/harness"
)

// Storm configures the faults of a cell.
type Storm struct {
	Kills, Wipes, Stops, Failovers, Cuts int
	// StopMost is the longest SIGSTOP, DownMost the longest downtime of a killed gateway, CutMost the longest cut of a
	// link.
	StopMost, DownMost, CutMost time.Duration
}

// blow injects the faults of gateways, Redis and links concurrently.
func (c *Cell) blow(ctx context.Context, s Storm) {
	done := make(chan struct{})
	parts := []func(context.Context, Storm, *rand.Rand){c.strikeGateways, c.strikeRedis, c.strikeLinks}
	for i, part := range parts {
		go func() {
			defer func() { done <- struct{}{} }()
			part(ctx, s, rand.New(rand.NewPCG(c.seed, uint64(9000+i)))) //nolint:gosec // a simulation
		}()
	}
	for range parts {
		<-done
	}
}

// between returns a random duration.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(max(1, int64(most-least))))
}

// strikeGateways kills gateways, some with their disks, and stops others for a time, one at a time.
func (c *Cell) strikeGateways(ctx context.Context, s Storm, rng *rand.Rand) {
	var all []func()
	for i := range s.Kills {
		all = append(all, func() {
			c.kill(ctx, c.Nodes[rng.IntN(len(c.Nodes))], i < s.Wipes, between(rng, 200*time.Millisecond, s.DownMost))
		})
	}
	for range s.Stops {
		all = append(all, func() { c.stop(ctx, c.Nodes[rng.IntN(len(c.Nodes))], between(rng, s.StopMost/6, s.StopMost)) })
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, strike := range all {
		if pause(ctx, between(rng, 500*time.Millisecond, 3*time.Second)); ctx.Err() != nil {
			return
		}
		strike()
	}
}

// kill kills a gateway with SIGKILL and restarts it.
func (c *Cell) kill(ctx context.Context, n *Node, wipe bool, away time.Duration) {
	kind, name := FaultOther, "kill -9 "+n.Name
	if wipe {
		kind, name = FaultWiped, name+", disk lost"
	}
	c.during(kind, n.Name, name, func() {
		n.down(n.Kill)
		if wipe {
			if err := os.RemoveAll(filepath.Join(n.Dir, "data")); err != nil {
				c.t.Error(err)
			}
		}
		pause(ctx, away)
		if err := n.start(); err != nil {
			c.t.Error(err)
		}
		pause(ctx, time.Second)
	})
}

// stop stops a gateway for a time with SIGSTOP.
func (c *Cell) stop(ctx context.Context, n *Node, d time.Duration) {
	c.during(FaultStopped, n.Name, fmt.Sprintf("SIGSTOP %s for %v", n.Name, d.Round(time.Millisecond)), func() {
		n.up.Store(false)
		n.signal(syscall.SIGSTOP)
		pause(ctx, d)
		n.signal(syscall.SIGCONT)
		n.up.Store(true)
	})
	c.during(FaultOther, n.Name, "after "+n.Name+" was stopped", func() { pause(ctx, 2*time.Second) })
}

// strikeRedis fails Redis over. Every second time, writes that the replicas do not have are lost.
func (c *Cell) strikeRedis(ctx context.Context, s Storm, rng *rand.Rand) {
	ways := []func(context.Context, *rand.Rand, bool){c.redisKilled, c.redisReplaced, c.redisStopped}
	for i := range s.Failovers {
		if pause(ctx, between(rng, time.Second, 4*time.Second)); ctx.Err() != nil {
			return
		}
		lossy, way := i%2 == 0, ways[i%len(ways)]
		way(ctx, rng, lossy)
		c.Redis.awaitWhole("a failover")
	}
}

// losing disconnects a primary's replicas long enough that they miss some writes.
func (c *Cell) losing(ctx context.Context, p *harness.RedisNode, lossy bool) {
	if lossy {
		c.Redis.cutOff(p)
		pause(ctx, 2*time.Second)
	}
}

// redisKilled kills a primary and restarts it after a failover.
func (c *Cell) redisKilled(ctx context.Context, _ *rand.Rand, lossy bool) {
	c.onPrimary("kill -9 of", lossy, func(p *harness.RedisNode) {
		c.losing(ctx, p, lossy)
		p.Kill()
		c.replaced(ctx, p)
		p.Restart()
	})
}

// redisReplaced demotes a living primary and promotes it again.
func (c *Cell) redisReplaced(ctx context.Context, _ *rand.Rand, lossy bool) {
	c.onPrimary("demotion and promotion of", lossy, func(p *harness.RedisNode) {
		c.losing(ctx, p, lossy)
		if err := c.Redis.takeOver(ctx, p); err != nil {
			c.t.Logf("no takeover: %v", err)
		}
		c.Redis.reunite(p)
		c.Redis.awaitWhole("a demotion")
		heir, err := c.Redis.primary()
		if c.Redis.cluster {
			heir, err = c.Redis.primaryOf(p)
		}
		if err == nil && heir != p {
			err = c.Redis.takeOver(ctx, heir)
		}
		if err != nil {
			c.t.Logf("no promotion: %v", err)
		}
	})
}

// redisStopped stops a primary until a failover. When it resumes there are briefly two primaries.
func (c *Cell) redisStopped(ctx context.Context, rng *rand.Rand, lossy bool) {
	c.onPrimary("SIGSTOP of", lossy, func(p *harness.RedisNode) {
		c.losing(ctx, p, lossy)
		p.Signal(syscall.SIGSTOP)
		c.replaced(ctx, p)
		pause(ctx, between(rng, 0, 2*time.Second))
		p.Signal(syscall.SIGCONT)
		c.Redis.reunite(p)
	})
}

// onPrimary applies a fault to a primary.
func (c *Cell) onPrimary(what string, lossy bool, do func(p *harness.RedisNode)) {
	p, err := c.Redis.primary()
	if err != nil {
		c.t.Errorf("%v", err)
		return
	}
	if lossy {
		what = "its replicas cut off, " + what
	}
	c.during(FaultOther, "redis", what+" "+p.Addr, func() {
		do(p)
		c.Redis.awaitWhole(what)
	})
}

// replaced waits until another server has replaced a primary.
func (c *Cell) replaced(ctx context.Context, p *harness.RedisNode) {
	err := c.Redis.until(ctx, func() error {
		for _, n := range c.Redis.heirs(p) {
			if n.Promoted() == nil {
				return nil
			}
		}
		return fmt.Errorf("nobody took the place of %s", p.Addr)
	})
	if err != nil {
		c.t.Logf("%v", err)
	}
}

// strikeLinks injects faults into the links of vehicles to a gateway and of a gateway to Redis.
func (c *Cell) strikeLinks(ctx context.Context, s Storm, rng *rand.Rand) {
	for range s.Cuts {
		if pause(ctx, between(rng, time.Second, 5*time.Second)); ctx.Err() != nil {
			return
		}
		n := c.Nodes[rng.IntN(len(c.Nodes))]
		what, links := "vehicles' way to "+n.Name, []*harness.Link{n.Vehicles}
		if rng.IntN(2) == 0 {
			what, links = n.Name+"'s way to Redis", n.View.Links
		}
		c.ill(ctx, what, links, rng, s.CutMost)
	}
}

// ill cuts links, black-holes one direction, slows them down or breaks them within a reply, for a time.
func (c *Cell) ill(ctx context.Context, what string, links []*harness.Link, rng *rand.Rand, most time.Duration) {
	d := between(rng, most/5, most)
	toxic := []harness.Toxic{
		{Type: "timeout", Stream: "upstream", Attributes: map[string]int64{"timeout": 0}},
		{Type: "timeout", Stream: "downstream", Attributes: map[string]int64{"timeout": 0}},
		{Type: "latency", Stream: "upstream", Attributes: map[string]int64{"latency": 300, "jitter": 250}},
		{Type: "latency", Stream: "downstream", Attributes: map[string]int64{"latency": 300, "jitter": 250}},
		{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": rng.Int64N(2000) + 20}},
		{Type: "limit_data", Stream: "upstream", Attributes: map[string]int64{"bytes": rng.Int64N(2000) + 20}},
		{}, // cut
	}[rng.IntN(7)]
	c.during(FaultOther, what, fmt.Sprintf("%s: %s %s for %v", what, toxic.Type, toxic.Stream, d.Round(time.Millisecond)), func() {
		for _, l := range links {
			if toxic.Type == "" {
				l.Cut()
			} else {
				l.Afflict(toxic)
			}
		}
		pause(ctx, d)
		for _, l := range links {
			if toxic.Type == "" {
				l.Restore()
			} else {
				l.Heal()
			}
		}
		pause(ctx, time.Second)
	})
}
