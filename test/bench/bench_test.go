//go:build bench

package bench

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var (
	rounds = flag.Int("rounds", 5, "alternating rounds of the saturated comparison")
	span   = flag.Duration("span", 4*time.Second, "length of one measurement")
	brief  = flag.Duration("rules-span", time.Second, "length of one measurement with the sample rules on: what it queues is then delivered")
	idle   = flag.Int("idle", 15000, "connections of the idle comparison")
)

// server is a server in a comparison.
type server struct {
	name string
	load Load
	proc *harness.Process
	// gateway is nil for others.
	gateway *harness.Gateway
	// settle waits until the server has done all work of the load.
	settle func()
	// span is the duration of the load; -span when 0.
	span time.Duration
	// against is the index of the server that it is compared with.
	against int
}

// sample is the result of one measurement of one server.
type sample struct {
	rate float64 // acknowledged messages per second
	cpu  float64 // µs of server CPU per message
}

// payload is a telemetry message of 256 bytes, as the sample rules expect it.
func payload() []byte {
	b := []byte(`{"seq":1,"speed":63.2,"soc":71.5,"odometer":18234.7,"lat":31.23041,"lon":121.47370,"temp_battery":24.5,"temp_motor":51.0,"voltage":387.4,"current":-12.6,"gear":"D","charging":false,"vehicle":"`)
	for len(b) < 254 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

// TestSaturatedQoS1 compares acknowledged messages per second and server CPU per message, plain and TLS: the gateway
// (every message journaled and fsynced before its PUBACK) with rules off and with the sample rules on, and
// Mosquitto with nothing durable.
func TestSaturatedQoS1(t *testing.T) {
	load := Load{Conns: 200, Inflight: 16, Payload: payload()}
	ruled := withRules(t, load)
	ruled.against = 1
	contestants := append(pair(t, load), ruled)
	got := make([][]sample, len(contestants))
	for round := range *rounds {
		for i, s := range contestants {
			m := measure(t, s)
			got[i] = append(got[i], m)
			fmt.Printf("round %d/%d  %-26s %9.0f acked/s  %6.2f µs CPU/message\n", round+1, *rounds, s.name, m.rate, m.cpu)
		}
	}
	out := table{
		Title: fmt.Sprintf("saturated QoS 1, %d connections × %d unacknowledged, %d B, medians of %d alternating rounds of %v, with rules %v",
			load.Conns, load.Inflight, len(load.Payload), *rounds, *span, *brief),
		Columns: []string{"server", "acked/s", "× Mosquitto", "server CPU µs/message", "× Mosquitto"},
	}
	for i, s := range contestants {
		m, reference := median(got[i]), median(got[s.against])
		out.row(s.name, fmt.Sprintf("%.0f", m.rate), fmt.Sprintf("%.2f", m.rate/reference.rate),
			fmt.Sprintf("%.2f", m.cpu), fmt.Sprintf("%.2f", m.cpu/reference.cpu))
		if i != s.against && i < len(contestants)-1 {
			summary.atMost("saturated QoS 1, "+s.name+": server CPU per message", m.cpu/reference.cpu, "× Mosquitto", 0.7, 0.5)
			summary.atLeast("saturated QoS 1, "+s.name+": acknowledged", m.rate/reference.rate, "× Mosquitto", 1.15, 1.5)
		}
	}
	summary.add(out)
}

func measure(t *testing.T, s server) sample {
	t.Helper()
	before := cpu(t, s.proc)
	n, took, err := s.load.Run(t.Context(), cmp.Or(s.span, *span))
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	s.settle()
	used := cpu(t, s.proc) - before
	return sample{rate: float64(n) / took.Seconds(), cpu: float64(used.Microseconds()) / float64(n)}
}

func cpu(t *testing.T, p *harness.Process) time.Duration {
	t.Helper()
	d, err := p.CPU()
	check.OK(t, err)
	return d
}

func median(s []sample) sample {
	return sample{rate: middle(s, func(s sample) float64 { return s.rate }), cpu: middle(s, func(s sample) float64 { return s.cpu })}
}

// middle is the median of one value of the samples.
func middle[T any](s []T, value func(T) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = value(s[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// unlimited lifts the per-vehicle quotas, which a saturated bench connection would exceed.
const unlimited = `limits: {messages_per_second: 1000000, bytes_per_second: 1GiB, connect_rate: 100000}
uplink: {journal: {max_bytes: 8GiB}}
log: {level: warn}
`

func gateway(t *testing.T, name string, load Load, o harness.Options) server {
	t.Helper()
	o.Extra += unlimited
	g := harness.StartGateway(t, o)
	load.Addr = g.Lab
	return server{name: name, load: load, proc: g.Process, settle: func() {}}
}

// withRules returns the gateway with the sample rules, delivering to an embedded Kafka and Redis in the bench's own
// process; its CPU is measured until everything has been delivered. They are slower than the gateway, so the load is as
// short as they can follow.
func withRules(t *testing.T, load Load) server {
	t.Helper()
	g := harness.StartGateway(t, harness.Options{Kafka: harness.EmbeddedKafka(t), Redis: harness.EmbeddedRedis(t), Extra: unlimited})
	load.Addr = g.Lab
	operator := g.OperatorToken()
	return server{name: "cellgate, sample rules on", load: load, proc: g.Process, gateway: g, span: *brief, settle: func() {
		check.Within(t, 5*time.Minute, "delivery of everything", func() error { return g.Settled(operator) })
	}}
}

// mosquitto starts Debian's mosquitto, in memory only and without limits: one process, plain and TLS, with the
// gateway's kind of certificate and the cipher that Go's clients choose.
func mosquitto(t *testing.T, load Load) (plain, secure server) {
	t.Helper()
	dir := t.TempDir()
	harness.WriteCertificates(t, dir)
	plain = server{name: "Mosquitto, memory only", load: load, settle: func() {}}
	secure = server{name: "Mosquitto, memory only, TLS", load: load, settle: func() {}}
	plain.load.Addr, secure.load.Addr = harness.FreeAddr(t), harness.FreeAddr(t)
	secure.load.TLS = clientTLS(t, filepath.Join(dir, "ca.crt"))
	p := startMosquitto(t, dir, strings.Join([]string{
		"listener " + port(plain.load.Addr) + " 127.0.0.1",
		"listener " + port(secure.load.Addr) + " 127.0.0.1",
		"certfile " + filepath.Join(dir, "server.crt"), "keyfile " + filepath.Join(dir, "server.key"),
		"tls_version tlsv1.3", "ciphers_tls1.3 TLS_AES_128_GCM_SHA256", "",
	}, "\n"))
	harness.AwaitTCP(t, secure.load.Addr, 10*time.Second, p)
	plain.proc, secure.proc = p, p
	return plain, secure
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

func startMosquitto(t *testing.T, dir, listeners string) *harness.Process {
	t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		bin = "/usr/sbin/mosquitto"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("mosquitto is missing (make bench installs Debian's package): %v", err)
	}
	conf := filepath.Join(dir, "mosquitto.conf")
	text := strings.Join([]string{
		"allow_anonymous true", "persistence false", "max_inflight_messages 0",
		"max_queued_messages 0", "log_type error", "set_tcp_nodelay true", "user root", listeners,
	}, "\n")
	check.OK(t, os.WriteFile(conf, []byte(text), 0o600))
	return harness.StartProcess(t, "mosquitto", dir, nil, bin, "-c", conf)
}

// clientTLS returns a client's TLS that trusts an authority: TLS 1.3 with one key exchange, the same for every server.
func clientTLS(t *testing.T, authority string) *tls.Config {
	t.Helper()
	pem := check.Read(t, authority)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{
		RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	}
}

// TestIdleConnections reports the resident memory per idle connection, plain and TLS.
func TestIdleConnections(t *testing.T) {
	out := table{
		Title:   fmt.Sprintf("idle connections, %d, all alive, resident bytes per connection", *idle),
		Columns: []string{"listener", "after CONNECT", "after each published 1 KB"},
	}
	for _, kind := range []struct {
		name        string
		bound, goal float64
	}{{"plain", 9, 6}, {"TLS", 22, 14}} {
		g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
		load := Load{Addr: g.Lab, Payload: make([]byte, 1024)}
		if kind.name == "TLS" {
			load.Addr, load.TLS, load.Password = g.MQTTS, clientTLS(t, g.CAFile()), tokensFrom(t, g, 0, *idle)
		}
		first, second := idleMemory(t, g, load)
		fmt.Printf("idle  %-5s  %.0f B per connection after CONNECT, %.0f after 1 KB each\n", kind.name, first, second)
		out.row(kind.name, fmt.Sprintf("%.0f", first), fmt.Sprintf("%.0f", second))
		summary.atMost("idle connection, "+kind.name+", after CONNECT", first/1000, "KB", kind.bound, kind.goal)
		summary.atMost("idle connection, "+kind.name+", after 1 KB", second/1000, "KB", kind.bound, kind.goal)
		g.Kill()
	}
	summary.add(out)
}

func idleMemory(t *testing.T, g *harness.Gateway, load Load) (connected, published float64) {
	t.Helper()
	empty := rss(t, g.Process)
	conns, _, err := Crowd{Load: load, Count: *idle, AtOnce: connecting}.Connect(t.Context())
	check.OK(t, err)
	defer hangUp(conns)
	connected = perConnection(t, g, empty)
	// One message each, all acknowledged: every connection is alive.
	m, err := Pace{Conns: conns, Period: 5 * time.Second, Payload: load.Payload}.Run(5*time.Second, nil)
	if err != nil || m.Acked != *idle {
		t.Fatalf("%d of %d connections had a PUBACK: %v", m.Acked, *idle, err)
	}
	published = perConnection(t, g, empty)
	name := "idle plain"
	if load.TLS != nil {
		name = "idle TLS"
	}
	heapOf(t, g, name)
	return connected, published
}

// perConnection waits until the resident memory no longer falls: the runtime returns pages over some seconds.
func perConnection(t *testing.T, g *harness.Gateway, empty int64) float64 {
	t.Helper()
	last := rss(t, g.Process)
	for range 20 {
		time.Sleep(time.Second) // a measurement interval, not a wait for a condition
		now := rss(t, g.Process)
		if now > last-1<<20 {
			return float64(now-empty) / float64(*idle)
		}
		last = now
	}
	return float64(last-empty) / float64(*idle)
}

func rss(t *testing.T, p *harness.Process) int64 {
	t.Helper()
	b, err := p.RSS()
	check.OK(t, err)
	return b
}
