//go:build real || bench

package cells

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Redis is a cell's shared Redis: a sentinel group or a cluster.
type Redis struct {
	Servers  []*harness.RedisNode
	sentinel *harness.RedisSentinel // nil: a cluster or a single server
	cluster  bool
	pair     []int // by server of a cluster: the group of slots that it serves or follows
	t        *testing.T
}

func withSentinel(t *testing.T, replicas int) *Redis {
	t.Helper()
	s := harness.StartRedisSentinel(t, replicas)
	return &Redis{Servers: s.Servers, sentinel: s, t: t}
}

func withCluster(t *testing.T) *Redis {
	t.Helper()
	c := harness.StartRedisCluster(t)
	r := &Redis{Servers: c.Nodes, cluster: true, pair: []int{0, 1, 2, 0, 0, 0}, t: t}
	for i := range 3 {
		replica := r.replicaOf(r.Servers[i])
		if replica == nil {
			t.Fatalf("%s has no replica", r.Servers[i].Addr)
		}
		r.pair[slices.Index(r.Servers, replica)] = i
	}
	return r
}

// alone returns a single server that syncs every write to disk before it answers.
func alone(t *testing.T) *Redis {
	t.Helper()
	n := harness.DurableRedis(t)
	r := &Redis{Servers: []*harness.RedisNode{n}, t: t}
	r.say(n, "CONFIG", "SET", "appendfsync", "always")
	return r
}

func (r *Redis) say(n *harness.RedisNode, args ...string) {
	r.t.Helper()
	if out, err := n.CLI(args...); err != nil || strings.HasPrefix(out, "ERR") {
		r.t.Errorf("redis %s: %v: %s, %v", n.Addr, args, out, err)
	}
}

// addresses returns the addresses of all servers, then the sentinel's.
func (r *Redis) addresses() []string {
	var all []string
	for _, n := range r.Servers {
		all = append(all, n.Addr)
	}
	if r.sentinel != nil {
		all = append(all, r.sentinel.Sentinel)
	}
	return all
}

// settings returns a gateway's redis section, for a view or for direct access.
func (r *Redis) settings(v *harness.RedisView) string {
	addrs := r.addresses()
	if v != nil {
		for i, l := range v.Links {
			addrs[i] = l.Addr
		}
	}
	switch {
	case r.sentinel != nil:
		return fmt.Sprintf("addresses: [%q], master: %s, replicas: %d, timeout: 2s", addrs[len(addrs)-1], r.sentinel.Master, len(r.Servers)-1)
	case r.cluster:
		return fmt.Sprintf(`cluster: true, addresses: ["%s"], replicas: 1, timeout: 2s`, strings.Join(addrs, `", "`))
	}
	return fmt.Sprintf("addresses: [%q], timeout: 2s", addrs[0])
}

// role returns the role of a server.
func (r *Redis) role(n *harness.RedisNode) string {
	out, err := n.CLI("ROLE")
	if err != nil {
		return "gone"
	}
	role, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(role)
}

// primary returns a primary. In a cluster, it returns one with a connected replica.
func (r *Redis) primary() (*harness.RedisNode, error) {
	if r.sentinel != nil {
		out, err := r.atSentinel("GET-MASTER-ADDR-BY-NAME", r.sentinel.Master)
		if err != nil {
			return nil, err
		}
		lines := strings.Fields(out)
		for _, n := range r.Servers {
			if _, port, _ := net.SplitHostPort(n.Addr); len(lines) == 2 && lines[1] == port && r.role(n) == "master" {
				return n, nil
			}
		}
		return nil, fmt.Errorf("the sentinel names %v", lines)
	}
	for _, n := range r.Servers {
		if r.role(n) == "master" && (!r.cluster || r.replicaOf(n) != nil) {
			return n, nil
		}
	}
	return nil, errors.New("no primary")
}

func (r *Redis) atSentinel(args ...string) (string, error) {
	return harness.AskRedis(r.t, r.sentinel.Sentinel, append([]string{"SENTINEL"}, args...)...)
}

