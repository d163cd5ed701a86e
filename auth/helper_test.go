package auth

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"cellgate/test/logbuf"
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

// fixture is an Authority with its surroundings.
type fixture struct {
	*Authority
	clock *clock
	logs  *logbuf.Buffer // slog and audit
	dir   string
}

func open(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{clock: newClock(), logs: &logbuf.Buffer{}}
	cfg := Config{
		Dir: t.TempDir(), Cell: testCell, Now: f.clock.Now, Poll: 5 * time.Millisecond, KeyActivation: -1,
		Log: slog.New(slog.NewJSONHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	cfg.Audit = NewAudit(AuditOptions{Writer: f.logs, Cell: testCell, Log: cfg.Log})
	for _, c := range change {
		c(&cfg)
	}
	f.dir = cfg.Dir
	var err error
	if f.Authority, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close(t))
	return f
}

func (f *fixture) close(t testing.TB) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

func (f *fixture) issue(t testing.TB, req IssueRequest) (string, Identity) {
	t.Helper()
	token, id, err := f.Issue(req)
	if err != nil {
		t.Fatal(err)
	}
	return token, id
}

func (f *fixture) vehicle(t testing.TB, vin string) string {
	t.Helper()
	token, _ := f.issue(t, IssueRequest{Subject: vin, Role: RoleVehicle})
	return token
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
