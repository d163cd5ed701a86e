//go:build bench

package bench

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/harness"
)

var (
	rounds = flag.Int("rounds", 5, "alternating rounds of the saturated comparison")
	span   = flag.Duration("span", 4*time.Second, "length of one measurement")
	idle   = flag.Int("idle", 15000, "connections of the idle comparison")
)

// server is one contestant in a comparison.
type server struct {
	name string
	load Load
	proc *harness.Process
	// settle waits until the server has done all the work that the load caused.
	settle func()
}

// sample is what one measurement of one server gave.
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

// TestSaturatedQoS1 compares acknowledged messages per second and server CPU per message: the gateway
// (every message journaled and fsynced before its PUBACK) with rules off and with the sample rules on, and
// Mosquitto with nothing durable.
func TestSaturatedQoS1(t *testing.T) {
	load := Load{Conns: 200, Inflight: 16, Payload: payload()}
	contestants := []server{gateway(t, "cellgate, rules off", load, harness.Options{NoRules: true}), mosquitto(t, load), withRules(t, load)}
	got := make([][]sample, len(contestants))
	for round := range *rounds {
		for i, s := range contestants {
			m := measure(t, s)
			got[i] = append(got[i], m)
			fmt.Printf("round %d/%d  %-26s %9.0f acked/s  %6.2f µs CPU/message\n", round+1, *rounds, s.name, m.rate, m.cpu)
		}
	}
	fmt.Printf("\nsaturated QoS 1, %d connections × %d unacknowledged, %d B, medians of %d alternating rounds\n\n",
		load.Conns, load.Inflight, len(load.Payload), *rounds)
	fmt.Printf("| server | acked/s | × Mosquitto | server CPU µs/message | × Mosquitto |\n|---|---|---|---|---|\n")
	reference := median(got[1])
	for i, s := range contestants {
		m := median(got[i])
		fmt.Printf("| %s | %.0f | %.2f | %.2f | %.2f |\n", s.name, m.rate, m.rate/reference.rate, m.cpu, m.cpu/reference.cpu)
	}
	fmt.Println()
}

func measure(t *testing.T, s server) sample {
	t.Helper()
	before := cpu(t, s.proc)
	n, took, err := s.load.Run(t.Context(), *span)
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
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func median(s []sample) sample {
	by := func(f func(sample) float64) float64 {
		v := make([]float64, len(s))
		for i := range s {
			v[i] = f(s[i])
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return sample{rate: by(func(s sample) float64 { return s.rate }), cpu: by(func(s sample) float64 { return s.cpu })}
}

// unlimited lifts the per-vehicle quotas, which a saturated bench connection would run into.
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

// withRules is the gateway with the sample rules, delivering to an embedded Kafka and Redis in the
// bench's own process; its CPU is measured until everything has been delivered.
func withRules(t *testing.T, load Load) server {
	t.Helper()
	g := harness.StartGateway(t, harness.Options{Kafka: harness.EmbeddedKafka(t), Redis: harness.EmbeddedRedis(t), Extra: unlimited})
	load.Addr = g.Lab
	operator := g.OperatorToken()
	return server{name: "cellgate, sample rules on", load: load, proc: g.Process, settle: func() {
		harness.Eventually(t, 5*time.Minute, "delivery of everything", func() error { return g.Settled(operator) })
	}}
}

// mosquitto starts Debian's mosquitto, in memory only and without limits.
func mosquitto(t *testing.T, load Load) server {
	t.Helper()
	dir := t.TempDir()
	load.Addr = harness.FreeAddr(t)
	_, port, _ := net.SplitHostPort(load.Addr)
	p := startMosquitto(t, dir, "listener "+port+" 127.0.0.1\n")
	harness.AwaitTCP(t, load.Addr, 10*time.Second, p)
	return server{name: "Mosquitto, memory only", load: load, proc: p, settle: func() {}}
}

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
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return harness.StartProcess(t, "mosquitto", dir, nil, bin, "-c", conf)
}

// TestIdleConnections states the resident memory per idle connection, plain and TLS.
func TestIdleConnections(t *testing.T) {
	fmt.Printf("\nidle connections, %d, resident bytes per connection\n\n| listener | after CONNECT | after each published 1 KB |\n|---|---|---|\n", *idle)
	for _, kind := range []string{"plain", "TLS"} {
		g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
		load := Load{Addr: g.Lab, Payload: make([]byte, 1024)}
		if kind == "TLS" {
			load.Addr, load.TLS, load.Password = g.MQTTS, g.ClientTLS(), tokensFrom(t, g, 0, *idle)
		}
		first, second := idleMemory(t, g, load)
		fmt.Printf("| %s | %.0f | %.0f |\n", kind, first, second)
		g.Kill()
	}
	fmt.Println()
}

func idleMemory(t *testing.T, g *harness.Gateway, load Load) (connected, published float64) {
	t.Helper()
	empty := rss(t, g.Process)
	conns := make([]net.Conn, 0, *idle)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for i := range *idle {
		c, err := load.connect(t.Context(), VIN(i))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	connected = perConnection(t, g, empty)
	for i, c := range conns {
		one, at := publishFrame("v1/"+VIN(i)+"/up/telemetry", load.Payload)
		one[at+1] = 1
		if _, err := c.Write(one); err != nil {
			t.Fatal(err)
		}
		var ack [4]byte
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(ack[:]); err != nil || ack[0] != 0x40 {
			t.Fatalf("PUBACK of connection %d: % x, %v", i, ack, err)
		}
	}
	return connected, perConnection(t, g, empty)
}

// perConnection waits until the resident memory has stopped falling: the runtime gives pages back over
// some seconds.
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
	if err != nil {
		t.Fatal(err)
	}
	return b
}
