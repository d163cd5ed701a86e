package preflight

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

const someRules = `rules:
  - id: a
    from: ["v1/+/up/telemetry"]
    to: [{kafka: {topic: vehicle.telemetry}}, {central: {lane: p0, topic: fleet.telemetry}}]
`

// load writes a configuration with certificates and rules.
func load(t *testing.T, kafka, redis, extra string) *configs.Config {
	t.Helper()
	dir := t.TempDir()
	harness.WriteCertificates(t, filepath.Join(dir, "tls"))
	check.OK(t, os.Mkdir(filepath.Join(dir, "rules"), 0o750))
	check.OK(t, os.WriteFile(filepath.Join(dir, "rules", "a.rules.yaml"), []byte(someRules), 0o600))
	file := filepath.Join(dir, "cell.yaml")
	harness.WriteConfig(t, file, fmt.Sprintf(`listeners: [{name: vehicles, address: "127.0.0.1:0", tls: {cert: tls/server.crt, key: tls/server.key}}]
limits: {max_connections: 1000}
uplink: {journal: {max_bytes: 64MiB, segment_bytes: 4MiB, reserve_bytes: 1MiB}}
kafka: {brokers: [%q], timeout: 2s, %s}
redis: {addresses: [%q], timeout: 2s}
`, kafka, extra, redis))
	cfg, err := configs.Load(file)
	check.OK(t, err)
	return cfg
}

// needs checks that a finding has these words; without checks that there is none of this level.
func needs(t *testing.T, found []Finding, level, words string) {
	t.Helper()
	for _, f := range found {
		if text := strings.Join([]string{f.Check, f.Where, f.What, f.Do}, " "); f.Level == level && strings.Contains(text, words) {
			return
		}
	}
	t.Errorf("no %s with %q in %+v", level, words, found)
}

var needed = []string{"central.p0", "central.p1", "central.p2", "vehicle.command-results", "vehicle.commands", "vehicle.presence", "vehicle.rule-errors", "vehicle.telemetry"}

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(2, needed...))
	found := Run(t.Context(), load(t, c.ListenAddrs()[0], miniredis.RunT(t).Addr(), "partitions: 2"))
	if Worst(found) == Bad {
		t.Errorf("%+v", found)
	}
	for _, words := range []string{"answers", "vehicle.telemetry 2 partitions", "for the journal", "clock"} {
		needs(t, found, Good, words)
	}
	needs(t, found, Warning, "server.crt expires on") // those of tests last a day
	needs(t, found, Warning, "the configuration has no section central")
}

func TestWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(2, "vehicle.telemetry"))
	cfg := load(t, c.ListenAddrs()[0], harness.FreeAddr(t), "partitions: 4")
	check.OK(t, os.WriteFile(string(cfg.Rules.Path)+"/b.rules.yaml", []byte("rules: [{id: b}]\n"), 0o600))
	key := check.Read(t, string(cfg.Listeners[0].TLS.Key))
	harness.WriteCertificates(t, filepath.Dir(string(cfg.Listeners[0].TLS.Key)))
	check.OK(t, os.WriteFile(string(cfg.Listeners[0].TLS.Key), key, 0o600)) // of another certificate
	found := Run(t.Context(), cfg)
	for _, words := range []string{
		"private key does not match", "rules check", "vehicle.presence is missing", "topics create", "redis.addresses " + cfg.Redis.Addresses[0],
	} {
		needs(t, found, Bad, words)
	}
	needs(t, found, Warning, "no other clock answered")
	cfg.Rules.Path = configs.Path(filepath.Join(filepath.Dir(string(cfg.Rules.Path)), "rules", "a.rules.yaml"))
	needs(t, Run(t.Context(), cfg), Warning, "vehicle.telemetry has 2 partitions, fewer than kafka.partitions (4)")
}

// TestRefusedLogins: one line has the cause, and what to check.
func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	redis := miniredis.RunT(t)
	redis.RequireAuth("secret")
	c := fakekafka.Cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "gate", "secret"))
	at := c.ListenAddrs()[0]
	found := Run(t.Context(), load(t, at, redis.Addr(), `sasl: {mechanism: plain, user: gate, password: wrong}`))
	needs(t, found, Bad, "kafka.sasl: mechanism, user and password")
	needs(t, found, Bad, "redis.username and redis.password")
	found = Run(t.Context(), load(t, at, redis.Addr(), `sasl: {mechanism: scram-sha-256, user: gate, password: secret}`))
	needs(t, found, Bad, "the login is refused")
	found = Run(t.Context(), load(t, at, redis.Addr(), `tls: {}`))
	needs(t, found, Bad, "TLS is refused")
	for _, f := range found {
		if strings.Contains(f.What, "\n") {
			t.Errorf("several lines: %q", f.What)
		}
	}
}

func TestCertificateDates(t *testing.T) {
	t.Parallel()
	cfg := load(t, "127.0.0.1:1", "127.0.0.1:1", "")
	for at, want := range map[time.Duration][2]string{
		-10 * 365 * 24 * time.Hour: {Bad, "is valid from"}, 0: {Warning, "expires on"}, 100 * 365 * 24 * time.Hour: {Bad, "has expired on"},
	} {
		c := &checks{cfg: cfg, now: time.Now().Add(at)}
		c.certificates()
		needs(t, c.found, want[0], want[1])
	}
}

// TestClock: a clock off by more than the leeway is reported.
func TestClock(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
	}))
	t.Cleanup(s.Close)
	cfg := load(t, "127.0.0.1:1", "127.0.0.1:1", "")
	cfg.Auth.Issuers = []configs.Issuer{{JWKSURL: s.URL}}
	c := &checks{cfg: cfg, now: time.Now()}
	c.clock(t.Context(), map[string]time.Duration{"redis": 2 * time.Second})
	needs(t, c.found, Bad, "auth.leeway")
	needs(t, c.found, Warning, "is 2s off that of redis")
}
