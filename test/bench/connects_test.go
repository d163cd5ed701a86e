//go:build bench

package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var connects = flag.Int("connects", 4000, "vehicles of the comparison of connects")

// connecting is the number of clients that connect at a time.
const connecting = 32

// TestConnects reports connects per second and server CPU per connect: without tokens, with tokens new to the gateway,
// and with the same tokens again, which it has verified before; plain and over TLS.
func TestConnects(t *testing.T) {
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: unlimited})
	plain, secure := Load{Addr: g.MQTT}, Load{Addr: g.MQTTS, TLS: g.ClientTLS()}
	got := map[string][]sample{}
	names := []string{"plain, no token", "plain, token seen first", "plain, token seen before", "TLS, token seen before"}
	for round := range *rounds {
		first := round * *connects
		plain.Password = tokensFrom(t, g, first, *connects)
		secure.Password = plain.Password
		for i, load := range []Load{{Addr: g.Lab}, plain, plain, secure} {
			s := connectAll(t, g, load, first)
			got[names[i]] = append(got[names[i]], s)
			fmt.Printf("round %d/%d  %-26s %9.0f connects/s  %6.1f µs CPU/connect\n", round+1, *rounds, names[i], s.rate, s.cpu)
		}
	}
	out := table{
		Title:   fmt.Sprintf("connects, %d vehicles, %d at a time, medians of %d alternating rounds", *connects, connecting, *rounds),
		Columns: []string{"kind", "connects/s", "server CPU µs/connect", "× no token"},
	}
	reference := median(got[names[0]])
	for _, name := range names {
		m := median(got[name])
		out.row(name, fmt.Sprintf("%.0f", m.rate), fmt.Sprintf("%.1f", m.cpu), fmt.Sprintf("%.2f", m.cpu/reference.cpu))
	}
	summary.add(out)
}

// tokensFrom issues tokens for n vehicles, numbered from first.
func tokensFrom(t *testing.T, g *harness.Gateway, first, n int) func(string) string {
	t.Helper()
	file := filepath.Join(g.Dir, "connects.txt")
	vins := make([]string, n)
	for i := range vins {
		vins[i] = VIN(first + i)
	}
	check.OK(t, os.WriteFile(file, []byte(strings.Join(vins, "\n")), 0o600))
	list := strings.Fields(g.Cellgate("token", "issue", "--config", g.Config, "--vins", file))
	byVIN := make(map[string]string, n)
	for i, token := range list {
		byVIN[vins[i]] = token
	}
	return func(vin string) string { return byVIN[vin] }
}

// connectAll connects every vehicle once, and disconnects it.
func connectAll(t *testing.T, g *harness.Gateway, load Load, first int) sample {
	t.Helper()
	before, begin := cpu(t, g.Process), time.Now()
	errs := make([]error, connecting)
	var all sync.WaitGroup
	for worker := range connecting {
		all.Go(func() {
			for i := worker; i < *connects && errs[worker] == nil; i += connecting {
				c, err := load.connect(t.Context(), VIN(first+i))
				if errs[worker] = err; err != nil {
					return
				}
				_, _ = c.Write([]byte{0xE0, 0})
				_ = c.Close()
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Fatal(errs[i])
	}
	used := cpu(t, g.Process) - before
	return sample{rate: float64(*connects) / took.Seconds(), cpu: float64(used.Microseconds()) / float64(*connects)}
}
