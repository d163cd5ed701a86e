package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
)

func (f *fixture) refusedFor(t *testing.T, token string, want error) {
	t.Helper()
	for range 2 {
		_, err := f.Verify([]byte(token), Peer{})
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	now := newClock().Now()
	tests := map[string]struct {
		revoke Revocation
		// expected results for a token of testVIN, one of testVIN issued an hour later, one of otherVIN
		first, later, other error
	}{
		"by jti":                      {Revocation{TokenID: "jti"}, ErrRevoked, nil, nil},
		"by sub":                      {Revocation{Subject: testVIN}, ErrRevoked, nil, nil},
		"by sub and time":             {Revocation{Subject: testVIN, IssuedBefore: now.Add(-time.Second)}, nil, nil, nil},
		"by sub, locked out":          {Revocation{Subject: testVIN, IssuedBefore: now.Add(2 * time.Hour)}, ErrRevoked, ErrRevoked, nil},
		"by time":                     {Revocation{IssuedBefore: now}, ErrRevoked, nil, ErrRevoked},
		"by time, before all of them": {Revocation{IssuedBefore: now.Add(-time.Second)}, nil, nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, func(c *Config) { c.TTL = 3 * time.Hour })
			first, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle})
			other := f.vehicle(t, otherVIN)
			f.refusedFor(t, first, nil) // cached from now on
			f.refusedFor(t, other, nil)
			if tt.revoke.TokenID != "" {
				tt.revoke.TokenID = id.TokenID
			}
			_, err := f.Revoke(tt.revoke, Caller{})
			check.OK(t, err)
			f.refusedFor(t, first, tt.first)
			f.refusedFor(t, other, tt.other)
			f.clock.Add(time.Hour)
			g := newForge(f)
			g.Claims = g.Claims.With("iat", f.clock.Now().Unix()).With("exp", f.clock.Now().Unix()+3600)
			f.refusedFor(t, g.Token(), tt.later)
			_, _, err = f.Issue(IssueRequest{Subject: testVIN, Role: RoleVehicle})
			if !errors.Is(err, tt.later) || tt.later == nil && err != nil {
				t.Errorf("issue: %v, want %v", err, tt.later)
			}
		})
	}
}

// TestIssueRightAfterRevocation checks that a token issued in the second of the vehicle's revocation is valid.
func TestIssueRightAfterRevocation(t *testing.T) {
	t.Parallel()
	for _, leeway := range []time.Duration{0, time.Minute} {
		f := open(t, func(c *Config) { c.Leeway = leeway })
		old := f.vehicle(t, testVIN)
		_, err := f.Revoke(Revocation{Subject: testVIN}, Caller{})
		check.OK(t, err)
		fresh := f.vehicle(t, testVIN)
		f.refusedFor(t, old, ErrRevoked)
		f.refusedFor(t, fresh, nil)
	}
}

func TestRevokeRefuses(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.MaxRevocations = 2 })
	now := f.clock.Now()
	bad := map[string]Revocation{
		"nothing":                {},
		"jti and sub":            {TokenID: "x", Subject: "y"},
		"jti and time":           {TokenID: "x", IssuedBefore: now},
		"long jti":               {TokenID: strings.Repeat("x", 129)},
		"wildcard sub":           {Subject: "#"},
		"everyone, ahead":        {IssuedBefore: now.Add(time.Hour)},
		"far ahead":              {Subject: "x", IssuedBefore: now.AddDate(101, 0, 0)},
		"purge without sub":      {TokenID: "x", Purge: true},
		"long reason":            {TokenID: "x", Reason: strings.Repeat("x", 257)},
		"sub with a line break":  {Subject: "a\nb"},
		"jti long with a reason": {TokenID: strings.Repeat("j", 1000), Reason: "x"},
	}
	for name, r := range bad {
		if _, err := f.Revoke(r, Caller{}); !errors.Is(err, errInvalidRevocation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"a", "b"} {
		_, err := f.Revoke(Revocation{TokenID: id}, Caller{})
		check.OK(t, err)
	}
	if _, err := f.Revoke(Revocation{TokenID: "c"}, Caller{}); !errors.Is(err, errTooManyRevocations) {
		t.Fatalf("got %v", err)
	}
}

