package hostile

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// hostileScale is the size of TestHostileClients.
type hostileScale struct {
	silent, slow, half, oversized, stalled int // held sockets
	honest                                 int // vehicles
	descriptors                            int // of the gateway
	lasts                                  time.Duration
	limits                                 string // configuration; empty: the defaults
}

// hostileEnv selects the size: full for `make soak`, any other value for `make check`.
const hostileEnv = "HOSTILE"

func full() bool { return os.Getenv(hostileEnv) == "full" }

func scaleOfHostile() hostileScale {
	if full() {
		return hostileScale{
			silent: 5000, slow: 1000, half: 500, oversized: 500, stalled: 50, honest: 500, descriptors: 10_000, lasts: time.Minute,
		}
	}
	return hostileScale{
		silent: 400, slow: 100, half: 50, oversized: 50, stalled: 5, honest: 50, descriptors: 1400, lasts: 8 * time.Second,
		limits: "limits: {connect_timeout: 3s, handshake_timeout: 3s}\n",
	}
}

// Limits of the gateway under attack, which determine memoryBound.
const (
	hostileHandshakes = 8192      // the default
	hostileOutbound   = 512 << 10 // limits.outbound_bytes, the default
	hostileMaxPacket  = 256 << 10 // the default
	hostileConnect    = 16 << 10  // limits.max_connect_packet, the default
)

// memoryBound returns the bound of broker/DECISIONS.md: the idle memory plus twice (for the garbage collector) what
// clients of each kind can make the gateway hold.
func memoryBound(idle int64, s hostileScale) int64 {
	sockets := min(hostileHandshakes, s.descriptors-512)
	guests := int64(sockets) * (hostileConnect + 16<<10)
	vehicles := int64(s.honest) * (24 << 10)
	greedy := int64(s.stalled+greedySubscribers+2*len(hostileFloods())) * (2*hostileOutbound + 2*hostileMaxPacket)
	const journal = 32 << 20 // uplink.journal.buffer_bytes
	return idle + 2*(guests+vehicles+greedy+journal)
}

// TestHostileClients runs all attacks at once while honest vehicles, with tokens over TLS, continue: every PUBACK
// arrives, CONNECT stays fast, memory stays within its bound, nothing panics.
func TestHostileClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := scaleOfHostile()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: s.limits, Descriptors: s.descriptors})
	tokens := vehicleTokens(t, g, s.honest)
	idle := rss(t, g)
	fleet := newHonestFleet(g, tokens)
	fleet.start(t)
	before := rss(t, g)
	cpu, own := cpuOf(t, g), harness.OwnCPU(t)

	attack := &attack{mqtt: g.MQTT, lab: g.Lab, tls: g.MQTTS, stop: make(chan struct{})}
	attack.start(s)
	peak := watchRSS(t, g, s.lasts/2)
	exhaustDescriptors(t, g)
	peak = max(peak, watchRSS(t, g, s.lasts/2))
	check.Within(t, check.Patience, "every attack has had its effect", func() error { return attack.missing(rejected(t, g)) })
	cpu, own = cpuOf(t, g)-cpu, harness.OwnCPU(t)-own
	attack.end()
	fleet.end()
	if !full() {
		exceedConnectRate(t, g, s)
	}
	peak = max(peak, rss(t, g))

	bound := memoryBound(idle, s)
	fleet.report(t)
	attack.report(t, rejected(t, g))
	t.Logf("resident: %d MiB without clients, %d before the attack, %d at its peak, bound %d", idle>>20, before>>20, peak>>20, bound>>20)
	t.Logf("processor time in %v: %v of the gateway, %v of the clients", s.lasts, cpu.Round(time.Millisecond), own.Round(time.Millisecond))
	if peak > bound {
		t.Errorf("%d bytes resident, above the bound of %d", peak, bound)
	}
	if n := metric(t, g, "cellgate_connection_panics_total")[""]; n != 0 {
		t.Errorf("%v panics", n)
	}
	if n := metric(t, g, "cellgate_accept_errors_total")[""]; n == 0 {
		t.Error("descriptors were never exhausted")
	}
	if status, body, err := g.Get("/readyz", ""); err != nil || status != 200 {
		t.Errorf("readyz afterwards: %d %s %v", status, body, err)
	}
}

// exceedConnectRate lowers limits.connect_rate and exceeds it. A slow machine cannot exceed the default of 2,000 per
// second.
func exceedConnectRate(t *testing.T, g *harness.Gateway, s hostileScale) {
	t.Helper()
	before := rejected(t, g)["connect_rate"]
	g.Change(s.limits, strings.Replace(s.limits, "{", "{connect_rate: 1, ", 1))
	g.Signal(syscall.SIGHUP)
	check.Within(t, check.Patience, "connects above the rate are refused", func() error {
		if c, err := net.Dial("tcp", g.MQTT); err == nil {
			_ = c.Close()
		}
		if rejected(t, g)["connect_rate"] == before {
			return errors.New("none is refused")
		}
		return nil
	})
}

