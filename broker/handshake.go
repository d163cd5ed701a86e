package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"cellgate/broker/frame"

	"github.com/pires/go-proxyproto"
)

// enterHandshake lets an accepted connection into the handshake. It waits while there are too many.
func (b *Broker) enterHandshake(nc net.Conn) *guest {
	g, evicted := b.admission.enter(nc, b.mostGuests())
	if evicted != nil {
		b.reject("handshakes")
		_ = evicted.conn.Close()
	}
	return g
}

// mostGuests returns how many sockets of all listeners may be open that are not connected clients.
func (b *Broker) mostGuests() int {
	limits := b.limits.Load()
	if limits.Sockets == 0 {
		return limits.Handshakes
	}
	return min(limits.Handshakes, max(minHandshakes, limits.Sockets-b.wheel.len()))
}

// minHandshakes is how many sockets may always be in the handshake, however few descriptors remain.
const minHandshakes = 64

// serve takes an accepted connection through PROXY header, TLS and CONNECT. It runs on its own goroutine, so that its
// deep stack does not stay with the connection.
func (b *Broker) serve(l *listener, nc net.Conn, g *guest) {
	defer b.handshakes.Done()
	t := &transport{Conn: nc, gate: b.gate, peer: addrOf(nc)}
	if l.countsAddresses() {
		t.accepted = t.peer.Addr()
	}
	var c *conn
	defer func() {
		if p := recover(); p != nil {
			b.panicked("handshake", l.name, p)
		}
		t.leave()
		b.admission.leave(g)
		if c == nil {
			_ = nc.Close()
			b.admission.release(t.accepted)
			return
		}
		c.begin()
	}()
	if err := b.handshake(l, t); err != nil {
		b.connectFailed(l, t, "handshake", err)
		return
	}
	c = b.receiveConnect(l, t)
}

func (b *Broker) connectFailed(l *listener, t *transport, result string, err error) {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		result += "_timeout"
	}
	b.metrics.connects.WithLabelValues(result).Inc()
	b.reject(result)
	b.log.Debug("connection refused", "listener", l.name, "peer", t.peer, "result", result, "err", err)
}

// handshake handles the PROXY header and TLS, within Limits.HandshakeTimeout.
func (b *Broker) handshake(l *listener, t *transport) error {
	limits := b.limits.Load()
	if _, ok := t.Conn.(*wsConn); ok { // the HTTP server has handled PROXY header and TLS
		return t.Conn.SetDeadline(time.Now().Add(limits.ConnectTimeout))
	}
	if err := t.Conn.SetDeadline(time.Now().Add(limits.HandshakeTimeout)); err != nil {
		return err
	}
	if sc, ok := t.Conn.(syscall.Conn); ok {
		raw, err := sc.SyscallConn()
		if err != nil {
			return err
		}
		t.raw, t.onWritable = raw, t.writable
	}
	if err := b.unwrapProxy(l, t); err != nil {
		return err
	}
	if l.tls != nil {
		t.tls = tls.Server(t, l.tls.server)
		t.enter()
		if err := t.tls.Handshake(); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	}
	return t.Conn.SetDeadline(time.Now().Add(limits.ConnectTimeout))
}

// unwrapProxy reads the PROXY header if the listener requires one, and admits the address in it.
func (b *Broker) unwrapProxy(l *listener, t *transport) error {
	if len(l.proxyFrom) == 0 {
		return nil
	}
	if err := readProxyHeader(t, l.proxyFrom); err != nil {
		return err
	}
	if refused := b.admission.admitAddress(t.peer.Addr(), b.limits.Load()); refused != "" {
		b.reject(refused)
		return fmt.Errorf("%w: %s", errRefused, refused)
	}
	t.accepted = t.peer.Addr()
	return nil
}

var errRefused = errors.New("refused")

// errProxyHeader means that the connection has no legal PROXY protocol v2 header.
var errProxyHeader = errors.New("PROXY protocol")

// maxProxyHeader bounds the bytes of the header's addresses and TLVs.
const maxProxyHeader = 1024

// readProxyHeader reads a load balancer's PROXY protocol v2 header and not a byte more. It trusts only the load
// balancers' addresses.
func readProxyHeader(t *transport, from []netip.Prefix) error {
	trusted := false
	for _, p := range from {
		trusted = trusted || p.Contains(t.peer.Addr())
	}
	if !trusted {
		return fmt.Errorf("%w: %s is not in proxy_from", errProxyHeader, t.peer.Addr())
	}
	header := make([]byte, 16, 64)
	if _, err := io.ReadFull(t.Conn, header); err != nil {
		return fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	length := int(binary.BigEndian.Uint16(header[14:]))
	if !bytes.HasPrefix(header, proxyproto.SIGV2) || length > maxProxyHeader {
		return fmt.Errorf("%w: no header of version 2", errProxyHeader)
	}
	header = append(header, make([]byte, length)...)
	if _, err := io.ReadFull(t.Conn, header[16:]); err != nil {
		return fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(header)))
	if err != nil {
		return fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	if source, ok := h.SourceAddr.(*net.TCPAddr); ok && !h.Command.IsLocal() {
		t.peer = source.AddrPort()
	}
	return nil
}

func addrOf(nc net.Conn) netip.AddrPort {
	a, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// certificate returns the client's certificate, nil unless TLS has verified one.
func (t *transport) certificate() *x509.Certificate {
	var state tls.ConnectionState
	if ws, ok := t.Conn.(*wsConn); ok && ws.tls != nil {
		state = *ws.tls
	} else if t.tls != nil {
		state = t.tls.ConnectionState()
	}
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// errNotConnect means that the first packet is not a CONNECT. Such a client gets no answer.
var errNotConnect = errors.New("first packet is not a CONNECT")

// readConnect reads the CONNECT, and whatever the client has sent after it, into in. Of a CONNECT larger than
// Limits.MaxConnectPacket it reads only what the refusal depends on. The buffer grows as bytes arrive, so a slow or
// silent client holds almost no memory.
func (b *Broker) readConnect(t *transport, in *outBuffer) (frame.Header, error) {
	limit := b.limits.Load().MaxConnectPacket
	for {
		h, ok, err := frame.Scan(in.b, frame.Version311)
		switch {
		case err != nil:
			return h, err
		case len(in.b) > 0 && h.Type != frame.TypeConnect:
			return h, errNotConnect
		case ok && h.Size > limit:
			if _, known := frame.ConnectFront(in.b[h.Head:]); known || len(in.b) >= limit {
				return h, nil
			}
		case ok && h.Size <= len(in.b):
			return h, nil
		}
		if len(in.b) == cap(in.b) {
			in.b = slices.Grow(in.b, len(in.b))
		}
		n, err := t.stream().Read(in.b[len(in.b):cap(in.b)])
		if in.b = in.b[:len(in.b)+n]; n == 0 && err != nil {
			return h, err
		}
	}
}
