//go:build real

package real

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/shared/remote"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// failover is a Redis group, with the gateway's settings for it.
type failover struct {
	settings string // the gateway's
	client   goredis.UniversalClient
	fail     func()       // ends a primary permanently
	promoted func() error // nil when a replica has taken over
}

// TestRedisFailover loses a primary of a Redis with sentinels, and of a Redis cluster, under load. Every kind of target
// works before and after; nothing is dropped, and in the end Redis has the newest state of every vehicle. Data that only the
// lost primary had acknowledged is lost (Redis replicates asynchronously) until the vehicle sends again, as the fleet
// does.
func TestRedisFailover(t *testing.T) {
	kafka := harness.EmbeddedKafka(t)
	for name, start := range map[string]func(*testing.T) failover{"sentinel": withSentinel, "cluster": withCluster} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			g := harness.StartGateway(t, harness.Options{Kafka: kafka, RedisSettings: f.settings, Rules: withRule(t, kindsRule)})
			operator, ledger := g.OperatorToken(), filepath.Join(g.Dir, "ledger.txt")
			fleet := startFleet(t, g, "fleet", ledger, 100, 5)
			delivered := func(n int64) func() error {
				return func() error {
					lines, err := g.Ledger(operator)
					if err == nil && lines["redis"].Delivered < n {
						err = fmt.Errorf("%+v", lines["redis"])
					}
					return err
				}
			}
			check.Within(t, 30*time.Second, "messages in Redis", delivered(1500))
			everyKind(t, g, f.client)
			f.fail()
			began := time.Now()
			check.Within(t, 60*time.Second, "a replica to take over", f.promoted)
			promoted := time.Since(began)
			lines, err := g.Ledger(operator)
			check.OK(t, err)
			check.Within(t, 20*time.Second, "the gateway to find the new primary", func() error {
				now, err := g.Ledger(operator)
				if err == nil && now["redis"].Pending > 500 {
					err = fmt.Errorf("%+v", now["redis"])
				}
				return err
			})
			fmt.Printf("%s: promoted after %.1fs with %d pending, caught up %.1fs later\n", name, promoted.Seconds(),
				lines["redis"].Pending, (time.Since(began) - promoted).Seconds())
			check.Within(t, 20*time.Second, "writes to go on", delivered(lines["redis"].Received+1500))
			everyKind(t, g, f.client)
			harness.EndFleet(t, fleet)
			check.Within(t, time.Minute, "everything delivered", func() error { return g.Settled(operator) })
			if lines, err = g.Ledger(operator); err != nil || lines["redis"].DeadLettered != 0 || len(lines["redis"].Dropped) != 0 {
				t.Errorf("given up: %+v %v", lines["redis"], err)
			}
			acked, err := harness.ReadFleetLedger(ledger)
			check.OK(t, err)
			auditNewestIn(t, f.client, acked)
		})
	}
}

// TestRedisShardAway stops one shard of a Redis cluster with its replicas. Messages for the other shards are delivered
// as before; those for the stopped shard wait, also over a restart of the gateway, and are delivered when it is back.
func TestRedisShardAway(t *testing.T) {
	s := harness.StartRedisCluster(t)
	for _, n := range s.Nodes { // the others continue: the setting of operators who prefer a part to nothing
		n.Configure("cluster-require-full-coverage", "no")
	}
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: s.Addrs(), DisableIdentity: true, ClusterStateReloadInterval: time.Second})
	t.Cleanup(func() { _ = c.Close() })
	g := harness.StartGateway(t, harness.Options{
		Kafka: harness.EmbeddedKafka(t), RedisSettings: `cluster: true, addresses: ["` + strings.Join(s.Addrs(), `", "`) + `"]`,
	})
	operator, ledger := g.OperatorToken(), filepath.Join(g.Dir, "ledger.txt")
	runFleet(t, g, ledger, 3*time.Second, 100, "10")
	check.Within(t, time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	acked := readLedger(t, ledger)
	there := harness.Acked{} // vehicles of the other shards
	for vin, seqs := range acked {
		if remote.RedisSlot("veh:"+vin) > remote.RedisSlots/3 {
			there[vin] = seqs
		}
	}
	for _, n := range append(s.Nodes[3:], s.Nodes[0]) {
		n.Kill()
	}
	for range 2 {
		runFleet(t, g, ledger, 10*time.Second, 100, "50")
		for vin, seqs := range readLedger(t, ledger) {
			if there[vin] != nil {
				there[vin] = seqs
			}
		}
		check.Within(t, 20*time.Second, "the other shards go on", func() error { return newestIn(t, c, there) })
		lines, err := g.Ledger(operator)
		if err != nil || !lines["redis"].Balanced || lines["redis"].Pending == 0 {
			t.Errorf("ledger %+v, %v", lines["redis"], err)
		}
		if _, body, err := g.Get("/readyz", ""); err != nil || !strings.Contains(string(body), "redis slots/0-1023") {
			t.Errorf("/readyz does not name the slots: %s, %v", body, err)
		}
		g.Kill()
		g.Start()
	}
	for _, n := range append(s.Nodes[:1:1], s.Nodes[3:]...) {
		n.Restart()
	}
	check.Within(t, 2*time.Minute, "everything delivered", func() error { return g.Settled(operator) })
	if lines, err := g.Ledger(operator); err != nil || lines["redis"].DeadLettered != 0 || len(lines["redis"].Dropped) != 0 {
		t.Errorf("given up: %+v %v", lines["redis"], err)
	}
	auditNewestIn(t, c, readLedger(t, ledger))
}

