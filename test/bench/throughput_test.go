//go:build bench

package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var (
	shares       = flag.Int("shares", 3, "alternating rounds of the way through the rules to Kafka")
	shareSpan    = flag.Duration("share-span", 2*time.Second, "length of one load on the way through the rules; what it queues is then delivered")
	shareProfile = flag.Duration("share-profile", 5*time.Second, "length of the CPU profile of the way through the rules; 0: none")
)

// kafkaVersion is the Apache Kafka at the end of the path.
const kafkaVersion = "4.3.1"

// kafkaRules is the part of the sample rules that sends to Kafka: every message, as received.
const kafkaRules = `schema: {event_at: ts}
rules:
  - id: telemetry
    from: ["v1/+/up/telemetry"]
    to:
      - kafka: {topic: vehicle.telemetry}
`

// TestRulesToKafka reports messages per second per core on the path from a vehicle's PUBLISH through the rules to
// Kafka, Redis and the centre's outbox: messages per second of the gateway's processor time, from reading the sockets
// to the last acknowledgement of Kafka and Redis. Apache Kafka and Redis are processes of their own.
func TestRulesToKafka(t *testing.T) {
	for _, size := range []int{256, 1024} {
		t.Run(fmt.Sprintf("%dB", size), func(t *testing.T) { rulesToKafka(t, size) })
	}
}

func rulesToKafka(t *testing.T, size int) {
	load := Load{Conns: 200, Inflight: 16, Payloads: telemetry(size)}
	contestants := []server{
		rulesOff(t, load),
		delivering(t, "to Kafka alone", load, kafkaOnly(t)),
		delivering(t, "all sample rules", load, ""),
	}
	got := make([][]sample, len(contestants))
	for round := range *shares {
		for i, s := range contestants {
			m := measure(t, s)
			got[i] = append(got[i], m)
			fmt.Printf("round %d/%d  %4d B  %-17s %9.0f acked/s  %6.2f µs CPU/message\n", round+1, *shares, size, s.name, m.rate, m.cpu)
		}
	}
	out := table{
		Title: fmt.Sprintf("through the rules, %d B, %d connections × %d unacknowledged, %d different payloads, Apache Kafka %s, Redis, medians of %d rounds of %v",
			size, load.Conns, load.Inflight, len(load.Payloads), kafkaVersion, *shares, *shareSpan),
		Columns: []string{"rules", "acked/s", "gateway CPU µs/message", "messages/s per core"},
	}
	for i, s := range contestants {
		m := median(got[i])
		out.row(s.name, fmt.Sprintf("%.0f", m.rate), fmt.Sprintf("%.2f", m.cpu), fmt.Sprintf("%.0f", 1e6/m.cpu))
		if i > 0 {
			summary.atLeast(fmt.Sprintf("through the rules, %d B, %s", size, s.name), 1e6/m.cpu, "messages/s per core", map[int]float64{256: 30000, 1024: 15000}[size], 0)
		}
	}
	summary.add(out)
	if *shareProfile > 0 {
		printProfile(t, contestants[len(contestants)-1], size)
	}
}

// telemetry returns messages of a size that differ in their values, as those of driving vehicles do. Small ones have 14
// fields, those of 1 KB 62.
func telemetry(size int) [][]byte {
	out := make([][]byte, 512)
	for i := range out {
		p := fmt.Appendf(nil, `{"speed":%.1f,"soc":%.1f,"odometer":%.1f,"lat":%.6f,"lon":%.6f,"temp_battery":%.1f,"temp_motor":%.1f,`+
			`"voltage":%.1f,"current":%.1f,"gear":"D","charging":false`,
			10+float64(i%900)/10, 20+float64(i%700)/10, 10000+float64(i)*3.7, 31+float64(i)/1e4, 121+float64(i*7)/1e5,
			20+float64(i%90)/10, 40+float64(i%110)/10, 360+float64(i%300)/10, -100+float64(i%2000)/10)
		for cell := 0; len(p) < size-60; cell++ {
			p = fmt.Appendf(p, `,"cell_%02d":%.3f`, cell, 3.5+float64((i*31+cell*17)%600)/1000)
		}
		p = append(p, `,"note":"`...)
		for len(p) < size-2 {
			p = append(p, 'a'+byte((i+len(p))%26))
		}
		out[i] = append(p, `"}`...)
	}
	return out
}

func rulesOff(t *testing.T, load Load) server {
	t.Helper()
	s := gateway(t, "rules off", load, harness.Options{NoRules: true})
	s.span = *shareSpan
	return s
}

func kafkaOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check.OK(t, os.WriteFile(filepath.Join(dir, "telemetry.rules.yaml"), []byte(kafkaRules), 0o600))
	return dir
}

// delivering returns a gateway whose rules (the samples if empty) send to its own Apache Kafka and Redis; its CPU is
// measured until everything has been delivered.
func delivering(t *testing.T, name string, load Load, rules string) server {
	t.Helper()
	redis, _ := harness.Redis(t)
	g := harness.StartGateway(t, harness.Options{
		Kafka: harness.ApacheKafka(t, kafkaVersion, 1), Redis: redis, Rules: rules, Extra: unlimited,
	})
	load.Addr = g.Lab
	operator := g.OperatorToken()
	return server{name: name, load: load, proc: g.Process, gateway: g, span: *shareSpan, settle: func() {
		check.Within(t, 5*time.Minute, "delivery of everything", func() error { return g.Settled(operator) })
	}}
}

// printProfile prints the gateway's CPU profile under load.
func printProfile(t *testing.T, s server, size int) {
	t.Helper()
	file := filepath.Join(os.TempDir(), fmt.Sprintf("cellgate-rules-%dB.pprof", size))
	written := profileTo(t, s.gateway, file, *shareProfile)
	if _, _, err := s.load.Run(t.Context(), *shareProfile); err != nil {
		t.Fatal(err)
	}
	written()
	s.settle()
	cmd := exec.Command("go", "tool", "pprof", "-top", "-nodecount=30", harness.Binary(t), file) //nolint:gosec // our own paths
	cmd.Stderr = os.Stderr
	top, err := cmd.Output()
	check.OK(t, err)
	fmt.Printf("where the processor time goes with %s, %d B; more: go tool pprof -http : %s %s\n\n%s\n", s.name, size, harness.Binary(t), file, top)
}
