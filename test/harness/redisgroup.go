package harness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
)

// RedisSentinel is a primary, replicas, and a sentinel that promotes a replica after the primary is unreachable for two
// seconds. With less, a busy machine would cause failovers.
type RedisSentinel struct {
	Master   string       // the group's name
	Sentinel string       // the sentinel's address
	Servers  []*RedisNode // the first is the initial primary
}

// StartRedisSentinel starts the group and waits until the replicas follow the primary.
func StartRedisSentinel(t testing.TB, replicas int) *RedisSentinel {
	t.Helper()
	g := &RedisSentinel{Master: "cell", Servers: []*RedisNode{DurableRedis(t)}}
	host, port, _ := net.SplitHostPort(g.Servers[0].Addr)
	for range replicas {
		n := newRedisNode(t, "--save", "", "--appendonly", "yes", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
		n.Restart()
		g.Servers = append(g.Servers, n)
		check.Within(t, 20*time.Second, "replica follows", n.Follows)
	}
	watcher := newRedisNode(t)
	_, own, _ := net.SplitHostPort(watcher.Addr)
	conf := filepath.Join(watcher.dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %s 2000\nsentinel failover-timeout %s 5000\n",
		own, watcher.dir, g.Master, host, port, g.Master, g.Master)
	check.OK(t, os.WriteFile(conf, []byte(text), 0o600))
	bin, err := exec.LookPath("redis-server")
	check.OK(t, err)
	p := StartProcess(t, "sentinel", watcher.dir, nil, bin, conf, "--sentinel")
	AwaitTCP(t, watcher.Addr, 10*time.Second, p)
	g.Sentinel = watcher.Addr
	check.Within(t, 30*time.Second, "sentinel knows the replicas", func() error {
		return redisSays(t, g.Sentinel, fmt.Sprintf("slaves=%d", replicas), "INFO", "sentinel")
	})
	return g
}

// RedisCluster is a cluster of three masters with one replica each.
type RedisCluster struct {
	Nodes []*RedisNode // initial masters first

	t testing.TB
}

// StartRedisCluster starts the six servers and waits until every slot is served.
func StartRedisCluster(t testing.TB) *RedisCluster {
	t.Helper()
	c := &RedisCluster{t: t}
	create := []string{"--cluster", "create"}
	for range 6 {
		n := newRedisNode(t, "--save", "", "--appendonly", "yes", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
			"--cluster-port", fmt.Sprint(FreePort(t)), "--repl-diskless-sync-delay", "0")
		n.Restart()
		c.Nodes = append(c.Nodes, n)
		create = append(create, n.Addr)
	}
	if out, err := AskRedis(t, c.Nodes[0].Addr, append(create, "--cluster-replicas", "1", "--cluster-yes")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.AwaitServed(30 * time.Second)
	for _, n := range c.Nodes[3:] {
		check.Within(t, 30*time.Second, "replica follows", n.Follows)
	}
	return c
}

// Addrs returns the addresses of all nodes.
func (c *RedisCluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// AwaitServed waits until every running node reports that all slots are served.
func (c *RedisCluster) AwaitServed(limit time.Duration) {
	c.t.Helper()
	check.Within(c.t, limit, "cluster served", func() error {
		for _, n := range c.Nodes {
			select {
			case <-n.Done():
				continue
			default:
			}
			if err := redisSays(c.t, n.Addr, "cluster_state:ok", "CLUSTER", "INFO"); err != nil {
				return err
			}
		}
		return nil
	})
}

// Promoted returns nil if the former replica is now a primary.
func (n *RedisNode) Promoted() error {
	return redisSays(n.t, n.Addr, "role:master", "INFO", "replication")
}

// Follows returns nil if the node is a replica connected to its primary.
func (n *RedisNode) Follows() error {
	return redisSays(n.t, n.Addr, "master_link_status:up", "INFO", "replication")
}

// CLI runs redis-cli against the node.
func (n *RedisNode) CLI(args ...string) (string, error) { return AskRedis(n.t, n.Addr, args...) }

var errNotYet = errors.New("not yet")

// redisSays runs a command and returns nil if the reply contains want.
func redisSays(t testing.TB, addr, want string, args ...string) error {
	out, err := AskRedis(t, addr, args...)
	if err != nil {
		return err
	}
	if !strings.Contains(out, want) {
		return fmt.Errorf("%w: %s does not say %s:\n%s", errNotYet, addr, want, out)
	}
	return nil
}
