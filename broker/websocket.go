package broker

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// serveWebSocket serves MQTT over WebSocket (MQTT 5, section 6): binary messages, subprotocol mqtt, frames and
// messages unaligned. It is for services and test benches: unlike a plain or TLS connection, an idle one
// keeps its buffers.
func (b *Broker) serveWebSocket(l *listener) {
	mux := http.NewServeMux()
	mux.HandleFunc(l.path, func(w http.ResponseWriter, r *http.Request) { b.upgrade(l, w, r) })
	limits := b.limits.Load()
	server := &http.Server{
		// ReadTimeout is for what does not become a WebSocket: its body, and its wait for the next request.
		Handler: mux, ReadTimeout: limits.HandshakeTimeout, MaxHeaderBytes: 16 << 10, ConnContext: withSocket,
		ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	if l.tls != nil {
		server.TLSConfig = l.tls.server.Clone()
	}
	if sockets := (webSockets{b, l}); l.tls != nil {
		_ = server.ServeTLS(sockets, "", "")
	} else {
		_ = server.Serve(sockets)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	_ = server.Close()
}

// upgrade turns one request into a connection.
func (b *Broker) upgrade(l *listener, w http.ResponseWriter, r *http.Request) {
	if !offersMQTT(r) {
		b.metrics.connects.WithLabelValues("websocket").Inc()
		http.Error(w, "WebSocket subprotocol mqtt is required", http.StatusBadRequest)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"mqtt"}, CompressionMode: websocket.CompressionDisabled,
		// Clients are not browsers with cookies: a token decides.
		InsecureSkipVerify: true,
	})
	if err != nil {
		b.metrics.connects.WithLabelValues("websocket").Inc()
		return
	}
	socket := socketOf(r)
	nc := &wsConn{
		Conn: websocket.NetConn(b.ctx, ws, websocket.MessageBinary), ws: ws, socket: socket, tls: r.TLS,
	}
	ws.SetReadLimit(int64(b.limits.Load().MaxPacket) + wsMessageSlack)
	b.handshakes.Add(1)
	b.serve(l, nc, socket.guest)
}

// wsMessageSlack is how much a WebSocket message may exceed the largest packet: in practice it holds one.
const wsMessageSlack = 1024

// offersMQTT reports whether the client offers the subprotocol that MQTT demands (MQTT 5, 6.0.0-3).
func offersMQTT(r *http.Request) bool {
	for _, offered := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(offered, ",") {
			if strings.TrimSpace(p) == "mqtt" {
				return true
			}
		}
	}
	return false
}

// wsConn is a WebSocket as the broker's socket.
type wsConn struct {
	net.Conn
	ws     *websocket.Conn
	socket *admitted            // below WebSocket and TLS
	tls    *tls.ConnectionState // nil: plain
}

// RemoteAddr implements net.Conn: behind a load balancer it is the client's.
func (c *wsConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.socket.t.peer) }

// Close implements net.Conn. It does not wait for the client.
func (c *wsConn) Close() error { return c.socket.Close() }

// closePolitely closes with a close frame, and waits lingerTime for the client's.
func (c *wsConn) closePolitely() {
	late := time.AfterFunc(lingerTime, func() { _ = c.socket.Close() })
	defer late.Stop()
	_ = c.ws.Close(websocket.StatusNormalClosure, "")
}

// socketKey is the context key of the socket below a request.
type socketKey struct{}

func withSocket(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, socketKey{}, c)
}

func socketOf(r *http.Request) *admitted {
	return r.Context().Value(socketKey{}).(*admitted) //nolint:forcetypeassert // handover carries nothing else
}

// admitted is a socket as the HTTP server gets it. Its first Read takes the PROXY protocol header, which comes
// before TLS and HTTP; Close gives its place of admission back.
type admitted struct {
	net.Conn
	broker   *Broker
	listener *listener
	t        *transport // knows the client's address
	guest    *guest     // from accept to the end of CONNECT, or to the close

	unwrap sync.Once
	err    error // of unwrapping
	once   sync.Once
}

func (b *Broker) admitted(l *listener, nc net.Conn) *admitted {
	a := &admitted{Conn: nc, broker: b, listener: l, t: &transport{Conn: nc, peer: addrOf(nc)}}
	if len(l.proxyFrom) == 0 {
		a.t.accepted = a.t.peer.Addr()
	}
	return a
}

// Read implements net.Conn. The HTTP server's deadlines bound how long the header may take.
func (a *admitted) Read(p []byte) (int, error) {
	a.unwrap.Do(func() {
		if a.err = a.broker.unwrapProxy(a.listener, a.t); a.err != nil {
			a.broker.connectFailed(a.listener, a.t, "handshake", a.err)
		}
	})
	if a.err != nil {
		return 0, a.err
	}
	return a.Conn.Read(p)
}

// Close implements net.Conn.
func (a *admitted) Close() error {
	a.once.Do(func() {
		a.broker.admission.release(a.t.accepted)
		a.broker.admission.leave(a.guest)
	})
	return a.Conn.Close()
}

// webSockets is a WebSocket listener as the HTTP server gets it: its sockets are admitted, and in the handshake.
type webSockets struct {
	b *Broker
	l *listener
}

// Accept implements net.Listener.
func (s webSockets) Accept() (net.Conn, error) {
	nc := s.b.acceptNext(s.l)
	if nc == nil {
		return nil, net.ErrClosed
	}
	a := s.b.admitted(s.l, nc)
	a.guest = s.b.enterHandshake(nc)
	return a, nil
}

// Close implements net.Listener.
func (s webSockets) Close() error { return s.l.ln.Close() }

// Addr implements net.Listener.
func (s webSockets) Addr() net.Addr { return s.l.ln.Addr() }