func withSentinel(t *testing.T) failover {
	s := harness.StartRedisSentinel(t, 1)
	c := goredis.NewUniversalClient(&goredis.UniversalOptions{MasterName: s.Master, Addrs: []string{s.Sentinel}, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return failover{
		settings: fmt.Sprintf(`addresses: ["%s"], master: %s`, s.Sentinel, s.Master),
		client:   c, fail: s.Servers[0].Kill, promoted: s.Servers[1].Promoted,
	}
}

func withCluster(t *testing.T) failover {
	s := harness.StartRedisCluster(t)
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: s.Addrs(), DisableIdentity: true, ClusterStateReloadInterval: time.Second})
	t.Cleanup(func() { _ = c.Close() })
	return failover{
		settings: `cluster: true, addresses: ["` + strings.Join(s.Addrs(), `", "`) + `"]`,
		client:   c, fail: s.Nodes[0].Kill,
		promoted: func() error {
			for _, n := range s.Nodes[3:] {
				if n.Promoted() == nil {
					return nil
				}
			}
			return fmt.Errorf("no replica is a primary")
		},
	}
}

// kindsRule writes one message to every kind of Redis target.
const kindsRule = `
rules:
  - id: kinds
    from: ["v1/+/up/kinds"]
    to:
      - redis: {hash: "hash:${vin}", set: {n: payload.n}, newer_than: _at, ttl: 1h}
      - redis: {string: "string:${vin}", value: payload.n, ttl: 1h}
      - redis: {stream: "stream:${vin}", max_len: 10, ttl: 1h}
      - redis: {set_add: "set:${vin}", member: payload.n}
      - redis: {geo: "geo:${vin}", lon: payload.lon, lat: payload.lat}
      - redis: {expire: "geo:${vin}", ttl: 1h}
      - redis: {publish: "publish:${vin}"}
      - redis: {string: "gone:${vin}", value: payload.n}
      - redis: {delete: "gone:${vin}"}
`

// withRule returns a folder with the sample rules and one more file.
func withRule(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	check.OK(t, os.CopyFS(dir, os.DirFS(filepath.Join(harness.Root(), "configs", "rules"))))
	check.OK(t, os.WriteFile(filepath.Join(dir, "more.rules.yaml"), []byte(text), 0o600))
	return dir
}

// everyKind sends a message each from new vehicles, whose keys are in slots all over a cluster, and finds it in every
// kind of key.
func everyKind(t *testing.T, g *harness.Gateway, c goredis.UniversalClient) {
	t.Helper()
	ctx := t.Context()
	for i := range 6 {
		vin := scenario.NewVIN()
		v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
		if code := v.Send(t, "v1/"+vin+"/up/kinds", fmt.Sprintf(`{"n": %d, "lat": 31.2, "lon": 121.4}`, i)); code != 0 {
			t.Fatalf("PUBACK 0x%02x", code)
		}
		n := fmt.Sprint(i)
		check.Within(t, 20*time.Second, "every kind of key of "+vin, func() error {
			for what, got := range map[string]bool{
				"hash": c.HGet(ctx, "hash:"+vin, "n").Val() == n, "string": c.Get(ctx, "string:"+vin).Val() == n,
				"stream": c.XLen(ctx, "stream:"+vin).Val() == 1, "set": c.SIsMember(ctx, "set:"+vin, n).Val(),
				"geo": len(c.GeoPos(ctx, "geo:"+vin, vin).Val()) == 1, "life of hash": c.TTL(ctx, "hash:"+vin).Val() > 0,
				"life of stream": c.TTL(ctx, "stream:"+vin).Val() > 0, "life of geo": c.TTL(ctx, "geo:"+vin).Val() > 0,
				"deleted": c.Exists(ctx, "gone:"+vin).Val() == 0,
			} {
				if !got {
					return fmt.Errorf("%s is not as it must be", what)
				}
			}
			return nil
		})
	}
}
