package spread_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/auth"
	"cellgate/auth/spread"
	"cellgate/configs"
	"cellgate/configs/authority"
	"cellgate/test/check"
)

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func entry(i int) auth.Revocation {
	return auth.Revocation{TokenID: fmt.Sprintf("t%05d", i), At: day, Until: day.Add(time.Duration(i) * time.Second)}
}

func newStore(t *testing.T, addr, cell string) *spread.Redis {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second})
	t.Cleanup(func() { _ = client.Close() })
	return spread.NewRedis(client, "cellgate:revocations", cell)
}

func ids(entries []auth.Revocation) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.TokenID
	}
	slices.Sort(out)
	return out
}

func TestSince(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStore(t, miniredis.RunT(t).Addr(), "a")
	got, c, err := s.Since(ctx, auth.StoreCursor{})
	if err != nil || len(got) != 0 || c != (auth.StoreCursor{}) {
		t.Fatalf("empty: %v %v %v", got, c, err)
	}
	const n = 2500 // more than two pages
	var all []auth.Revocation
	for i := range n {
		all = append(all, entry(i))
	}
	for range 2 { // adding again changes nothing
		for part := range slices.Chunk(all, 500) {
			check.OK(t, s.Add(ctx, part))
		}
	}
	got, c, err = s.Since(ctx, c)
	if err != nil || !slices.Equal(ids(got), ids(all)) || c.Version != n || c.Epoch == "" {
		t.Fatalf("%d entries, %v, %v", len(got), c, err)
	}
	if got, again, err := s.Since(ctx, c); err != nil || len(got) != 0 || again != c {
		t.Fatalf("nothing new: %d %v %v", len(got), again, err)
	}
	check.OK(t, s.Add(ctx, []auth.Revocation{entry(9999)}))
	if got, _, err := s.Since(ctx, c); err != nil || len(got) != 1 || got[0] != entry(9999) {
		t.Fatalf("%v %v", got, err)
	}
	check.OK(t, s.Prune(ctx, day.Add(2000*time.Second)))
	if got, _, err := s.Since(ctx, auth.StoreCursor{}); err != nil || len(got) != 501 {
		t.Fatalf("after prune: %d %v", len(got), err)
	}
}

func TestCellsAreApart(t *testing.T) {
	t.Parallel()
	srv := miniredis.RunT(t)
	a, b := newStore(t, srv.Addr(), "a"), newStore(t, srv.Addr(), "b")
	check.OK(t, a.Add(t.Context(), []auth.Revocation{entry(1)}))
	if got, _, err := b.Since(t.Context(), auth.StoreCursor{}); err != nil || len(got) != 0 {
		t.Fatalf("%v %v", got, err)
	}
}

func TestLostData(t *testing.T) {
	t.Parallel()
	srv := miniredis.RunT(t)
	s := newStore(t, srv.Addr(), "a")
	check.OK(t, s.Add(t.Context(), []auth.Revocation{entry(1), entry(2)}))
	_, c, err := s.Since(t.Context(), auth.StoreCursor{})
	check.OK(t, err)
	// After a failover to a replica without the last write, the version is below the reader's.
	_, err = srv.ZRem("{cellgate:revocations:a}:log", mustMember(t, srv))
	check.OK(t, err)
	srv.HSet("{cellgate:revocations:a}:meta", "version", "1")
	_, next, err := s.Since(t.Context(), c)
	if err != nil || next.Epoch == c.Epoch {
		t.Fatalf("a loss is not told: %v %v", next, err)
	}
	srv.FlushAll()
	if _, flushed, err := s.Since(t.Context(), next); err != nil || flushed.Epoch == next.Epoch {
		t.Fatalf("a flush is not told: %v %v", flushed, err)
	}
	// Entries that are not the JSON of a revocation are skipped.
	check.OK(t, s.Add(t.Context(), []auth.Revocation{entry(3)}))
	_, err = srv.ZAdd("{cellgate:revocations:a}:log", 0.5, "{broken")
	check.OK(t, err)
	if got, _, err := s.Since(t.Context(), auth.StoreCursor{}); err != nil || len(got) != 1 {
		t.Fatalf("%v %v", got, err)
	}
}

// mustMember returns the member with the highest version.
func mustMember(t *testing.T, srv *miniredis.Miniredis) string {
	t.Helper()
	members, err := srv.ZMembers("{cellgate:revocations:a}:log")
	if err != nil || len(members) == 0 {
		t.Fatal(err)
	}
	return members[len(members)-1]
}

// gateway is an Authority on its own directory that shares a store.
func gateway(t *testing.T, dir string, store auth.RevocationStore) *auth.Authority {
	t.Helper()
	c := authority.Config(configs.Default())
	c.Dir, c.Cell, c.Issuer, c.Revocations, c.Poll = dir, "a", "cellgate/a", store, 10*time.Millisecond
	a, err := auth.Open(c)
	check.OK(t, err)
	t.Cleanup(func() { check.Ended(t, a.Close) })
	return a
}

// TestGateways checks that a revocation reaches the other gateway, its watchers and its disk. With Redis down both
// continue, keep their entries across a restart, and exchange them when an empty Redis is back.
func TestGateways(t *testing.T) {
	t.Parallel()
	srv := miniredis.RunT(t)
	addr := srv.Addr()
	dirA, dirB := t.TempDir(), t.TempDir()
	a := gateway(t, dirA, newStore(t, addr, "a"))
	b := gateway(t, dirB, newStore(t, addr, "a"))
	told := make(chan bool, 64)
	b.WatchEnded(func(ended func(auth.Identity) error) {
		told <- errors.Is(ended(auth.Identity{TokenID: "one"}), auth.ErrRevoked)
	})
	_, err := a.Revoke(auth.Revocation{TokenID: "one"}, auth.Caller{})
	check.OK(t, err)
	if !<-told {
		t.Fatal("the other gateway's watcher is not told")
	}
	srv.Close()
	if _, err := a.Revoke(auth.Revocation{TokenID: "two"}, auth.Caller{}); err != nil {
		t.Fatalf("with Redis down: %v", err)
	}
	if !errors.Is(a.Ended(auth.Identity{TokenID: "two"}), auth.ErrRevoked) {
		t.Fatal("not in force")
	}
	check.Ended(t, b.Close)
	again := gateway(t, dirB, newStore(t, addr, "a"))
	if !errors.Is(again.Ended(auth.Identity{TokenID: "one"}), auth.ErrRevoked) {
		t.Fatal("a restart with Redis down forgot what was learned")
	}
	_, err = again.Revoke(auth.Revocation{TokenID: "three"}, auth.Caller{})
	check.OK(t, err)
	check.OK(t, srv.Restart())
	srv.FlushAll()
	check.Eventually(t, "both know everything", func() bool {
		return errors.Is(again.Ended(auth.Identity{TokenID: "two"}), auth.ErrRevoked) && errors.Is(a.Ended(auth.Identity{TokenID: "three"}), auth.ErrRevoked)
	})
	check.Eventually(t, "the store has everything again", func() bool {
		got, _, err := newStore(t, addr, "a").Since(t.Context(), auth.StoreCursor{})
		return err == nil && slices.Equal(ids(got), []string{"one", "three", "two"})
	})
}
