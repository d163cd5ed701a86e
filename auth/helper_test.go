package auth

import (
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
)

// testVIN has a valid check digit.
const (
	testVIN   = "1M8GDM9AXKP042788"
	otherVIN  = "11111111111111111"
	testCell  = "cell-test-01"
	otherCell = "cell-test-02"
)

// clock is a wall clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type fixture struct {
	*Authority
	clock *clock
	logs  *check.Log // slog and audit
	dir   string
}

// testConfig returns a configuration whose authority reads its files only on demand.
func testConfig(dir string, now func() time.Time) Config {
	return Config{
		Dir: dir, Cell: testCell, Issuer: "cellgate/" + testCell, Algorithm: ES256, VehicleName: nameFromSAN,
		TTL: time.Hour, MaxTTL: 90 * 24 * time.Hour, Leeway: time.Minute, CacheSize: 1 << 10, MaxRevocations: 100_000,
		IssueRate: 200, IssueBurst: 1000, Poll: time.Hour, Now: now, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	}
}

// unclosed adds a Close that does nothing to a writer.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

func testAudit(w io.Writer) *Audit {
	return newAudit(unclosed{w}, unclosed{io.Discard}, AuditOptions{Cell: testCell, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil)})
}

func open(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{clock: newClock(), logs: &check.Log{}}
	cfg := testConfig(t.TempDir(), f.clock.Now)
	cfg.Poll, cfg.Log = 5*time.Millisecond, slog.New(slog.NewJSONHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Audit = testAudit(f.logs)
	for _, c := range change {
		c(&cfg)
	}
	f.dir = cfg.Dir
	var err error
	if f.Authority, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check.Ended(t, f.Close) })
	return f
}

func (f *fixture) issue(t testing.TB, req IssueRequest) (string, Identity) {
	t.Helper()
	token, id, err := f.Issue(req)
	check.OK(t, err)
	return token, id
}

func (f *fixture) vehicle(t testing.TB, vin string) string {
	t.Helper()
	token, _ := f.issue(t, IssueRequest{Subject: vin, Role: RoleVehicle})
	return token
}

func (c *tokenCache) len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.entries)
		s.mu.RUnlock()
	}
	return n
}
