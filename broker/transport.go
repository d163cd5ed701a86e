package broker

import (
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"
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

	// Of the Write under way.
	onWritable func(fd uintptr) bool
	unwritten  []byte
	writeErr   error
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

// Write is for crypto/tls and for the writer of a plain connection, of which only one writes at a time.
func (t *transport) Write(p []byte) (int, error) {
	if t.raw == nil {
		return t.Conn.Write(p)
	}
	t.unwritten, t.writeErr = p, nil
	err := t.raw.Write(t.onWritable)
	n := len(p) - len(t.unwritten)
	t.unwritten = nil
	return n, cmp.Or(t.writeErr, err)
}

// writable is called with the descriptor, first to try and then whenever there is room. False waits.
func (t *transport) writable(fd uintptr) bool {
	for len(t.unwritten) > 0 {
		n, err := rawIO(syscall.SYS_WRITE, fd, t.unwritten)
		switch err {
		case 0:
			t.unwritten = t.unwritten[n:]
		case syscall.EAGAIN:
			return false
		default:
			t.writeErr = err
			return true
		}
	}
	return true
}

// readSocket reads fd without blocking: 0 and io.EOF at the end, errWouldBlock when there is nothing.
func readSocket(fd uintptr, p []byte) (int, error) {
	n, err := rawIO(syscall.SYS_READ, fd, p)
	switch {
	case err == syscall.EAGAIN:
		return 0, errWouldBlock
	case err != 0:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// rawIO is read(2) or write(2) on a socket that never blocks, without telling the scheduler: for a message a
// vehicle and second that, and the waking of the scheduler's monitor, cost as much as handling the message. p
// is not empty.
func rawIO(call, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // as package syscall does it
		if err != syscall.EINTR {
			return int(n), err //nolint:gosec // at most len(p)
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
