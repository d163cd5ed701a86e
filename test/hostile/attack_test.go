package hostile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"cellgate/test/mqtt"
)

// attack runs all attacks at once.
type attack struct {
	mqtt, lab, tls string // addresses
	stop           chan struct{}
	all            sync.WaitGroup

	mu           sync.Mutex
	held, opened map[string]int
}

// start returns when the sockets to hold are open.
func (a *attack) start(s hostileScale) {
	a.held, a.opened = map[string]int{}, map[string]int{}
	a.hold("never a CONNECT", s.silent, a.mqtt, nil, nil)
	a.hold("a byte a second", s.slow, a.mqtt, []byte{0x10}, []byte{0x7f})
	a.hold("half a TLS handshake", s.half, a.tls, []byte{22, 3, 1, 2, 0, 1}, nil)
	a.hold("256 MiB declared", s.oversized, a.mqtt, []byte{0x10, 0xff, 0xff, 0xff, 0x7f}, []byte("x"))
	for i := range s.stalled + greedySubscribers {
		a.all.Go(func() { a.neverReads(i) })
	}
	for name, attempt := range hostileFloods() {
		for range 2 {
			a.all.Go(func() { a.flood(name, attempt) })
		}
	}
}

func (a *attack) end() {
	close(a.stop)
	a.all.Wait()
}

func (a *attack) note(name string, opened, held int) {
	a.mu.Lock()
	a.opened[name] += opened
	a.held[name] = max(a.held[name], held)
	a.mu.Unlock()
}

// holdWorkers is how many goroutines open the sockets of one attack.
const holdWorkers = 8

// hold keeps n sockets open. Each sends first once, then again every second. A socket that the gateway closes is
// reopened.
func (a *attack) hold(name string, n int, addr string, first, again []byte) {
	a.note(name, 0, n)
	for w := range holdWorkers {
		conns := make([]net.Conn, n/holdWorkers+min(1, max(0, n%holdWorkers-w)))
		a.all.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for !stopped(a.stop) {
				a.keep(name, conns, addr, first, again)
				select {
				case <-tick.C:
				case <-a.stop:
				}
			}
			for _, c := range conns {
				hangUp(c)
			}
		})
	}
}

func (a *attack) keep(name string, conns []net.Conn, addr string, first, again []byte) {
	for i, c := range conns {
		if stopped(a.stop) {
			return
		}
		if c != nil && alive(c) {
			_, _ = c.Write(again)
			continue
		}
		hangUp(c)
		conns[i] = nil
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_, _ = c.Write(first)
			conns[i] = c
			a.note(name, 1, 0)
		}
	}
}

// alive reports, without blocking, whether the gateway has not closed the connection.
func alive(c net.Conn) bool {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT) //nolint:gosec // a descriptor
		open = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && open
}

// hangUp resets the connection: TIME_WAIT would use up the ports.
func hangUp(c net.Conn) {
	if c != nil {
		mqtt.HangUp(c)
	}
}

// greedySubscribers is how many clients send the largest SUBSCRIBEs and read no SUBACK.
const greedySubscribers = 2

// neverReads keeps requesting replies and reads none. Most clients publish; a few request long SUBACKs, which fill the
// kernel's buffers.
func (a *attack) neverReads(i int) {
	id := fmt.Sprintf("STALLED%d", i)
	frames := slices.Repeat(publishFrame(1, 1, "v1/"+id+"/up/x", "x"), 100)
	if i < greedySubscribers {
		frames = mqtt.Subscribe(mqtt.V4, 1, nil, slices.Repeat([]mqtt.Subscription{mqtt.Filter("x", 0)}, 30_000)...)
	}
	for !stopped(a.stop) {
		c, err := net.DialTimeout("tcp", a.lab, time.Second)
		if err != nil {
			continue
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4096)
		}
		a.note("never reads", 1, i+1)
		_, _ = c.Write(login(id, "").Encode())
		for rest := frames; !stopped(a.stop); {
			_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := c.Write(rest)
			if err != nil && !isTimeout(err) {
				break
			}
			if rest = rest[n:]; len(rest) == 0 {
				rest = frames
			}
		}
		hangUp(c)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // as the socket returns it
	return ok && timeout.Timeout()
}

