package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/clock"
	"cellgate/broker/shared/remote"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/configs"
	"cellgate/rules/op"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/options"
)

// smallJournal are settings: a start preallocates two segments of the journal, by default 64 MiB each.
const smallJournal = "uplink: {journal: {segment_bytes: 1MiB}}\n"

// write makes a configuration whose Kafka, Redis and centre are away, and returns its path. Without a rules folder it
// creates one with no rules.
func write(t *testing.T, dir, extra string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "rules")); err != nil {
		check.Write(t, filepath.Join(dir, "rules", "none.rules.yaml"), "rules: []\n")
	}
	file := filepath.Join(dir, "cell.yaml")
	harness.WriteConfig(t, file, fmt.Sprintf("central: {kafka: {brokers: [%q], timeout: 1s}}\n", harness.FreeAddr(t))+smallJournal+extra)
	return file
}

func boot(t *testing.T, file string) (*App, *check.Log) {
	t.Helper()
	return bootAt(t, file, clock.System())
}

// bootAt is boot on a clock that a test sets.
func bootAt(t *testing.T, file string, source clock.Source) (*App, *check.Log) {
	t.Helper()
	cfg, err := configs.Load(file)
	check.OK(t, err)
	return harness.Serve(t, func(ctx context.Context, log io.Writer) (*App, error) { return started(ctx, cfg, log, source) })
}

func started(ctx context.Context, cfg *configs.Config, log io.Writer, source clock.Source) (*App, error) {
	a, err := New(ctx, Options{Config: cfg, Log: log, Clock: source})
	if err == nil {
		err = a.Start(ctx)
	}
	return a, err
}

// refusedStart returns why a gateway does not start; nil if it does.
func refusedStart(t *testing.T, file string) error {
	t.Helper()
	cfg, err := configs.Load(file)
	check.OK(t, err)
	a, err := started(t.Context(), cfg, &check.Log{}, clock.System())
	if err == nil {
		halt(t, a)
	}
	return err
}

func halt(t *testing.T, a *App) {
	t.Helper()
	check.Ended(t, a.Stop)
}

func get(t *testing.T, a *App, path, token string, out any) int {
	t.Helper()
	status, _, answer, err := harness.Call(t.Context(), http.MethodGet, a.HTTPURL()+path, token, nil)
	check.OK(t, err)
	check.OK(t, json.Unmarshal(answer, out))
	return status
}

// drive publishes with a small fleet and returns how many messages were acknowledged.
func drive(t *testing.T, a *App, first int) uint64 {
	t.Helper()
	o := fleet.Options{
		Broker: a.Addrs()["local"].String(), Vehicles: 5, First: first, Rate: 20, QoS: 1, Duration: 500 * time.Millisecond, WaitConnected: true,
		Token: func(vin string) (string, error) {
			token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle})
			return token, err
		},
	}
	options.Fill(&o, fleet.Normal())
	r, err := fleet.Run(t.Context(), o)
	if err != nil || r.Acknowledged == 0 || r.Acknowledged != r.Published || r.Refused+r.ConnectRefused != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Acknowledged
}

// With every destination away, also at the start, vehicles notice nothing, /readyz names what is away, and the ledger
// keeps pending messages over a restart.
func TestServesWithEverythingAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, dir, "")
	check.OK(t, os.CopyFS(filepath.Join(dir, "rules"), os.DirFS("../../../configs/rules")))
	a, log := boot(t, file)
	acked := drive(t, a, 0)
	awaitDegraded(t, a, "kafka", "redis", "central-kafka")
	halt(t, a)
	if !strings.Contains(log.String(), `"cell":"cell-1"`) {
		t.Errorf("a log line without the cell:\n%s", log)
	}

	b, _ := boot(t, file)
	acked += drive(t, b, 5)
	token, _, err := b.Authority().Issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	check.OK(t, err)
	awaitPending(t, b, token, acked)
}

// awaitPending waits until at least n messages are pending for the Kafka sink. Command results count too.
func awaitPending(t *testing.T, a *App, token string, n uint64) {
	t.Helper()
	type line struct {
		Sink     string
		Pending  uint64
		Balanced bool
	}
	check.Within(t, check.Patience, fmt.Sprintf("%d acknowledged", n), func() error {
		var page struct{ Sinks []line }
		get(t, a, "/v1/ledger", token, &page)
		i := slices.IndexFunc(page.Sinks, func(s line) bool { return s.Sink == string(op.SinkKafka) })
		if i < 0 || page.Sinks[i].Pending < n || !page.Sinks[i].Balanced {
			return fmt.Errorf("ledger %+v", page)
		}
		return nil
	})
}

