package broker

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// The load of BenchmarkUplink comes from a separate process, like that of BenchmarkIdle.
const (
	loadAddress  = "CELLGATE_LOAD_ADDRESS"
	loadMessages = "CELLGATE_LOAD_MESSAGES"
	loadClients  = 200
	loadWindow   = 16
	loadPayload  = 256
)

// TestUplinkLoad is the load process: 200 clients with 16 unacknowledged QoS 1 messages each.
func TestUplinkLoad(t *testing.T) {
	address := os.Getenv(loadAddress)
	if address == "" {
		t.Skip("the load process of BenchmarkUplink")
	}
	total, err := strconv.Atoi(os.Getenv(loadMessages))
	check.OK(t, err)
	var left atomic.Int64
	left.Store(int64(total))
	conns := make([]net.Conn, loadClients)
	for i := range conns {
		c, err := mqtt.Open(address, mqtt.Connect{ID: idleVIN(i), Keepalive: 60}, nil)
		check.OK(t, err)
		check.OK(t, c.Conn.SetDeadline(time.Time{}))
		conns[i] = c.Conn
	}
	fmt.Println("connected")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { loadClient(c, idleVIN(i), &left) })
	}
	wg.Wait()
	fmt.Println("done")
}

// loadClient keeps the window full until no message is left, and waits for the last acknowledgement.
func loadClient(c net.Conn, vin string, left *atomic.Int64) {
	var burst []byte
	for id := uint16(1); id <= loadWindow; id++ {
		burst = append(burst, publishFrame(4, 1, id, "v1/"+vin+"/up/telemetry", strings.Repeat("x", loadPayload))...)
	}
	size := len(burst) / loadWindow
	in := make([]byte, 4*loadWindow)
	free := loadWindow
	for {
		send := int(min(int64(free), max(0, left.Add(-int64(free))+int64(free))))
		if send > 0 {
			if _, err := c.Write(burst[:send*size]); err != nil {
				return
			}
		}
		free -= send
		if free == loadWindow {
			return
		}
		n, err := io.ReadAtLeast(c, in, 4)
		if err != nil {
			return
		}
		for n%4 != 0 {
			m, err := c.Read(in[n:])
			if err != nil {
				return
			}
			n += m
		}
		free += n / 4
	}
}

// BenchmarkUplink measures the server's side of 200 clients with 16 unacknowledged QoS 1 messages of 256 bytes each.
// Every message is journaled and fsynced before its PUBACK. cpu-ns/msg is the server process's user and system time.
func BenchmarkUplink(b *testing.B) {
	h := newHarness(b, func(o *Options) { o.Metrics = NewMetrics(nil) })
	total := max(b.N, 1000)
	cmd := exec.Command(os.Args[0], "-test.run=^TestUplinkLoad$")
	cmd.Env = append(os.Environ(), loadAddress+"="+h.b.Addrs()["cars"].String(), loadMessages+"="+strconv.Itoa(total))
	in, err := cmd.StdinPipe()
	check.OK(b, err)
	out, err := cmd.StdoutPipe()
	check.OK(b, err)
	check.OK(b, cmd.Start())
	lines := bufio.NewReader(out)
	await := func(want string) {
		if line, err := lines.ReadBytes('\n'); err != nil || !bytes.HasPrefix(line, []byte(want)) {
			b.Fatalf("load process: %q, %v", line, err)
		}
	}
	await("connected")
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	cpu := cpuTime(b)
	start := time.Now()
	b.ResetTimer()
	_, err = in.Write([]byte("\n"))
	check.OK(b, err)
	await("done")
	b.StopTimer()
	took := time.Since(start)
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(total), "cpu-ns/msg")
	runtime.ReadMemStats(&m1)
	b.ReportMetric(float64(m1.Mallocs-m0.Mallocs)/float64(total), "allocs/msg")
	b.ReportMetric(float64(total)/took.Seconds(), "msg/s")
	check.OK(b, in.Close())
	check.OK(b, cmd.Wait())
	if last := h.journal.Durable(); last < uint64(total) {
		b.Errorf("%d records are durable of %d acknowledged", last, total)
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru syscall.Rusage
	check.OK(b, syscall.Getrusage(syscall.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
