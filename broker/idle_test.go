package broker

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// The clients of BenchmarkIdle run in a separate process, so that the measured resident memory is only the server's.
// The test binary, started with these variables, runs only TestIdleClients.
const (
	idleAddress = "CELLGATE_IDLE_ADDRESS"
	idleCount   = "CELLGATE_IDLE_COUNT"
	idleTLS     = "CELLGATE_IDLE_TLS"
)

// TestIdleClients is the client process. It connects and prints a line, publishes 1 KB per client after reading a line
// and prints a line, and ends when its input ends.
func TestIdleClients(t *testing.T) {
	address := os.Getenv(idleAddress)
	if address == "" {
		t.Skip("the client process of BenchmarkIdle")
	}
	n, err := strconv.Atoi(os.Getenv(idleCount))
	check.OK(t, err)
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = idleClient(t, address, i)
	}
	fmt.Println("connected")
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	for i, c := range conns {
		_, err := c.Write(publishFrame(4, 1, 1, "v1/"+idleVIN(i)+"/up/telemetry", strings.Repeat("x", 1000)))
		check.OK(t, err)
		_, err = io.ReadFull(c, make([]byte, 4))
		check.OK(t, err)
	}
	fmt.Println("published")
	_, _ = in.ReadString('\n')
}

func idleVIN(i int) string { return fmt.Sprintf("LTEST%012d", i) }

func idleClient(t *testing.T, address string, i int) net.Conn {
	var config *tls.Config
	if os.Getenv(idleTLS) != "" {
		config = &tls.Config{InsecureSkipVerify: true}
	}
	c, err := mqtt.Open(address, mqtt.Connect{ID: idleVIN(i), Keep: true, Keepalive: 1200}, config)
	check.OK(t, err)
	check.OK(t, c.Conn.SetDeadline(time.Time{}))
	return c.Conn
}

// BenchmarkIdle prints the resident memory per idle connection, before and after each has published 1 KB. Use
// -benchtime 1x; other values have no effect.
func BenchmarkIdle(b *testing.B) {
	for _, name := range []string{"plain", "tls"} {
		b.Run(name, func(b *testing.B) { benchmarkIdle(b, name == "tls") })
	}
}

func benchmarkIdle(b *testing.B, secure bool) {
	n := 5000
	if s := os.Getenv("IDLE_CONNECTIONS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	h := newHarness(b, func(o *Options) {
		o.Limits.ConnectRate = 0
		if secure {
			ca := newTestCA(b)
			o.Listeners[2].TLS = &TLS{Cert: ca.cert, Key: ca.key}
		}
	})
	before := resident(b)
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleClients$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), idleAddress+"="+h.b.Addrs()["cars"].String(), idleCount+"="+strconv.Itoa(n))
	if secure {
		cmd.Env = append(cmd.Env, idleTLS+"=1")
	}
	in, err := cmd.StdinPipe()
	check.OK(b, err)
	out, err := cmd.StdoutPipe()
	check.OK(b, err)
	cmd.Stderr = os.Stderr
	check.OK(b, cmd.Start())
	lines := bufio.NewReader(out)
	step := func(want string) float64 {
		line, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != want {
			b.Fatalf("client process: %q, %v", line, err)
		}
		time.Sleep(trimAfter + wheelSlots*wheelTick + time.Second) // until the wheel has checked every connection
		return float64(resident(b)-before) / float64(n)
	}
	b.ReportMetric(step("connected"), "B/conn")
	_, err = in.Write([]byte("\n"))
	check.OK(b, err)
	b.ReportMetric(step("published"), "B/conn-published")
	if got := h.b.Connections(); got != n {
		b.Errorf("%d connections are left of %d", got, n)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.StackInuse)/float64(n), "stack-B/conn")
	b.ReportMetric(float64(m.HeapInuse)/float64(n), "heap-B/conn")
	check.OK(b, in.Close())
	check.OK(b, cmd.Wait())
}

// resident returns the process's resident memory in bytes, after the garbage collector has released what it can.
func resident(b *testing.B) int64 {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	statm := check.Read(b, "/proc/self/statm")
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	check.OK(b, err)
	return pages * int64(os.Getpagesize())
}
