package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// TestHostileClients runs honest vehicles next to hostile clients. The vehicles get every acknowledgement, new ones
// connect, with HOSTILE=full (make hostile) within 2 s each, and memory stays within the bound.
func TestHostileClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	ca := newTestCA(t)
	h := newHarness(t, func(o *Options) {
		o.Listeners = append(o.Listeners, Listener{
			Name: "tls", Address: "127.0.0.1:0", AnonymousRole: "vehicle",
			TLS: &TLS{Cert: ca.cert, Key: ca.key},
		})
		o.Limits.Handshakes, o.Limits.ConnectRate = 2000, 20_000
		o.Limits.ConnectTimeout, o.Limits.WriteTimeout = 5*time.Second, 2*time.Second
	})
	stop := make(chan struct{})
	var attackers, honest sync.WaitGroup
	for _, attack := range attacks(h, 100) {
		attackers.Go(func() { attack(stop) })
	}
	var acked atomic.Int64
	for i := range 20 {
		honest.Go(func() { honestVehicle(h, i, 30, &acked) })
	}
	before := heap()
	honest.Wait()
	grown := int64(heap()) - int64(before)
	var slowest time.Duration
	for i := range 20 {
		start := time.Now()
		h.connect("cars", fmt.Sprintf("LTESTNEW%09d", i), 4, mqtt.Connect{})
		slowest = max(slowest, time.Since(start))
	}
	close(stop)
	attackers.Wait()
	if acked.Load() != 20*30 {
		t.Errorf("%d of 600 messages were acknowledged", acked.Load())
	}
	if os.Getenv("HOSTILE") == "full" && slowest > 2*time.Second {
		t.Errorf("a CONNECT took %v", slowest)
	}
	if grown > 64<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := testutil.ToFloat64(h.metrics.panics); n != 0 {
		t.Errorf("%v panics: %s", n, h.logs.String())
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func honestVehicle(h *harness, i, messages int, acked *atomic.Int64) {
	vin := fmt.Sprintf("LTESTGOOD%08d", i)
	c := h.connect("cars", vin, 5, mqtt.Connect{Keepalive: 30})
	for n := uint16(1); n <= uint16(messages); n++ {
		c.Send(publishFrame(5, 1, n, "v1/"+vin+"/up/telemetry", "x"))
		c.ExpectFrame(0x40, puback(n)...)
		acked.Add(1)
		time.Sleep(20 * time.Millisecond) // the vehicle's pace; nothing is awaited
	}
}

// attacks returns the attacks. Those that need many clients use n.
func attacks(h *harness, n int) []func(stop <-chan struct{}) {
	address, secure := h.b.Addrs()["cars"].String(), h.b.Addrs()["tls"].String()
	hold := func(address string, first []byte, again []byte) func(<-chan struct{}) {
		return func(stop <-chan struct{}) { holdSockets(address, n, first, again, stop) }
	}
	attacker := func(frames ...[]byte) func(<-chan struct{}) {
		return func(stop <-chan struct{}) {
			for i := 0; !stopped(stop); i++ {
				once(address, slices.Concat(connectFrame(fmt.Sprintf("EVIL%d", i), 5, mqtt.Connect{}), slices.Concat(frames...)))
			}
		}
	}
	return []func(<-chan struct{}){
		hold(address, nil, nil),                                  // never a CONNECT
		hold(address, []byte{0x10}, []byte{0x7f}),                // a byte now and then
		hold(secure, []byte{22, 3, 1}, nil),                      // half a TLS handshake
		hold(address, []byte{0x10, 0xff, 0xff, 0xff, 0x7f}, nil), // 256 MiB announced
		attacker(mqtt.Frame(0x30, make([]byte, 300<<10))),        // larger than the maximum
		attacker([]byte{0x32, 0xff, 0xff, 0x3f}),                 // a large length and nothing after it
		attacker(connectFrame("again", 5, mqtt.Connect{})),
		attacker([]byte{0xE0, 0}, publishFrame(5, 1, 1, "v1/EVIL/up/x", "after DISCONNECT")),
		attacker(slices.Repeat(subscribeFrame(5, 1, "$share/g/v1/+/up/#", 1), 200)),
		attacker(slices.Repeat(subscribeFrame(5, 1, "v1/+/cmd/#", 1), 200)),
		attacker(slices.Repeat([]byte{0x62, 2, 0, 1}, 2000)), // PUBRELs of unknown identifiers
		func(stop <-chan struct{}) {
			for !stopped(stop) {
				once(address, randomBytes())
				once(secure, randomBytes())
			}
		},
		func(stop <-chan struct{}) {
			cfg := &tls.Config{InsecureSkipVerify: true}
			for !stopped(stop) {
				if c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", secure, cfg); err == nil {
					_ = c.Close()
				}
			}
		},
		func(stop <-chan struct{}) { neverReads(address, stop) },
	}
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

func once(address string, b []byte) {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = c.Write(b)
	in := make([]byte, 4096)
	for {
		if _, err := c.Read(in); err != nil {
			return
		}
	}
}

func holdSockets(address string, n int, first, again []byte, stop <-chan struct{}) {
	var conns []net.Conn
	for range n {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_, _ = c.Write(first)
			conns = append(conns, c)
		}
	}
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for !stopped(stop) {
		for _, c := range conns {
			_, _ = c.Write(again)
		}
		select {
		case <-t.C:
		case <-stop:
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
}

func neverReads(address string, stop <-chan struct{}) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(connectFrame("EVILSTALLED", 4, mqtt.Connect{}))
	f := slices.Repeat(publishFrame(4, 1, 1, "v1/EVILSTALLED/up/x", "x"), 100)
	for !stopped(stop) {
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Write(f)
	}
}

func randomBytes() []byte {
	b := make([]byte, 1+rand.N(64))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	b[0] = byte(rand.N(16))<<4 | 2
	return b
}

// exhausted is a listener whose first accepts fail with EMFILE.
type exhausted struct {
	net.Listener
	failures atomic.Int64
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvivesEMFILE(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	broken := &exhausted{Listener: ln}
	broken.failures.Store(3)
	l := &listener{name: "x", ln: broken, protocol: protocolMQTT}
	taken := make(chan net.Conn, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := h.b.acceptNext(l); c != nil; c = h.b.acceptNext(l) {
			taken <- c
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	check.OK(t, err)
	defer func() { _ = c.Close() }()
	check.OK(t, (<-taken).Close())
	if n := testutil.ToFloat64(h.metrics.acceptErrors); n != 3 {
		t.Errorf("%v errors counted", n)
	}
	check.OK(t, ln.Close())
	<-done
}

// A filter on another client's topics is refused in every form.
func TestForeignFilters(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t)
		c := h.connect("cars", testVIN, version, mqtt.Connect{})
		want := byte(0x80)
		if version == 5 {
			want = frame.ReasonNotAuthorized
		}
		for i, filter := range []string{
			"#", "+/#", "v1/#", "v1/+/up/#", "v1/+/cmd/#", "v1/other/cmd/#", "$share/g/#", "$share/g/v1/+/cmd/#", "$SHARE/g/v1/+/cmd/#",
			"$share/g/$share/g/v1/+/cmd/#", "$SYS/#", "v1/other/token", "v1/+/token",
		} {
			id := uint16(i + 1)
			c.Send(subscribeFrame(version, id, filter, 1))
			first, body, err := c.ReadFrame()
			if err != nil || first != 0x90 || body[len(body)-1] != want {
				t.Errorf("%s: %#x % x, %v", filter, first, body, err)
			}
		}
		if n := h.index.Count(); n != 0 {
			t.Errorf("%d subscriptions are in the index", n)
		}
	})
}

// A failed read(2) returns its errno.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	if _, err := readSocket(^uintptr(0), make([]byte, 1)); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
}
