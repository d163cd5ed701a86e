//go:build bench

package bench

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"cellgate/test/harness"
)

var (
	pacedConns  = flag.Int("paced", 10000, "connections that publish once a second")
	pacedSpan   = flag.Duration("paced-span", 15*time.Second, "length of one measurement of the paced comparison")
	pacedRounds = flag.Int("paced-rounds", 3, "alternating rounds of the paced comparison")
	pacedWarm   = flag.Duration("paced-warm", 3*time.Second, "paced load before a measurement begins")
)

// steady is the result of one measurement of a paced load.
type steady struct {
	sample
	p50, p99, worst float64 // PUBACK from when the message was due, ms
}

// TestPaced compares 10,000 connections that publish once a second each, spread evenly, plain and TLS: server CPU per
// message and PUBACK latency from when a message was due.
func TestPaced(t *testing.T) {
	contestants := pair(t, Load{Conns: *pacedConns, Payload: payload()})
	got := make([][]steady, len(contestants))
	for round := range *pacedRounds {
		for i, s := range contestants {
			m := pace(t, s, round == *pacedRounds-1)
			got[i] = append(got[i], m)
			fmt.Printf("round %d/%d  %-30s %7.0f acked/s  %6.2f µs CPU/message  PUBACK p50 %.2f p99 %.2f max %.1f ms\n",
				round+1, *pacedRounds, s.name, m.rate, m.cpu, m.p50, m.p99, m.worst)
		}
	}
	out := table{
		Title: fmt.Sprintf("%d connections × 1 message/s, %d B, QoS 1, medians of %d alternating rounds of %v",
			*pacedConns, len(payload()), *pacedRounds, *pacedSpan),
		Columns: []string{"server", "acked/s", "server CPU µs/message", "× Mosquitto", "PUBACK p50 ms", "p99 ms", "max ms"},
	}
	for i, s := range contestants {
		cpu := middle(got[i], func(m steady) float64 { return m.cpu })
		p99 := middle(got[i], func(m steady) float64 { return m.p99 })
		reference := middle(got[s.against], func(m steady) float64 { return m.cpu })
		out.row(s.name, fmt.Sprintf("%.0f", middle(got[i], func(m steady) float64 { return m.rate })), fmt.Sprintf("%.2f", cpu),
			fmt.Sprintf("%.2f", cpu/reference), fmt.Sprintf("%.2f", middle(got[i], func(m steady) float64 { return m.p50 })),
			fmt.Sprintf("%.2f", p99), fmt.Sprintf("%.1f", middle(got[i], func(m steady) float64 { return m.worst })))
		if s.against != i {
			what := fmt.Sprintf("%d × 1 message/s, %s", *pacedConns, s.name)
			summary.atMost(what+": server CPU per message", cpu/reference, "× Mosquitto", 2.2, 1.5)
			summary.atMost(what+": PUBACK p99", p99, "ms", 15, 0)
		}
	}
	summary.add(out)
}

// pair returns the gateway with rules off and Mosquitto, plain and TLS.
func pair(t *testing.T, load Load) []server {
	t.Helper()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
	plain, secure := load, load
	plain.Addr = g.Lab
	secure.Addr, secure.TLS, secure.Password = g.MQTTS, clientTLS(t, g.CAFile()), tokensFrom(t, g, 0, load.Conns)
	mosquittoPlain, mosquittoTLS := mosquitto(t, load)
	servers := []server{
		{name: "cellgate, rules off", load: plain, proc: g.Process, gateway: g, settle: func() {}},
		mosquittoPlain,
		{name: "cellgate, rules off, TLS", load: secure, proc: g.Process, gateway: g, settle: func() {}},
		mosquittoTLS,
	}
	servers[0].against, servers[1].against, servers[2].against, servers[3].against = 1, 1, 3, 3
	return servers
}

// pace connects, warms up and measures one server; with profiled it continues for a profile.
func pace(t *testing.T, s server, profiled bool) steady {
	t.Helper()
	before := descriptors(t, s.proc)
	conns, _, err := Crowd{Load: s.load, Count: s.load.Conns, AtOnce: connecting}.Connect(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	defer func() {
		hangUp(conns)
		awaitDescriptors(t, s.proc, before)
	}()
	p := Pace{Conns: conns, Period: time.Second, Payload: s.load.Payload}
	if _, err := p.Run(*pacedWarm, nil); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	used := cpu(t, s.proc)
	m, err := p.Run(*pacedSpan, nil)
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	used = cpu(t, s.proc) - used
	if profiled {
		written := profileOf(t, s.gateway, s.name, *pacedSpan)
		if _, err := p.Run(*pacedSpan, nil); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		written()
	}
	if m.Acked != m.Sent {
		t.Fatalf("%s: %d of %d acknowledged", s.name, m.Acked, m.Sent)
	}
	return steady{
		sample: sample{rate: float64(m.Acked) / m.Took.Seconds(), cpu: float64(used.Microseconds()) / float64(m.Acked)},
		p50:    milliseconds(m.P50), p99: milliseconds(m.P99), worst: milliseconds(m.Max),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
