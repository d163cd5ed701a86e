//go:build real

package cells

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestClusterOpens checks that gateways that start one after another open all slots of a Redis cluster in few
// pipelines, also after the failover of a shard. It prints the time.
func TestClusterOpens(t *testing.T) {
	group := harness.StartRedisCluster(t)
	c := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: group.Addrs(), MaxRetries: -1, DisableIdentity: true, ReadTimeout: 2 * time.Second})
	t.Cleanup(func() { _ = c.Close() })
	s := store(t, c, 1)
	memory := map[string]map[int]cell.Memory{"gw-1": {}, "gw-2": {}}
	join := func(node string, begins bool) map[cell.Verdict]int {
		began, pipelines := time.Now(), 0
		all := make([]cell.Offering, s.Slots())
		for slot := range all {
			all[slot] = cell.Offering{Slot: slot, Memory: memory[node][slot], Remembered: offers(nil)}
		}
		found := map[cell.Verdict]int{}
		s.Rejoin(t.Context(), node, all, begins, func(joined map[int]cell.Joined, err error) bool {
			pipelines++
			if err != nil {
				t.Error(err)
			}
			for slot, j := range joined {
				if found[j.Verdict]++; j.Verdict == cell.OK {
					memory[node][slot] = j.Memory()
				}
			}
			return true
		})
		fmt.Printf("%s: %v in %d pipelines, %v\n", node, found, pipelines, time.Since(began).Round(time.Millisecond))
		if pipelines > 140 {
			t.Errorf("%d pipelines", pipelines)
		}
		return found
	}
	for _, one := range []struct {
		node   string
		begins bool
	}{{"gw-1", true}, {"gw-2", false}, {"gw-1", false}} {
		if found := join(one.node, one.begins); found[cell.OK] != s.Slots() {
			t.Fatalf("%+v: %v", one, found)
		}
	}
	if out, err := group.Nodes[3].CLI("CLUSTER", "FAILOVER"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	check.Within(t, check.Patience, "the failover", group.Nodes[3].Promoted)
	check.Within(t, check.Patience, "the former primary to follow", func() error {
		if out, err := group.Nodes[3].CLI("INFO", "replication"); err != nil || !strings.Contains(out, "state=online") {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	check.Within(t, check.Patience, "the client to know the new primary", func() error {
		c.ReloadState(t.Context())
		for slot := range s.Slots() {
			if one, err := c.MasterForKey(t.Context(), "{"+fmt.Sprint(slot)+"}"); err != nil || one.Options().Addr == group.Nodes[3].Addr {
				return err
			}
		}
		return errors.New("not yet")
	})
	if found := join("gw-1", false); found[cell.Waiting] == 0 || found[cell.Waiting]+found[cell.OK] != s.Slots() {
		t.Errorf("before the other one has offered: %v", found)
	}
	if found := join("gw-2", false); found[cell.OK] != s.Slots() {
		t.Errorf("when both have offered: %v", found)
	}
}
