//go:build real || bench

package cells

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Cell is several gateways, their shared Redis and Kafka, and vehicles.
type Cell struct {
	Nodes []*Node
	Redis *Redis
	Kafka *harness.Kafka
	Cars  []*car

	t    *testing.T
	seed uint64
	// overlap is how long a vehicle may have two connections without a fault: one second, or more if other tests use
	// the processor.
	overlap time.Duration
	token   func() string
	// service returns a token that may send commands.
	service func() string
	work    sync.WaitGroup // goroutines of the cars
	charge  atomic.Int64   // battery charge of all vehicles
	failed  atomic.Int64   // failed CONNECTs

	mu     sync.Mutex
	faults []Fault
}

// Node is one of the gateways.
type Node struct {
	*harness.Gateway
	Name     string
	Door     string             // address for vehicles
	Vehicles *harness.Link      // link from vehicles
	View     *harness.RedisView // links to Redis
	up       atomic.Bool

	mu     sync.Mutex // guards the process
	wanted bool
}

// cellOptions configure a cell.
type cellOptions struct {
	gateways int
	redis    *Redis
	kafka    *harness.Kafka
	seed     uint64
	// measured omits the links between vehicles, gateways and Redis.
	measured bool
	// single starts one gateway with cell.gateways: single.
	single bool
}

const cellExtra = "log: {level: info}\npresence: {grace: 5s}\nlimits: {connect_rate: 0, messages_per_second: 0}\n"

// startCell starts the gateways of a cell, one after the other.
func startCell(t *testing.T, o cellOptions) *Cell {
	t.Helper()
	c := &Cell{t: t, Redis: o.redis, Kafka: o.kafka, seed: o.seed, overlap: 5 * time.Second}
	if os.Getenv("CELLS") == "full" {
		c.overlap = time.Second
	}
	c.charge.Store(50)
	for i := range o.gateways {
		n := &Node{Name: fmt.Sprintf("gw-%d", i+1)}
		if !o.measured {
			n.View = harness.NewRedisView(t, n.Name, o.redis.addresses()...)
		}
		g := harness.Options{
			Kafka: o.kafka, Node: n.Name, RedisSettings: o.redis.settings(n.View), Extra: cellExtra, Several: !o.single,
		}
		n.Gateway = harness.PrepareGateway(t, g)
		if n.Door = n.Lab; !o.measured {
			n.Vehicles = harness.NewLink(t, n.Name, n.Lab)
			n.Door = n.Vehicles.Addr
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, n := range c.Nodes {
		check.OK(t, n.start())
		c.supervise(n)
	}
	for _, n := range c.Nodes {
		check.Within(t, 2*time.Minute, n.Name+" takes commands", n.decides) // a new cell is created after a wait for gateways that remember one
	}
	c.token = sync.OnceValue(c.Nodes[0].OperatorToken)
	c.service = sync.OnceValue(func() string {
		return c.Nodes[0].Cellgate("token", "issue", "--config", c.Nodes[0].Config, "--service", "control", "--scope", "command:send,command:read", "--ttl", "12h")
	})
	c.token()
	c.service()
	return c
}

// supervise restarts a gateway that ended but should run, as a service manager does. A gateway ends if another one has
// its name; one that lost its disk is refused while its previous process counts as alive.
func (c *Cell) supervise(n *Node) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if n.fallen() {
				c.during(FaultOther, n.Name, n.Name+" ended by itself: "+n.Tail(1), func() { pause(ctx, 500*time.Millisecond) })
				n.again()
			}
			pause(ctx, 50*time.Millisecond)
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// fallen reports whether the gateway should run but has ended.
func (n *Node) fallen() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.wanted {
		return false
	}
	select {
	case <-n.Done():
		return true
	default:
		return false
	}
}

// again launches a gateway that should run and does not.
func (n *Node) again() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wanted {
		n.Launch()
	}
}

// down ends the gateway and keeps it down until start.
func (n *Node) down(end func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = false
	n.up.Store(false)
	end()
}

// start starts the gateway and waits until it serves.
func (n *Node) start() error {
	n.mu.Lock()
	n.wanted = true
	n.Launch()
	n.mu.Unlock()
	var last error
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if last = n.ready(); last == nil {
			n.up.Store(true)
			return nil
		}
	}
	return fmt.Errorf("%s does not start: %w", n.Name, last)
}

// signal sends the gateway a signal if it runs.
func (n *Node) signal(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.Done():
	default:
		n.Signal(sig)
	}
}

func (n *Node) ready() error {
	status, body, err := n.Get("/readyz", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("readyz %d: %s", status, body)
	}
	return err
}

// decides returns nil if the gateway accepts commands.
func (n *Node) decides() error {
	_, body, err := n.Get("/readyz", "")
	if err == nil && strings.Contains(string(body), "commands are refused") {
		err = fmt.Errorf("readyz: %s", body)
	}
	return err
}

// Token returns an operator's token, which the first gateway issued and all accept.
func (c *Cell) Token() string { return c.token() }

// pick selects a gateway like a load balancer: a random one, rarely one that is down.
func (c *Cell) pick(rng *rand.Rand) *Node {
	n := c.Nodes[rng.IntN(len(c.Nodes))]
	if !n.up.Load() && rng.IntN(5) > 0 {
		n = c.Nodes[rng.IntN(len(c.Nodes))]
	}
	return n
}

// addCars starts vehicles. They run until the returned function is called, at most until the test ends.
func (c *Cell) addCars(n int, h Habits) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var living sync.WaitGroup
	for i := range n {
		v := newCar(c, fmt.Sprintf("LTEST%012d", len(c.Cars)), c.seed+uint64(i), h)
		c.Cars = append(c.Cars, v)
		living.Add(1)
		go func() {
			defer living.Done()
			v.live(ctx)
		}()
	}
	stop = sync.OnceFunc(func() {
		cancel()
		living.Wait()
		c.work.Wait()
	})
	c.t.Cleanup(stop)
	return stop
}

// during records a fault that lasts until do returns and the cell has recovered.
func (c *Cell) during(kind, on, name string, do func()) {
	f := Fault{Kind: kind, On: on, Name: name, From: time.Now()}
	do()
	f.To = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, f)
}

// settle keeps all vehicles connected until nothing is left to send, then disconnects every second one.
func (c *Cell) settle(limit time.Duration, h Habits) {
	c.t.Helper()
	h.Settled, h.Telemetry = true, 0
	for _, v := range c.Cars {
		v.habits.Store(&h)
		v.wake()
	}
	c.await(limit, "vehicles connected, their results acknowledged", (*car).quiet)
	for i, v := range c.Cars {
		v.asleep.Store(i%2 == 0)
		v.wake()
	}
	c.await(limit, "every second vehicle asleep", (*car).quiet)
}

// await waits until a condition holds for every vehicle.
func (c *Cell) await(limit time.Duration, what string, holds func(*car) error) {
	c.t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var missing []error
		for _, v := range c.Cars {
			if err := holds(v); err != nil {
				missing = append(missing, err)
			}
		}
		if len(missing) == 0 {
			return
		}
		if time.Since(began) > limit {
			c.t.Errorf("%s: not within %v for %d vehicles: %v", what, limit, len(missing), errors.Join(missing[:min(3, len(missing))]...))
			return
		}
	}
}

// truth returns the gateway of every vehicle.
func (c *Cell) truth() map[string]string {
	all := map[string]string{}
	for _, v := range c.Cars {
		all[v.VIN] = ""
		if w := v.at.Load(); w != nil {
			all[v.VIN] = w.gateway.Name
		}
	}
	return all
}