// TestRevocationSurvivesKill opens the directory again without closing it, as after kill -9, with a torn last line of
// an unconfirmed entry.
func TestRevocationSurvivesKill(t *testing.T) {
	t.Parallel()
	f := open(t)
	token := f.vehicle(t, testVIN)
	_, err := f.Revoke(Revocation{Subject: testVIN, Reason: "stolen"}, Caller{})
	check.OK(t, err)
	log := filepath.Join(f.dir, revLogName)
	whole := check.Read(t, log)
	for cut := range len(whole) {
		dir := t.TempDir()
		copyKeys(t, f.dir, dir)
		check.OK(t, os.WriteFile(filepath.Join(dir, revLogName), append(whole[:len(whole):len(whole)], whole[:cut]...), 0o600))
		again, err := Open(testConfig(dir, f.clock.Now))
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		again2 := &fixture{Authority: again, clock: f.clock}
		again2.refusedFor(t, token, ErrRevoked)
		if cut%16 == 0 { // it can be appended to after the torn line
			_, err := again.Revoke(Revocation{TokenID: "next"}, Caller{})
			check.OK(t, err)
			if n := len(again.revoked.all()); n != 2 {
				t.Fatalf("cut at %d: %d entries", cut, n)
			}
		}
		check.Ended(t, again2.Close)
	}
}

func copyKeys(t *testing.T, from, to string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(from, "key-*.json"))
	check.OK(t, err)
	for _, name := range names {
		b := check.Read(t, name)
		check.OK(t, os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o600))
	}
}

// TestRevokeWaitsForTheDisk checks that Revoke returns only after its fsync, and returns an error of it.
func TestRevokeWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	f := open(t)
	synced := 0
	f.revLog.sync = func(file *os.File) error {
		synced++
		return file.Sync()
	}
	for i := range 3 {
		if _, err := f.Revoke(Revocation{TokenID: string(rune('a' + i))}, Caller{}); err != nil || synced != i+1 {
			t.Fatalf("revocation %d: %v, %d fsyncs", i, err, synced)
		}
	}
	broken := errors.New("input/output error")
	f.revLog.sync = func(*os.File) error { return broken }
	if _, err := f.Revoke(Revocation{TokenID: "x"}, Caller{}); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