// exhaustDescriptors lowers the gateway's descriptor limit below its use for a second, again if no connection was asked for then.
func exhaustDescriptors(t *testing.T, g *harness.Gateway) {
	t.Helper()
	check.Within(t, check.Patience, "descriptors are exhausted", func() error {
		lowerDescriptors(t, g)
		if metric(t, g, "cellgate_accept_errors_total")[""] == 0 || rejected(t, g)["descriptors"] == 0 {
			return errors.New("no connection failed for a lack of descriptors")
		}
		return nil
	})
}

func lowerDescriptors(t *testing.T, g *harness.Gateway) {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.PID()))
	check.OK(t, err)
	// New descriptors get the lowest free numbers: with few free ones below the limit, the flood uses them up at once.
	var used []int
	for _, entry := range open {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			used = append(used, n)
		}
	}
	slices.Sort(used)
	limit := 32
	for i, n := range used {
		if n-i <= 5 {
			limit = max(limit, n-20)
		}
	}
	old := g.LimitDescriptors(uint64(limit)) //nolint:gosec // not negative
	time.Sleep(time.Second)                  // duration of the shortage
	g.LimitDescriptors(old)
}

func rss(t *testing.T, g *harness.Gateway) int64 {
	t.Helper()
	n, err := g.RSS()
	check.OK(t, err)
	return n
}

func cpuOf(t *testing.T, g *harness.Gateway) time.Duration {
	t.Helper()
	d, err := g.CPU()
	check.OK(t, err)
	return d
}

func watchRSS(t *testing.T, g *harness.Gateway, d time.Duration) (peak int64) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		peak = max(peak, rss(t, g))
	}
	return peak
}

// vehicleTokens issues a token for each of n vehicles.
func vehicleTokens(t *testing.T, g *harness.Gateway, n int) map[string]string {
	t.Helper()
	vins := make([]string, n)
	for i := range vins {
		vins[i] = fmt.Sprintf("LTESTGKD%dXA%06d", i%10, i)
	}
	file := g.Dir + "/vins"
	check.OK(t, os.WriteFile(file, []byte(strings.Join(vins, "\n")), 0o600))
	lines := strings.Fields(g.Cellgate("token", "issue", "--config", g.Config, "--vins", file))
	if len(lines) != n {
		t.Fatalf("%d tokens for %d vehicles", len(lines), n)
	}
	tokens := make(map[string]string, n)
	for i, vin := range vins {
		tokens[vin] = lines[i]
	}
	return tokens
}

// metric returns a metric's values by its label reason, "" without the label.
func metric(t *testing.T, g *harness.Gateway, name string) map[string]float64 {
	t.Helper()
	status, body, err := g.Get("/metrics", "")
	if err != nil || status != 200 {
		t.Fatalf("metrics: %d %v", status, err)
	}
	values := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, name); !ok || rest == "" || (rest[0] != '{' && rest[0] != ' ') {
			continue
		}
		_, reason, _ := strings.Cut(line, `reason="`)
		reason, _, _ = strings.Cut(reason, `"`)
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			t.Fatalf("metrics: %s: %v", line, err)
		}
		values[reason] += v
	}
	return values
}

func rejected(t *testing.T, g *harness.Gateway) map[string]float64 {
	t.Helper()
	return metric(t, g, "cellgate_rejected_total")
}

// report logs a table of the attacks and the gateway's counters.
func (a *attack) report(t *testing.T, rejected map[string]float64) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "attack\tsockets at once\topened")
	a.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(a.opened)) {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\n", name, a.held[name], a.opened[name])
	}
	a.mu.Unlock()
	_, _ = fmt.Fprintln(w, "\nrejected_total{reason}\tcount\t")
	for _, reason := range slices.SortedFunc(maps.Keys(rejected), func(x, y string) int { return cmp.Compare(rejected[y], rejected[x]) }) {
		_, _ = fmt.Fprintf(w, "%s\t%.0f\t\n", reason, rejected[reason])
	}
	_ = w.Flush()
	t.Logf("\n%s", b.String())
	if err := a.missing(rejected); err != nil {
		t.Error(err)
	}
	if rejected["connect_rate"] == 0 {
		t.Error("nothing was refused for connect_rate")
	}
}

// missing returns an error while an attack has not had its effect.
func (a *attack) missing(rejected map[string]float64) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, n := range a.opened {
		if n == 0 {
			err = errors.Join(err, fmt.Errorf("%s never reached the gateway", name))
		}
	}
	for _, reason := range []string{"violation", "handshake", "connect_timeout", "descriptors", "subscribe_not_permitted"} {
		if rejected[reason] == 0 {
			err = errors.Join(err, fmt.Errorf("nothing was refused for %s", reason))
		}
	}
	return err
}
