package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cellgate/broker/shared/complete"
	"cellgate/broker/wal"
)

type listener struct {
	name          string
	address       string
	protocol      string
	path          string
	anonymousRole string
	proxyFrom     []netip.Prefix
	tls           *serverTLS // nil: plain
	ln            net.Listener
}

// Errors of a listener's options.
var (
	errPlain     = errors.New("without TLS only loopback addresses are served; set tls, or use 127.0.0.1")
	errAnonymous = errors.New("anonymous_role is for loopback addresses only")
	errProtocol  = errors.New("protocol is neither mqtt nor ws")
)

func (b *Broker) newListener(o Listener) (*listener, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	l := &listener{
		name: o.Name, address: o.Address, protocol: o.Protocol, path: o.Path,
		anonymousRole: o.AnonymousRole, proxyFrom: o.ProxyFrom,
	}
	loopback, err := isLoopback(o.Address)
	switch {
	case err != nil:
		return nil, err
	case o.TLS == nil && !loopback:
		return nil, errPlain
	case o.AnonymousRole != "" && !loopback:
		return nil, errAnonymous
	case l.protocol != protocolMQTT && l.protocol != protocolWebSocket:
		return nil, errProtocol
	}
	if o.TLS != nil {
		files, err := readTLS(*o.TLS)
		if err != nil {
			return nil, err
		}
		l.tls = newServerTLS(files)
	}
	return l, nil
}

// isLoopback reports whether only this host can reach the address.
func isLoopback(address string) (bool, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false, err
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback(), nil
}

func (l *listener) bind(ctx context.Context) error {
	// TCP keep-alive is off: MQTT's keep alive replaces it.
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(ctx, "tcp", l.address)
	if err != nil {
		return fmt.Errorf("listeners: %s: address %s: %w; change the address or stop what uses it", l.name, l.address, err)
	}
	l.ln = ln
	return nil
}

func (l *listener) addr() net.Addr {
	if l.ln == nil {
		return nil
	}
	return l.ln.Addr()
}

func (l *listener) close() {
	if l.ln != nil {
		_ = l.ln.Close()
	}
}

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// accept accepts connections until the listener is closed. After any other error, such as a lack of descriptors, it
// tries again: existing connections must not suffer from new ones.
func (b *Broker) accept(l *listener) {
	if l.protocol == protocolWebSocket {
		b.serveWebSocket(l)
		return
	}
	for nc := b.acceptNext(l); nc != nil; nc = b.acceptNext(l) {
		g := b.enterHandshake(nc)
		b.handshakes.Add(1)
		go b.serve(l, nc, g)
	}
}

// countsAddresses reports whether serve counts the socket's own address. With PROXY protocol unwrapProxy does that for
// the client's address, and on WebSocket listeners the admitted socket does.
func (l *listener) countsAddresses() bool {
	return len(l.proxyFrom) == 0 && l.protocol == protocolMQTT
}

// acceptNext returns the next socket that the limits admit, nil when the listener is closed.
func (b *Broker) acceptNext(l *listener) net.Conn {
	backoff := minBackoff
	for {
		nc, err := l.ln.Accept()
		switch {
		case err == nil:
			backoff = minBackoff
			if b.admitSocket(l, nc) {
				return nc
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return nil
		}
		b.metrics.acceptErrors.Inc()
		if yieldDescriptor(b.admission, err) {
			b.reject("descriptors")
			time.Sleep(minBackoff)
			continue
		}
		b.log.Warn("accept failed", "listener", l.name, "err", err, "retry_in", backoff)
		time.Sleep(backoff)
		backoff = min(2*backoff, maxBackoff)
	}
}

// yieldDescriptor frees a descriptor if accept failed for lack of one. It closes the connection that has been in the
// handshake longest, the least likely to finish, and reports whether there was one.
func yieldDescriptor(a *admission, err error) bool {
	if !wal.IsExhausted(err) {
		return false
	}
	g := a.evictOldest()
	if g == nil {
		return false
	}
	_ = g.conn.Close()
	return true
}

// admitSocket applies the limits before a byte is read or a goroutine started.
func (b *Broker) admitSocket(l *listener, nc net.Conn) bool {
	var addr netip.Addr
	if len(l.proxyFrom) == 0 {
		addr = addrOf(nc).Addr()
	}
	refused := b.admission.admit(addr, b.limits.Load(), time.Now())
	if refused == "" {
		return true
	}
	b.reject(refused)
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // reset: the kernel keeps no state of it
	}
	_ = nc.Close()
	return false
}
