//go:build real

package cells

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/model"
)

// TestCellScripts runs every transition of the model of several gateways against the scripts in a real Redis.
func TestCellScripts(t *testing.T) {
	all, err := model.Transitions(model.Replayed())
	check.OK(t, err)
	addr, _ := harness.Redis(t)
	client := cellClient(t, addr)
	b, err := model.NewBridge(t.Context(), client)
	check.OK(t, err)
	t.Cleanup(func() { _ = b.Close() })
	for _, one := range all {
		check.OK(t, b.Replay(t.Context(), one))
	}
	fmt.Printf("%d transitions\n", len(all))
}

func cellClient(t *testing.T, addr string) *goredis.Client {
	c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1, DisableIdentity: true, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// store is a store on one server.
func store(t *testing.T, c goredis.UniversalClient, replicas int) *cell.Store {
	t.Helper()
	s, err := cell.NewStore(c, "cell-1", cell.Confirmation{Replicas: replicas, Wait: time.Second}, time.Hour)
	check.OK(t, err)
	return s
}

// begin has gw-1, which remembers nothing, start the cell.
func begin(t *testing.T, s *cell.Store, slot int) {
	t.Helper()
	if j, err := s.Join(t.Context(), slot, "gw-1", cell.Memory{}, "", true); err != nil || j.Verdict != cell.OK {
		t.Fatalf("beginning the cell: %+v %v", j, err)
	}
}

func offered(vin, id string) cell.Offered {
	return cell.Offered{VIN: vin, ID: id, Digest: "d", TTL: time.Minute, MaxOpen: 10, Fields: map[string]string{"name": "unlock", "payload": "{}"}}
}

// redisSay runs a command that must succeed.
func redisSay(t *testing.T, c *goredis.Client, args ...any) {
	t.Helper()
	if err := c.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// pair returns a primary with a replica that accept any command of the test.
func pair(t *testing.T) (primary, replica *goredis.Client) {
	t.Helper()
	a, _ := harness.Redis(t)
	b, _ := harness.Redis(t)
	primary, replica = cellClient(t, a), cellClient(t, b)
	redisSay(t, primary, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	redisSay(t, replica, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	follow(t, replica, primary)
	return primary, replica
}

func follow(t *testing.T, replica, primary *goredis.Client) {
	t.Helper()
	host, primaryPort, _ := strings.Cut(primary.Options().Addr, ":")
	_, port, _ := strings.Cut(replica.Options().Addr, ":")
	redisSay(t, replica, "REPLICAOF", host, primaryPort)
	check.Within(t, check.Patience, "the replica to follow", func() error {
		// The primary streams and counts acknowledgements only after the replica has reported.
		if info := primary.Info(t.Context(), "replication").Val(); !strings.Contains(info, "port="+port) || !strings.Contains(info, "state=online") {
			return errors.New(info)
		}
		return nil
	})
}

// TestCellConfirmation checks that nothing is confirmed that the replica does not have: what scripts wrote, what they
// only read, and what a server wrote before it was demoted and promoted again.
func TestCellConfirmation(t *testing.T) {
	primary, replica := pair(t)
	s := store(t, primary, 1)
	begin(t, s, 0)
	if a, err := s.Accept(t.Context(), offered("V1", "c1")); err != nil || a.Verdict != cell.OK {
		t.Fatalf("%+v %v", a, err)
	}
	redisSay(t, replica, "REPLICAOF", "NO", "ONE") // promoted without the primary's knowledge: split brain
	if a, err := s.Cancel(t.Context(), "V1", "c1"); !errors.Is(err, cell.ErrUnconfirmed) {
		t.Errorf("a cancel at a primary without its replica: %+v %v", a, err)
	}
	if a, err := s.Look(t.Context(), "V1", "c1"); !errors.Is(err, cell.ErrUnconfirmed) || !strings.Contains(err.Error(), "after 100ms") {
		t.Errorf("a look at what nobody has confirmed: %+v %v", a, err)
	}
	if a, err := s.Cancel(t.Context(), "V1", "c1"); !errors.Is(err, cell.ErrUnconfirmed) {
		t.Errorf("a refusal that tells what nobody has confirmed: %+v %v", a, err)
	}
	other := store(t, replica, 0)
	if a, err := other.Look(t.Context(), "V1", "c1"); err != nil || a.Verdict != cell.Closed {
		t.Errorf("at a server that was promoted: %+v %v", a, err)
	}
	follow(t, primary, replica)
	redisSay(t, primary, "REPLICAOF", "NO", "ONE")
	follow(t, replica, primary)
	if a, err := s.Look(t.Context(), "V1", "c1"); err != nil || a.Verdict != cell.Closed {
		t.Errorf("at a server that was demoted and promoted: %+v %v", a, err)
	}
	reopen(t, s, 0)
	if a, err := s.Look(t.Context(), "V1", "c1"); err != nil || a.Record.State != "queued" {
		t.Errorf("the cancel of the time when it was alone: %+v %v", a, err)
	}
}

// offers returns commands as a gateway reads them from its disk.
func offers(all []cell.Record) iter.Seq2[cell.Record, error] {
	return func(yield func(cell.Record, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// reopen has the only member return with what it remembers.
func reopen(t *testing.T, s *cell.Store, slot int, remembered ...cell.Record) {
	t.Helper()
	m := cell.Memory{Remembers: true, Gen: 1, Members: []string{"gw-1"}}
	s.Rejoin(t.Context(), "gw-1", []cell.Offering{{Slot: slot, Memory: m, Remembered: offers(remembered)}}, false, func(all map[int]cell.Joined, err error) bool {
		if err != nil || all[slot].Verdict != cell.OK {
			t.Fatalf("joining again: %+v %v", all, err)
		}
		return true
	})
}

// TestCellFlushed checks that a Redis that was flushed or restarted counts as another one.
func TestCellFlushed(t *testing.T) {
	node := harness.DurableRedis(t)
	c := cellClient(t, node.Addr)
	s := store(t, c, 0)
	begin(t, s, 0)
	accepted, err := s.Accept(t.Context(), offered("V1", "c1"))
	check.OK(t, err)
	redisSay(t, c, "FLUSHALL")
	if a, err := s.Cancel(t.Context(), "V1", "c1"); err != nil || a.Verdict != cell.Closed {
		t.Errorf("after a flush: %+v %v", a, err)
	}
	reopen(t, s, 0, accepted.Record)
	if a, err := s.Look(t.Context(), "V1", "c1"); err != nil || a.Record.State != "queued" || a.Record.Fields["name"] != "unlock" {
		t.Errorf("offered: %+v %v", a, err)
	}
	node.Kill()
	if _, err := s.Look(t.Context(), "V1", "c1"); !errors.Is(err, cell.ErrAway) {
		t.Errorf("while Redis is away: %v", err)
	}
	node.Restart()
	check.Within(t, check.Patience, "Redis", func() error { return c.Ping(context.Background()).Err() })
	if a, err := s.Look(t.Context(), "V1", "c1"); err != nil || a.Verdict != cell.Closed {
		t.Errorf("after a restart: %+v %v", a, err)
	}
}

// TestCellInCluster runs the scripts on vehicles in all slots of a Redis cluster.
func TestCellInCluster(t *testing.T) {
	group := harness.StartRedisCluster(t)
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: group.Addrs(), MaxRetries: -1, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	s := store(t, c, 1)
	for i := range 20 {
		vin, id := fmt.Sprintf("V}%d", i), fmt.Sprintf("c%d", i)
		if a, err := s.Accept(t.Context(), offered(vin, id)); err != nil || a.Verdict != cell.Closed {
			t.Fatalf("before the cell began: %+v %v", a, err)
		}
		for _, slot := range []int{s.Slot(vin), s.IDSlot(id)} {
			begin(t, s, slot)
		}
		conn := cell.Connection{Node: "gw-1", Boot: "b", Number: 1}
		got, err := s.Claim(t.Context(), vin, conn, time.Second, true)
		if err != nil || got.Verdict != cell.OK {
			t.Fatalf("claim: %+v %v", got, err)
		}
		conn.Epoch = got.Epoch
		for _, step := range []func() (cell.Answer, error){
			func() (cell.Answer, error) { return s.Reserve(t.Context(), vin, id, "d", time.Minute) },
			func() (cell.Answer, error) { return s.Accept(t.Context(), offered(vin, id)) },
			func() (cell.Answer, error) { return s.Send(t.Context(), vin, id, conn) },
			func() (cell.Answer, error) {
				return s.Report(t.Context(), vin, id, cell.Said{Status: "succeeded", At: time.Now(), Payload: []byte("{}")})
			},
		} {
			if a, err := step(); err != nil || a.Verdict != cell.OK {
				t.Fatalf("%+v %v", a, err)
			}
		}
	}
}

// TestCellSweep: a sweep of a Redis cluster finds each slot's open commands, also while one server is away.
func TestCellSweep(t *testing.T) {
	group := harness.StartRedisCluster(t)
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: group.Addrs(), MaxRetries: -1, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	s := store(t, c, 1)
	want := map[int][]cell.Name{}
	for i := range 20 {
		vin, id := fmt.Sprintf("V%d", i), fmt.Sprintf("c%d", i)
		for _, slot := range []int{s.Slot(vin), s.IDSlot(id)} {
			begin(t, s, slot)
		}
		if a, err := s.Accept(t.Context(), offered(vin, id)); err != nil || a.Verdict != cell.OK {
			t.Fatalf("%+v %v", a, err)
		}
		want[s.Slot(vin)] = append(want[s.Slot(vin)], cell.Name{VIN: vin, ID: id})
	}
	sweep := func() (away int) {
		t.Helper()
		all := make([]cell.Sweep, s.Slots())
		for slot := range all {
			all[slot].Slot = slot
		}
		s.Sweep(t.Context(), all, 10, -time.Hour)
		for slot, got := range all {
			switch expected := want[slot]; {
			case got.Err != nil:
				away++
			case !slices.Equal(got.Due, expected) || !slices.Equal(got.Open, expected):
				t.Errorf("slot %d: %+v, not %v", slot, got, expected)
			}
		}
		return away
	}
	if away := sweep(); away > 0 {
		t.Errorf("%d slots not read", away)
	}
	group.Nodes[0].Kill()
	if away := sweep(); away == 0 || away > s.Slots()/2 {
		t.Errorf("%d of %d slots not read without one of three servers", away, s.Slots())
	}
}

// TestCellIDAfterAFlush: an id stays its command's when only the server of the Redis cluster loses everything that has the id, and
// not the one that has the vehicle.
func TestCellIDAfterAFlush(t *testing.T) {
	group := harness.StartRedisCluster(t)
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: group.Addrs(), MaxRetries: -1, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	s := store(t, c, 1)
	shard := func(key string) *goredis.Client {
		one, err := c.MasterForKey(t.Context(), key)
		check.OK(t, err)
		return one
	}
	const vin = "V1"
	id := "c0"
	for i := 1; shard("{"+id+"}") == shard("{"+vin+"}"); i++ {
		id = fmt.Sprintf("c%d", i)
	}
	begin(t, s, s.Slot(vin))
	begin(t, s, s.IDSlot(id))
	reserve := func(vin string) cell.Verdict {
		a, err := s.Reserve(t.Context(), vin, id, "d", time.Minute)
		check.OK(t, err)
		return a.Verdict
	}
	if v := reserve(vin); v != cell.OK {
		t.Fatal(v)
	}
	accepted, err := s.Accept(t.Context(), offered(vin, id))
	check.OK(t, err)
	redisSay(t, shard("{"+id+"}"), "FLUSHALL")
	if v := reserve("V2"); v != cell.Closed {
		t.Errorf("before the id is offered: %s", v)
	}
	reopen(t, s, s.IDSlot(id), accepted.Record)
	if v := reserve("V2"); v != cell.Conflict {
		t.Errorf("another vehicle's command with the id: %s", v)
	}
	if v := reserve(vin); v != cell.OK {
		t.Errorf("the same command again: %s", v)
	}
	if a, err := s.Look(t.Context(), vin, id); err != nil || a.Record.State != "queued" {
		t.Errorf("the command, of which nothing was lost: %+v %v", a, err)
	}
}

// TestCellCheck checks that a Redis that may lose acknowledged data is refused, with the remedy.
func TestCellCheck(t *testing.T) {
	addr, _ := harness.Redis(t)
	c := cellClient(t, addr)
	s := store(t, c, 0)
	refused := func(want string) {
		t.Helper()
		if err := s.Check(t.Context()); !errors.Is(err, cell.ErrUnfit) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("set appendonly yes and appendfsync always")
	redisSay(t, c, "CONFIG", "SET", "appendonly", "yes")
	refused("appendfsync everysec")
	redisSay(t, c, "CONFIG", "SET", "appendfsync", "always")
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	redisSay(t, c, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	refused("set it to noeviction")
	primary, _ := pair(t)
	s = store(t, primary, 0)
	refused("any of them may be promoted, so make it 1")
	if err := store(t, primary, 1).Check(t.Context()); err != nil {
		t.Error(err)
	}
}