// TestRevokeReturnsInForce checks that a revocation is in force when its call returns, whoever reads its line first.
func TestRevokeReturnsInForce(t *testing.T) {
	t.Parallel()
	f := open(t)
	done := make(chan struct{})
	var followers sync.WaitGroup
	for range 4 {
		followers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := f.pullRevocations(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 300 {
		id := string(rune('A'+i%26)) + string(rune('a'+i/26))
		_, err := f.Revoke(Revocation{TokenID: id}, Caller{})
		check.OK(t, err)
		if !errors.Is(f.Ended(Identity{TokenID: id}), ErrRevoked) {
			t.Fatalf("revocation %d is not in force", i)
		}
	}
	close(done)
	followers.Wait()
}

// TestDamagedRevocationLog checks that a flipped bit anywhere in a confirmed entry is found. An incomplete list must
// not be accepted.
func TestDamagedRevocationLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := newRevLog(dir)
	at := newClock().Now()
	for _, id := range []string{"a", "b"} {
		check.OK(t, l.append([]Revocation{{TokenID: id, At: at, Until: at}}))
	}
	whole := check.Read(t, l.path())
	for i := range len(whole) - 1 { // without its newline, the last line is a torn one
		for _, bit := range []int{0, 5} {
			corrupted := append([]byte(nil), whole...)
			corrupted[i] ^= 1 << bit
			check.OK(t, os.WriteFile(l.path(), corrupted, 0o600))
			fresh := newRevLog(dir)
			_, err := fresh.read()
			if !errors.Is(err, errRevocationLog) {
				// The case of the checksum's digits does not matter.
				if strings.EqualFold(string(corrupted), string(whole)) && err == nil {
					continue
				}
				t.Errorf("byte %d bit %d: %v", i, bit, err)
			}
			check.OK(t, fresh.close())
		}
	}
}

// TestRevocationByAnotherProcess revokes like the command line on the same directory.
func TestRevocationByAnotherProcess(t *testing.T) {
	t.Parallel()
	f := open(t)
	token := f.vehicle(t, testVIN)
	f.refusedFor(t, token, nil)
	told := make(chan bool, 16)
	stop := f.WatchEnded(func(ended func(Identity) error) {
		told <- errors.Is(ended(Identity{Issuer: f.cfg.Issuer, Subject: testVIN}), ErrRevoked)
	})
	defer stop()
	tool := open(t, func(c *Config) { c.Dir = f.dir })
	_, err := tool.Revoke(Revocation{Subject: testVIN}, Caller{})
	check.OK(t, err)
	if !<-told {
		t.Fatal("watcher is not told of it")
	}
	f.refusedFor(t, token, ErrRevoked)
}

// TestWatchLeavesNoGap has connections that register, call Ended, and are notified by the watcher. Each must end,
// whenever the revocation comes in between.
func TestWatchLeavesNoGap(t *testing.T) {
	t.Parallel()
	f := open(t)
	const n = 200
	var mu sync.Mutex
	live := make(map[string]Identity)
	ended := make(map[string]bool)
	stop := f.WatchEnded(func(invalid func(Identity) error) {
		mu.Lock()
		defer mu.Unlock()
		for k, id := range live {
			if invalid(id) != nil {
				ended[k] = true
			}
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for i := range n {
		token, id := f.issue(t, IssueRequest{Subject: "v" + string(rune('A'+i%26)), Role: RoleVehicle})
		wg.Go(func() {
			got, err := f.Verify([]byte(token), Peer{})
			if err != nil {
				mu.Lock()
				ended[id.TokenID] = true
				mu.Unlock()
				return
			}
			mu.Lock()
			live[got.TokenID] = got
			mu.Unlock()
			if f.Ended(got) != nil {
				mu.Lock()
				ended[got.TokenID] = true
				mu.Unlock()
			}
		})
	}
	_, err := f.Revoke(Revocation{IssuedBefore: f.clock.Now()}, Caller{})
	check.OK(t, err)
	wg.Wait()
	check.Eventually(t, "all connections have ended", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(ended) == n
	})
}

// TestPurge checks that a purge is requested once, after the watchers have run for its revocation, and not again after
// a restart.
func TestPurge(t *testing.T) {
	t.Parallel()
	f := open(t)
	order := make(chan string, 8)
	f.WatchEnded(func(func(Identity) error) { order <- "revoke" })
	f.WatchPurges(func(r Revocation) { order <- "purge " + r.Subject })
	_, err := f.Revoke(Revocation{Subject: testVIN, Purge: true}, Caller{})
	check.OK(t, err)
	if a, b := <-order, <-order; a != "revoke" || b != "purge "+testVIN {
		t.Fatalf("%s, then %s", a, b)
	}
	again := open(t, func(c *Config) { c.Dir = f.dir })
	purged := make(chan string, 8)
	stop := again.WatchPurges(func(r Revocation) { purged <- r.Subject })
	_, err = again.Revoke(Revocation{Subject: otherVIN, Purge: true}, Caller{})
	check.OK(t, err)
	if got := <-purged; got != otherVIN {
		t.Fatal(got)
	}
	stop()
	if again.watchers.mu.Lock(); len(again.watchers.purges) != 0 {
		t.Errorf("purges left: %v", again.watchers.purges)
	}
	again.watchers.mu.Unlock()
}

// TestCompaction checks that superseded and expired entries leave the file, that the others stay, and that a reader of
// the old file continues with the new one.
func TestCompaction(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.Poll = time.Hour })
	follower := open(t, func(c *Config) { c.Dir = f.dir })
	_, err := f.Revoke(Revocation{TokenID: "outlived"}, Caller{})
	check.OK(t, err)
	f.clock.Add(91*24*time.Hour + dropGrace + time.Hour)
	follower.clock.Add(91*24*time.Hour + dropGrace + time.Hour)
	for range 20 {
		f.clock.Add(time.Second)
		_, err := f.Revoke(Revocation{Subject: testVIN}, Caller{})
		check.OK(t, err)
	}
	f.prune()
	if got := f.revLog.superseded(f.revoked.len()); got != 20 {
		t.Fatalf("%d superseded lines", got)
	}
	check.OK(t, f.compactRevocations(f.clock.Now()))
	b := check.Read(t, f.revLog.path())
	if n := strings.Count(string(b), "\n"); n != 1 {
		t.Fatalf("%d lines", n)
	}
	_, err = f.Revoke(Revocation{TokenID: "after"}, Caller{})
	check.OK(t, err)
	check.Eventually(t, "the follower reads the new file", func() bool { return errors.Is(follower.Ended(Identity{TokenID: "after"}), ErrRevoked) })
	if n := len(f.revoked.all()); n != 2 {
		t.Fatalf("%d entries", n)
	}
}

// A revocation log deleted under a running gateway is restored: a start without it would accept revoked tokens.
func TestADeletedRevocationLogIsPutBack(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) { c.Poll = time.Hour }) // otherwise it would be restored before the test looks
	token, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle})
	_, err := f.Revoke(Revocation{TokenID: id.TokenID}, Caller{})
	check.OK(t, err)
	check.OK(t, os.Remove(filepath.Join(f.dir, revLogName)))
	if err := f.Reload(); !errors.Is(err, errPutBack) {
		t.Fatal(err)
	}
	check.OK(t, f.Reload())
	again := open(t, func(c *Config) { c.Dir, c.NoCreate = f.dir, true })
	again.refusedFor(t, token, ErrRevoked)
}
