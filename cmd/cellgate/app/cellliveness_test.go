package app

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/configs"
	"cellgate/test/check"
)

// TestListAfterAnOutage: after Redis was away, was flushed or lost its last writes, gateways that have not sent a heartbeat since are not
// taken for dead until they had the time to; one that has stopped since is.
func TestListAfterAnOutage(t *testing.T) {
	t.Parallel()
	const gateways = "cellgate:cell-1:gateways"
	expire := func(server *miniredis.Miniredis, l *liveness) {
		for _, node := range []string{"gw-2", "gw-3"} {
			_, rest, _ := strings.Cut(server.HGet(gateways, node), " ")
			server.HSet(gateways, node, "1 "+rest)
		}
		l.answered = l.answered.Add(-configs.CellTTL)
	}
	for name, outage := range map[string]func(*miniredis.Miniredis, *liveness){
		"away":    expire,
		"flushed": func(server *miniredis.Miniredis, _ *liveness) { server.FlushAll() },
		"an older state": func(server *miniredis.Miniredis, l *liveness) {
			expire(server, l)
			l.answered = time.Now()
			server.HSet("cellgate:cell-1:mark", "salt", "another")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := miniredis.RunT(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true})
			defer client.Close() //nolint:errcheck // only read
			store := storeAt(t, client)
			at := func(node string) *liveness {
				g := cell.Gateway{Node: node, Boot: "boot-of-" + node, Dir: node, Start: time.Now(), Mode: "several"}
				return &liveness{store: store, self: g, log: slog.New(slog.DiscardHandler), runs: func() string { return "{}" }}
			}
			beat := func(all ...*liveness) {
				for _, l := range all {
					check.OK(t, l.beat(t.Context(), check.Patience))
				}
			}
			one, two, three := at("gw-1"), at("gw-2"), at("gw-3")
			knows := func(when string, complete bool, want ...string) {
				t.Helper()
				if got := one.alive(); !slices.Equal(slices.Sorted(slices.Values(got)), want) || one.isComplete() != complete {
					t.Errorf("%s: %s live, complete: %v", when, got, one.isComplete())
				}
			}
			beat(two, three, one)
			knows("after the start", false, "gw-1", "gw-2", "gw-3")
			one.complete = time.Time{}
			outage(server, one)
			beat(one, one)
			knows("after the outage", false, "gw-1", "gw-2", "gw-3")
			beat(two, one)
			check.OK(t, two.leave(t.Context()))
			beat(one)
			knows("after a stop", false, "gw-1", "gw-3")
			one.complete = time.Now()
			beat(one)
			knows("after the time for a heartbeat", true, "gw-1")
		})
	}
}
