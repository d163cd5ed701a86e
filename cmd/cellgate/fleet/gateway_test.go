package fleet

import (
	"net"
	"sync"
	"testing"

	"cellgate/test/check"
)

// gateway is the least of a gateway: it accepts, acknowledges, and does on purpose what a test asks for.
type gateway struct {
	t    *testing.T
	ln   net.Listener
	mu   sync.Mutex
	got  []published
	wait sync.WaitGroup
	conn map[net.Conn]bool
	// onPublish decides what happens to the nth PUBLISH of a connection: its answer's reason code, and
	// whether the connection is cut instead.
	onPublish func(nth int, p published) (code byte, cut bool)
	// connack answers a CONNECT; nil accepts, with a session if the client was seen before.
	connack func(client string) []byte
	clients map[string]bool
	command []byte // frame sent after SUBSCRIBE
}

type published struct {
	client, topic, payload string
	id                     uint16
	dup                    bool
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	return &gateway{t: t, ln: ln, conn: make(map[net.Conn]bool), clients: make(map[string]bool)}
}

func (g *gateway) start() string {
	g.wait.Go(func() {
		for {
			c, err := g.ln.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conn[c] = true
			g.mu.Unlock()
			g.wait.Go(func() { g.serve(c) })
		}
	})
	g.t.Cleanup(func() {
		_ = g.ln.Close()
		g.mu.Lock()
		for c := range g.conn {
			_ = c.Close()
		}
		g.mu.Unlock()
		g.wait.Wait()
	})
	return g.ln.Addr().String()
}

func (g *gateway) messages() []published {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]published(nil), g.got...)
}

func (g *gateway) serve(c net.Conn) {
	defer c.Close() //nolint:errcheck // a test
	client, nth := "", 0
	for {
		f, err := readFrame(c)
		if err != nil {
			return
		}
		var answer []byte
		switch f.kind() {
		case typeConnect:
			client, answer = g.connected(f)
		case typeSubscribe:
			id := f.body[:2]
			answer = append([]byte{typeSuback << 4, 5, id[0], id[1], 0, 1, 1}, g.command...)
		case typePingreq:
			answer = []byte{typePingresp << 4, 0}
		case typeDisconnect:
			return
		case typePublish:
			nth++
			p, err := parsePublish(f, MQTT5)
			if err != nil {
				g.t.Error(err)
				return
			}
			m := published{client, p.topic, string(p.payload), p.id, f.head&flagDup != 0}
			g.mu.Lock()
			g.got = append(g.got, m)
			g.mu.Unlock()
			code, cut := byte(0), false
			if g.onPublish != nil {
				code, cut = g.onPublish(nth, m)
			}
			if cut {
				return
			}
			if p.qos > 0 {
				answer = append([]byte{typePuback << 4, 3}, byte(p.id>>8), byte(p.id), code)
			}
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

func (g *gateway) connected(f frame) (client string, answer []byte) {
	body := f.body[2+4+1+1+2:] // protocol name, version, flags, keepalive
	n, body, _ := cutLength(body)
	id, _, _ := cutString(body[n:])
	client = string(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.connack != nil {
		if a := g.connack(client); a != nil {
			return client, a
		}
	}
	present := byte(0)
	if g.clients[client] {
		present = 1
	}
	g.clients[client] = true
	return client, []byte{typeConnack << 4, 3, present, 0, 0}
}

// commandFrame is a PUBLISH of a command at QoS 1.
func commandFrame(vin, id, name string) []byte {
	return appendPublish(nil, MQTT5, 1, "v1/"+vin+"/cmd/"+id+"/"+name, []byte(`{}`))
}

// refusing is a CONNACK with a reason code and a server reference.
func refusing(code byte, ref string) []byte {
	props := []byte{}
	if ref != "" {
		props = appendString([]byte{propServerRef}, ref)
	}
	body := append([]byte{0, code, byte(len(props))}, props...)
	return append([]byte{typeConnack << 4, byte(len(body))}, body...)
}