// keepsPrimary makes the sentinel promote no replica because a busy machine has stopped the primary for some seconds.
func (r *Redis) keepsPrimary() {
	r.t.Helper()
	if out, err := r.atSentinel("SET", r.sentinel.Master, "down-after-milliseconds", "600000"); err != nil || !strings.HasPrefix(out, "OK") {
		r.t.Fatalf("sentinel: %q, %v", out, err)
	}
}

// replicaOf returns a connected replica of the server.
func (r *Redis) replicaOf(p *harness.RedisNode) *harness.RedisNode {
	_, port, _ := net.SplitHostPort(p.Addr)
	for _, n := range r.Servers {
		if out, err := n.CLI("INFO", "replication"); err == nil && strings.Contains(out, "master_port:"+port) && strings.Contains(out, "master_link_status:up") {
			return n
		}
	}
	return nil
}

// whole returns nil if every server runs and every primary has its replicas.
func (r *Redis) whole() error {
	masters := 0
	for _, n := range r.Servers {
		switch role := r.role(n); role {
		case "master":
			masters++
		case "slave":
			if err := n.Follows(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is %s", n.Addr, role)
		}
	}
	want := 1
	if r.cluster {
		want = 3
		if out, err := r.Servers[0].CLI("CLUSTER", "INFO"); err != nil || !strings.Contains(out, "cluster_state:ok") {
			return fmt.Errorf("cluster: %s %w", out, err)
		}
	}
	if masters != want {
		return fmt.Errorf("%d primaries", masters)
	}
	if r.sentinel != nil {
		if _, err := r.primary(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Redis) awaitWhole(what string) {
	r.t.Helper()
	check.Within(r.t, 90*time.Second, "Redis whole after "+what, r.whole)
}

// cutOff disconnects a primary's replicas until it is restarted or reunite is called.
func (r *Redis) cutOff(p *harness.RedisNode) {
	r.say(p, "ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
	r.say(p, "CLIENT", "KILL", "TYPE", "replica")
}

func (r *Redis) reunite(p *harness.RedisNode) { r.say(p, "ACL", "SETUSER", "default", "+@all") }

// takeOver promotes a replica of a living primary and waits for it.
func (r *Redis) takeOver(ctx context.Context, p *harness.RedisNode) error {
	if r.cluster {
		heir := r.replicaOrFormer(p)
		if heir == nil {
			return errors.New("no replica")
		}
		r.say(heir, "CLUSTER", "FAILOVER", "TAKEOVER")
		return r.until(ctx, func() error { return heir.Promoted() })
	}
	if err := r.until(ctx, func() error {
		out, err := r.atSentinel("FAILOVER", r.sentinel.Master)
		if err == nil && out != "OK" {
			err = errors.New(out)
		}
		return err
	}); err != nil {
		return err
	}
	return r.until(ctx, func() error {
		now, err := r.primary()
		if err == nil && now == p {
			err = errors.New("the primary is as before")
		}
		return err
	})
}

// replicaOrFormer returns a replica of a primary, connected or not.
func (r *Redis) replicaOrFormer(p *harness.RedisNode) *harness.RedisNode {
	_, port, _ := net.SplitHostPort(p.Addr)
	for _, n := range r.Servers {
		if out, err := n.CLI("INFO", "replication"); err == nil && strings.Contains(out, "master_port:"+port) {
			return n
		}
	}
	return nil
}

// heirs returns the servers that may replace a primary: in a cluster its replicas, which have its slots' data.
func (r *Redis) heirs(p *harness.RedisNode) []*harness.RedisNode {
	var all []*harness.RedisNode
	for i, n := range r.Servers {
		if n != p && (!r.cluster || r.pair[i] == r.pairOf(p)) {
			all = append(all, n)
		}
	}
	return all
}

// primaryOf returns the primary of the slots that a server serves or follows.
func (r *Redis) primaryOf(p *harness.RedisNode) (*harness.RedisNode, error) {
	for i, n := range r.Servers {
		if r.pair[i] == r.pairOf(p) && r.role(n) == "master" {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no primary has the slots of %s", p.Addr)
}

func (r *Redis) pairOf(p *harness.RedisNode) int { return r.pair[slices.Index(r.Servers, p)] }

// until waits up to 30 s for a condition.
func (r *Redis) until(ctx context.Context, holds func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
