//go:build bench

package bench

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var (
	stormConns  = flag.Int("storm", 15000, "vehicles of the storm of TLS connects")
	stormRounds = flag.Int("storm-rounds", 3, "alternating rounds of the storm")
	stormAtOnce = flag.Int("storm-at-once", 64, "clients of the storm that are connecting at a time")
	bystanders  = flag.Int("bystanders", 500, "connected vehicles that publish once a second during the storm")
)

// wave is one storm of connects.
type wave struct {
	name    string
	load    Load
	proc    *harness.Process
	gateway *harness.Gateway // nil for others
	// resume gives the clients the session tickets of the previous wave; keep collects them.
	keep, resume bool
	tls12        bool // the clients speak only TLS 1.2
	against      int
}

// gust is the result of one wave.
type gust struct {
	sample         // connects per second, and CPU per connect, the bystanders' messages included
	client float64 // CPU of this process per connect, µs
	p99    float64 // of the bystanders' PUBACKs, ms
	shape  string  // of the TLS connections
}

// TestStorm compares storms of TLS 1.3 connects whose clients stay connected, while others publish: with ES256 tokens
// new to the gateway, against Mosquitto without tokens; then the gateway's full handshakes with known tokens against
// resumed ones.
func TestStorm(t *testing.T) {
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
	load := Load{Payload: payload(), Addr: g.MQTTS, TLS: clientTLS(t, g.CAFile())}
	_, other := mosquitto(t, Load{Payload: payload()})
	// The bystanders' vehicles are numbered after those of the rounds.
	calm := *stormConns * *stormRounds
	load.Password = tokensFrom(t, g, calm, *bystanders)
	mine := attend(t, load, calm)
	theirs := attend(t, other.load, calm)
	waves := []wave{
		{name: "cellgate, full, unseen ES256 tokens", load: load, proc: g.Process, gateway: g, against: 1},
		{name: "Mosquitto, full, no tokens", load: other.load, proc: other.proc, against: 1},
		{name: "cellgate, full, tokens seen before", load: load, proc: g.Process, gateway: g, keep: true, against: 2},
		{name: "cellgate, resumed, tokens seen before", load: load, proc: g.Process, gateway: g, resume: true, against: 2},
		{name: "cellgate, full, TLS 1.2", load: load, proc: g.Process, gateway: g, keep: true, tls12: true, against: 4},
		{name: "cellgate, resumed, TLS 1.2", load: load, proc: g.Process, gateway: g, resume: true, tls12: true, against: 4},
	}
	got := make([][]gust, len(waves))
	for round := range *stormRounds {
		tokens := tokensFrom(t, g, round**stormConns, *stormConns)
		configs, old := ownConfigs(load.TLS), ownConfigs(only12(load.TLS))
		for i, w := range waves {
			crowd, configs := mine, configs
			if w.tls12 {
				configs = old
			}
			if w.load.Password = tokens; i == 1 {
				w.load.Password, crowd = nil, theirs
			}
			m := blow(t, w, round, crowd, configs)
			got[i] = append(got[i], m)
			fmt.Printf("round %d/%d  %-38s %7.0f connects/s  %6.1f µs CPU/connect (client %.1f)  bystanders' PUBACK p99 %.1f ms\n",
				round+1, *stormRounds, w.name, m.rate, m.cpu, m.client, m.p99)
		}
	}
	reportStorm(waves, got)
}

func reportStorm(waves []wave, got [][]gust) {
	out := table{
		Title: fmt.Sprintf("storm of %d TLS connects that stay, %d at a time, beside %d vehicles at 1 message/s, medians of %d alternating rounds",
			*stormConns, *stormAtOnce, *bystanders, *stormRounds),
		Columns: []string{"wave", "TLS", "connects/s", "×", "of", "server CPU µs/connect", "client's", "bystanders' PUBACK p99 ms"},
	}
	rates := make([]float64, len(waves))
	for i := range waves {
		rates[i] = middle(got[i], func(m gust) float64 { return m.rate })
	}
	for i, w := range waves {
		p99 := middle(got[i], func(m gust) float64 { return m.p99 })
		out.row(w.name, got[i][0].shape, fmt.Sprintf("%.0f", rates[i]), fmt.Sprintf("%.2f", rates[i]/rates[w.against]), waves[w.against].name,
			fmt.Sprintf("%.1f", middle(got[i], func(m gust) float64 { return m.cpu })),
			fmt.Sprintf("%.1f", middle(got[i], func(m gust) float64 { return m.client })), fmt.Sprintf("%.1f", p99))
		if i != 1 {
			summary.atMost("storm, "+w.name+": PUBACK p99 of connected vehicles", p99, "ms", 100, 0)
		}
	}
	summary.atLeast("storm: TLS connects with unseen ES256 tokens", rates[0]/rates[1], "× Mosquitto without tokens", 0.7, 0)
	summary.atLeast("storm: resumed handshakes, TLS 1.3", rates[3]/rates[2], "× our own full ones", 1.5, 0)
	summary.atLeast("storm: resumed handshakes, TLS 1.2", rates[5]/rates[4], "× our own full ones", 1.5, 0)
	summary.add(out)
}

