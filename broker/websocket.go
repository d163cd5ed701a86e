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

// serveWebSocket serves MQTT over WebSocket (MQTT 5, section 6): binary messages, subprotocol mqtt; packets need not
// align with messages. It is for services and test benches: unlike plain and TLS connections, an idle one keeps its
// buffers.
func (b *Broker) serveWebSocket(l *listener) {
	mux := http.NewServeMux()
	mux.HandleFunc(l.path, func(w http.ResponseWriter, r *http.Request) { b.upgrade(l, w, r) })
	limits := b.limits.Load()
	server := &http.Server{
		// ReadTimeout bounds requests that do not become a WebSocket, body and wait for the next request included.
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

// upgrade turns a request into a connection.
func (b *Broker) upgrade(l *listener, w http.ResponseWriter, r *http.Request) {
	if !offersMQTT(r) {
		b.metrics.connects.WithLabelValues("websocket").Inc()
		http.Error(w, "WebSocket subprotocol mqtt is required", http.StatusBadRequest)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{"mqtt"}, CompressionMode: websocket.CompressionDisabled,
		// The origin does not matter: a token authenticates, not a browser's cookie.
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

// wsMessageSlack is how many bytes a WebSocket message may exceed the largest packet: usually it holds one packet.
const wsMessageSlack = 1024

// offersMQTT reports whether the client offers the subprotocol mqtt, as it must (MQTT 5, 6.0.0-3).
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

// wsConn is a WebSocket as a net.Conn.
type wsConn struct {
	net.Conn
	ws     *websocket.Conn
	socket *admitted            // below WebSocket and TLS
	tls    *tls.ConnectionState // nil: plain
}

// RemoteAddr implements net.Conn. It returns the client's address, not the load balancer's.
func (c *wsConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.socket.t.peer) }

// Close implements net.Conn. It does not wait for the client.
func (c *wsConn) Close() error { return c.socket.Close() }

// closePolitely sends a close frame and waits up to lingerTime for the client's.
func (c *wsConn) closePolitely() {
	late := time.AfterFunc(lingerTime, func() { _ = c.socket.Close() })
	defer late.Stop()
	_ = c.ws.Close(websocket.StatusNormalClosure, "")
}

// socketKey is the context key of a request's socket.
type socketKey struct{}

func withSocket(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return context.WithValue(ctx, socketKey{}, c)
}

func socketOf(r *http.Request) *admitted {
	return r.Context().Value(socketKey{}).(*admitted) //nolint:forcetypeassert // webSockets accepts nothing else
}

// admitted is a socket for the HTTP server. Its first Read consumes the PROXY protocol header, which precedes TLS and
// HTTP. Close releases its place in the admission.
type admitted struct {
	net.Conn
	broker   *Broker
	listener *listener
	t        *transport // knows the client's address
	guest    *guest     // from accept until CONNECT is done or the socket closes

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

// Read implements net.Conn. The HTTP server's deadlines bound the wait for the header.
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

// webSockets is a WebSocket listener for the HTTP server. Its sockets are admitted and count as being in the handshake.
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
