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

// transport is a client's socket. During the handshake it is an ordinary blocking net.Conn, under TLS too. After
// startFeeding only the connection's reader reads it, through raw and without blocking: TLS decrypts the bytes in feed
// and gets errWouldBlock when they are used up. A parked connection thus holds no buffer, and its goroutine parks with
// a few shallow frames and no TLS code on its stack.
type transport struct {
	net.Conn
	raw  syscall.RawConn // nil: only blocking reads (WebSocket)
	tls  *tls.Conn       // nil: plain
	peer netip.AddrPort  // the client's address, not the load balancer's
	// accepted is the address whose place in the admission the socket holds; zero for none.
	accepted netip.Addr

	gate *gate // bounds computing handshakes; nil after the handshake
	held bool  // holds a place of gate

	feeding bool
	feed    []byte // ciphertext that TLS has not read yet

	// State of the Write in progress.
	onWritable func(fd uintptr) bool
	unwritten  []byte
	writeErr   error
}

// errWouldBlock tells crypto/tls that no data is available now. It is temporary because tls.Conn keeps any other read
// error permanently.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "no more data for now" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// Read serves crypto/tls, and the CONNECT of a plain connection.
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

// readBlocking releases the handshake's place while it waits for the client: places are for computing.
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

// stream returns the connection for plain frames.
func (t *transport) stream() net.Conn {
	if t.tls != nil {
		return t.tls
	}
	return t
}

// startFeeding ends blocking reads. No Read may be in progress.
func (t *transport) startFeeding() {
	t.leave()
	t.gate = nil
	t.feeding = t.raw != nil
}

// Write serves crypto/tls, and the writer of a plain connection. Only one goroutine writes at a time.
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

// writable is called with the descriptor, first as an attempt and then whenever there is room. It returns false to
// wait.
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

// readSocket reads fd without blocking. It returns 0 and io.EOF at the end, errWouldBlock if no data is available.
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

// rawIO is read(2) or write(2) on a non-blocking socket, without notifying the scheduler. At one message per vehicle and
// second, notifying it and waking its monitor cost as much as handling the message. p must not be empty.
func rawIO(call, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // as in package syscall
		if err != syscall.EINTR {
			return int(n), err //nolint:gosec // at most len(p)
		}
	}
}

const (
	// lingerTime and lingerBytes bound what is read and discarded after the last write. Closing a socket with unread
	// input makes the kernel reset it, and the client can miss the DISCONNECT.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// closeLingering closes the outgoing half, waits briefly for the client to close its own, and closes the socket.
func (t *transport) closeLingering() {
	if ws, ok := t.Conn.(*wsConn); ok {
		ws.closePolitely()
		return
	}
	if t.tls != nil {
		_ = t.tls.CloseWrite() // close_notify; it sets its own write deadline
	}
	if half, ok := t.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = t.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, t.Conn, lingerBytes)
	}
	_ = t.Conn.Close()
}

// gate is a counting semaphore with a place per CPU for handshakes that compute. A flood of handshakes queues here
// instead of delaying all other goroutines.
type gate struct{ places chan struct{} }

func (g *gate) enter() { g.places <- struct{}{} }
func (g *gate) leave() { <-g.places }