// attend connects the bystanders.
func attend(t *testing.T, load Load, first int) Pace {
	t.Helper()
	conns, _, err := Crowd{Load: load, First: first, Count: *bystanders, AtOnce: connecting}.Connect(t.Context())
	check.OK(t, err)
	t.Cleanup(func() { hangUp(conns) })
	return Pace{Conns: conns, First: first, Period: time.Second, Payload: load.Payload}
}

// only12 is a client's TLS for vehicles older than 2018. It resumes without a key exchange (RFC 5246, 7.3), unlike TLS
// 1.3 in Go (psk_dhe_ke, RFC 8446, 4.2.9).
func only12(base *tls.Config) *tls.Config {
	c := base.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return c
}

// ownConfigs gives every client a place for its session ticket.
func ownConfigs(base *tls.Config) []*tls.Config {
	configs := make([]*tls.Config, *stormConns)
	for i := range configs {
		configs[i] = base.Clone()
		configs[i].ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return configs
}

// calmBefore is the time that the bystanders publish before a wave.
const calmBefore = 500 * time.Millisecond

// blow connects one wave while the bystanders publish, and hangs up.
func blow(t *testing.T, w wave, round int, beside Pace, configs []*tls.Config) gust {
	t.Helper()
	before := descriptors(t, w.proc)
	stop, ended := make(chan struct{}), make(chan error, 1)
	var steady Paced
	go func() {
		var err error
		steady, err = beside.Run(10*time.Minute, stop)
		ended <- err
	}()
	time.Sleep(calmBefore) // part of the schedule, not a wait for a condition
	crowd := Crowd{Load: w.load, First: round * *stormConns, Count: *stormConns, AtOnce: *stormAtOnce}
	if w.keep || w.resume {
		crowd.Configs = configs
	}
	written := func() {}
	if round == *stormRounds-1 {
		written = profileOf(t, w.gateway, w.name, 2*time.Second)
	}
	used, own := cpu(t, w.proc), harness.OwnCPU(t)
	conns, took, err := crowd.Connect(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	used, own = cpu(t, w.proc)-used, harness.OwnCPU(t)-own
	close(stop)
	written()
	if err := <-ended; err != nil {
		t.Fatalf("%s: a connected vehicle: %v", w.name, err)
	}
	shape := tlsShape(t, conns, w.resume)
	hangUp(conns)
	awaitDescriptors(t, w.proc, before)
	return gust{
		sample: sample{rate: float64(*stormConns) / took.Seconds(), cpu: float64(used.Microseconds()) / float64(*stormConns)},
		client: float64(own.Microseconds()) / float64(*stormConns), p99: milliseconds(steady.P99), shape: shape,
	}
}

// tlsShape returns version and cipher of the connections, and fails the test if one was not resumed as the wave
// requires.
func tlsShape(t *testing.T, conns []net.Conn, resumed bool) string {
	t.Helper()
	var shape string
	for i, c := range conns {
		state := c.(*tls.Conn).ConnectionState()
		if state.DidResume != resumed {
			t.Fatalf("connection %d of %d: resumed %v, want %v", i, len(conns), state.DidResume, resumed)
		}
		shape = tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
	}
	return shape
}

// descriptors returns the number of files and sockets that a process has open.
func descriptors(t *testing.T, p *harness.Process) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	check.OK(t, err)
	return len(list)
}

// awaitDescriptors waits until the server has closed its ends of the connections, except for a few files of its own.
func awaitDescriptors(t *testing.T, p *harness.Process, before int) {
	t.Helper()
	check.Within(t, time.Minute, "the end of the connections", func() error {
		if now := descriptors(t, p); now > before+20 {
			return fmt.Errorf("%d descriptors, before %d", now, before)
		}
		return nil
	})
}
