package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// transport is a client's socket. While the handshake lasts it is an ordinary blocking net.Conn, under TLS
// too. From startFeeding on nobody reads it but the connection's reader, through raw and without blocking: TLS
// then decrypts what feed holds and says errWouldBlock when that is used up. So a parked connection holds
// no buffer, and its goroutine parks in a few shallow frames, below no TLS code.
type transport struct {
	net.Conn
	raw  syscall.RawConn // nil: the connection can only be read by blocking (WebSocket)
	tls  *tls.Conn       // nil: plain
	peer netip.AddrPort  // behind a load balancer, the client's
	// accepted is the address whose place of admission it has; zero none.
	accepted netip.Addr

	gate *gate // bounds handshakes that compute; nil once the handshake is over
	held bool  // a place of gate

	feeding bool
	feed    []byte // ciphertext that TLS has not taken yet
}

// errWouldBlock tells crypto/tls that there is no more for now. Being temporary it does not end the TLS
// connection (tls.Conn keeps any other read error for good).
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "no more data for now" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// Read is for crypto/tls and for the CONNECT of a plain connection.
func (t *transport) Read(p []byte) (int, error) {
	if !t.feeding {
		return t.readBlocking(p)
	}
	if len(t.feed) == 0 {
		return 0, errWouldBlock
	}
	n := copy(p, t.feed)
	t.feed = t.feed[n:]
	return n, nil
}

// readBlocking gives the handshake's place up while it waits for the client: a place is for computing.
func (t *transport) readBlocking(p []byte) (int, error) {
	if t.gate == nil {
		return t.Conn.Read(p)
	}
	t.leave()
	n, err := t.Conn.Read(p)
	t.enter()
	return n, err
}

func (t *transport) enter() {
	if t.gate != nil && !t.held {
		t.gate.enter()
		t.held = true
	}
}

func (t *transport) leave() {
	if t.held {
		t.gate.leave()
		t.held = false
	}
}

// stream is where plain frames are read and written.
func (t *transport) stream() net.Conn {
	if t.tls != nil {
		return t.tls
	}
	return t
}

// startFeeding ends the blocking reads. No Read may be under way.
func (t *transport) startFeeding() {
	t.leave()
	t.gate = nil
	t.feeding = t.raw != nil
}

// readSocket reads fd without blocking: 0 and io.EOF at the end, errWouldBlock when there is nothing.
func readSocket(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p) //nolint:gosec // a descriptor fits
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, errWouldBlock
		default:
			return 0, err
		}
	}
}

const (
	// lingerTime and lingerBytes bound what is read and thrown away after the last write. Closing a socket
	// with unread input makes the kernel reset it, and the client may then never see the DISCONNECT.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// closeLingering ends the outgoing half, waits briefly for the client to end its own, and closes.
func (t *transport) closeLingering() {
	if ws, ok := t.Conn.(*wsConn); ok {
		ws.closePolitely()
		return
	}
	if t.tls != nil {
		_ = t.tls.CloseWrite() // close_notify; it sets a write deadline of its own
	}
	if half, ok := t.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = t.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, t.Conn, lingerBytes)
	}
	_ = t.Conn.Close()
}

// gate is a counting semaphore. Its places are for handshakes that compute, as many as there are CPUs: a
// flood of handshakes then queues here instead of in front of everybody's goroutines.
type gate struct{ places chan struct{} }

func newGate(n int) *gate { return &gate{places: make(chan struct{}, n)} }

func (g *gate) enter() { g.places <- struct{}{} }
func (g *gate) leave() { <-g.places }