// flood repeats an attempt without pause.
func (a *attack) flood(name string, attempt func(a *attack, n int)) {
	for n := 0; !stopped(a.stop); n++ {
		attempt(a, n)
		a.note(name, 1, 2)
	}
}

// hostileFloods returns the attacks that clients run in a loop, by name.
func hostileFloods() map[string]func(a *attack, n int) {
	then := func(frames ...[]byte) func(*attack, int) {
		return func(a *attack, n int) {
			id := fmt.Sprintf("EVIL%d", n%100)
			say(a.lab, slices.Concat(login(id, "").Encode(), slices.Concat(frames...)))
		}
	}
	first := func(frames ...[]byte) func(*attack, int) {
		return func(a *attack, _ int) { say(a.mqtt, slices.Concat(frames...)) }
	}
	return map[string]func(a *attack, n int){
		"frames before CONNECT":        first(publishFrame(1, 1, "v1/X/up/x", "early"), login("X", "").Encode()),
		"frames before CONNACK":        then(publishFrame(1, 1, "v1/OTHER/up/x", "early"), subscribeFrame(2, "#")),
		"frames after DISCONNECT":      then([]byte{0xE0, 0}, publishFrame(1, 1, "v1/EVIL/up/x", "late")),
		"second CONNECT":               then(login("again", "").Encode()),
		"larger than the maximum":      then(mqtt.Frame(0x30, make([]byte, 300<<10))),
		"a large length alone":         then([]byte{0x32, 0xff, 0xff, 0x3f}),
		"SUBSCRIBE flood":              then(slices.Repeat(subscribeFrame(1, "v1/+/cmd/#"), 500)),
		"wildcards on others' topics":  then(subscribeFrame(1, "#"), subscribeFrame(2, "v1/+/up/#"), subscribeFrame(3, "+/+/token")),
		"$share on others' topics":     then(subscribeFrame(1, "$share/g/v1/+/up/#"), subscribeFrame(2, "$share/g/$share/g/#")),
		"PUBREL flood":                 then(slices.Repeat([]byte{0x62, 2, 0, 1}, 2000)),
		"connect flood":                func(a *attack, _ int) { openAndClose(a.mqtt) },
		"TLS handshakes given up":      func(a *attack, _ int) { giveUp(a.tls) },
		"takeovers of one client":      func(a *attack, _ int) { say(a.lab, login("TAKEN", "").Encode()) },
		"random bytes":                 func(a *attack, _ int) { say(a.mqtt, randomBytes()) },
		"CONNECT with a foreign token": func(a *attack, _ int) { say(a.mqtt, login("LTESTGKD0XA000000", "e30.e30.x").Encode()) },
	}
}

// say sends bytes on a new connection and briefly reads the reply.
func say(addr string, b []byte) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return
	}
	defer hangUp(c)
	_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = c.Write(b)
	_, _ = io.Copy(io.Discard, c)
}

func openAndClose(addr string) {
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		hangUp(c)
	}
}

func giveUp(addr string) {
	raw, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return
	}
	defer hangUp(raw)
	_ = raw.SetDeadline(time.Now().Add(100 * time.Millisecond))
	_ = tls.Client(raw, &tls.Config{ServerName: "elsewhere", MinVersion: tls.VersionTLS12}).Handshake()
}

func randomBytes() []byte {
	b := make([]byte, 1+rand.N(64))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// login returns a CONNECT of 3.1.1. With a token the identifier is also the user name.
func login(id, token string) mqtt.Connect {
	o := mqtt.Connect{ID: id, Password: token, Keepalive: 60}
	if token != "" {
		o.User = id
	}
	return o
}

func publishFrame(qos byte, id uint16, topic, payload string) []byte {
	return mqtt.Publish{Topic: topic, Payload: payload, QoS: qos, ID: id}.Encode(mqtt.V4)
}

func subscribeFrame(id uint16, filter string) []byte {
	return mqtt.Subscribe(mqtt.V4, id, nil, mqtt.Filter(filter, 1))
}