func awaitDegraded(t *testing.T, a *App, names ...string) {
	t.Helper()
	check.Within(t, check.Patience, fmt.Sprintf("readyz names %v", names), func() error {
		var r readiness
		code := get(t, a, "/readyz", "", &r)
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return slices.ContainsFunc(r.Degraded, func(d remote.Health) bool { return d.Name == name && d.Reason != "" })
		})
		if code != http.StatusOK {
			t.Fatalf("readyz %d while vehicles are served: %+v", code, r)
		}
		if len(missing) > 0 || r.Status != "degraded" {
			return fmt.Errorf("%v missing in %+v", missing, r)
		}
		return nil
	})
}

func TestReloadIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, dir, "log: {level: info}\nlimits: {max_keepalive: 20m}\n")
	a, _ := boot(t, file)

	// One key that can be reloaded, and one that cannot.
	check.Replace(t, file, "level: info", "level: error")
	check.Replace(t, file, "node: gw-1", "node: gw-2")
	check.Replace(t, file, "central: {", "central: {bandwidth: 3MiB/s, ")
	r, err := a.Reload(t.Context())
	check.OK(t, err)
	if !slices.Contains(r.Applied, "log.level") || !slices.Contains(r.Restart, "cell.node") {
		t.Errorf("%+v", r)
	}
	if a.level.Level() != slog.LevelError {
		t.Errorf("log level %v", a.level.Level())
	}
	if n := a.sync.all[0].get().Limits().Rate; n != 3<<20 || !slices.Contains(r.Applied, "central.bandwidth") {
		t.Errorf("bandwidth %d, %+v", n, r)
	}

	// A broken configuration, and broken rules next to a good one, change nothing.
	check.Replace(t, file, "level: error", "level: loud")
	if _, err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "log.level") {
		t.Errorf("error %v", err)
	}
	check.Replace(t, file, "level: loud", "level: debug")
	rule := filepath.Join(dir, "rules", "x.rules.yaml")
	check.OK(t, os.WriteFile(rule, []byte("rules:\n  - id: x\n    when: payload.a >\n"), 0o600))
	if _, err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "x.rules.yaml:") {
		t.Errorf("error %v", err)
	}
	if a.level.Level() != slog.LevelError || a.Config().Log.Level != "error" {
		t.Errorf("half a reload: level %v, configuration %s", a.level.Level(), a.Config().Log.Level)
	}
	check.OK(t, os.Remove(rule))
	if _, err := a.Reload(t.Context()); err != nil || a.level.Level() != slog.LevelDebug {
		t.Errorf("%v, level %v", err, a.level.Level())
	}
}

func TestFailedStartCleansUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	defer ln.Close() //nolint:errcheck // a test
	file := write(t, dir, "")
	check.Replace(t, file, `name: local, address: "127.0.0.1:0"`, `name: local, address: "`+ln.Addr().String()+`"`)
	if err := refusedStart(t, file); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Fatalf("start on a taken port: %v", err)
	}
	// The state file, the journal's lock and the HTTP port are free again.
	check.Replace(t, file, ln.Addr().String(), "127.0.0.1:0")
	boot(t, file)
}

func TestBrokenRulesAtTheFirstStartAreAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, dir, "")
	rule := filepath.Join(dir, "rules", "x.rules.yaml")
	check.OK(t, os.MkdirAll(filepath.Dir(rule), 0o750))
	broken := []byte("rules:\n  - id: x\n    when: payload.a >\n")
	check.OK(t, os.WriteFile(rule, broken, 0o600))
	if err := refusedStart(t, file); err == nil || !strings.Contains(err.Error(), "x.rules.yaml:3:") {
		t.Fatalf("error %v", err)
	}
	// After a restart a gateway continues with the last good rules, and reports it.
	check.OK(t, os.Remove(rule))
	good, _ := boot(t, file)
	hash := good.rules.state().Hash
	halt(t, good)
	check.OK(t, os.WriteFile(rule, broken, 0o600))
	again, log := boot(t, file)
	if s := again.rules.state(); s.Hash != hash || !s.Broken || !strings.Contains(log.String(), "x.rules.yaml:3:") {
		t.Errorf("%+v", s)
	}
}
