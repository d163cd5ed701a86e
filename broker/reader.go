package broker

import (
	"context"
	"errors"
	"os"
	"time"

	"cellgate/broker/frame"
)

// run is the connection's long-lived goroutine. Its frames, and those of await below it, are on the stack of
// every idle connection, so they are few and small and everything else is called from handle. A stack that
// handle made grow does not shrink below a parked reader; when the wheel finds the connection idle it wakes
// the reader, which goes on in a fresh goroutine.
func (c *conn) run() {
	for {
		err := c.await()
		if err == nil {
			if !c.handle() {
				return
			}
			continue
		}
		if !c.resume(err) {
			return
		}
		if c.shared.grown.CompareAndSwap(true, false) {
			go c.run()
			return
		}
	}
}

// begin handles what came with the CONNECT, on the handshake's goroutine, whose stack is deep already, and
// starts the reader: what the client sends from now on makes the socket readable.
func (c *conn) begin() {
	c.session.AwaitReady()
	if c.handle() {
		c.shared.grown.Store(false)
		go c.run()
	}
}

// await parks until there is something to read, and reads it into the scratch.
func (c *conn) await() error {
	if c.t.raw == nil {
		return c.awaitBlocking()
	}
	if err := c.t.raw.Read(c.reader.onReadable); err != nil {
		return err
	}
	return c.reader.readErr
}

// readable is called with the descriptor, first to try and then whenever it became readable. False parks.
func (c *conn) readable(fd uintptr) bool {
	s := c.borrow()
	into := s.buf[s.n:]
	if c.t.tls != nil {
		if s.cipher == nil {
			s.cipher = make([]byte, len(s.base))
		}
		into = s.cipher
	}
	n, err := readSocket(fd, into)
	if err == errWouldBlock { //nolint:errorlint // made by readSocket, never wrapped
		c.giveBack()
		return false
	}
	c.reader.readErr = err
	c.reader.partial += n
	s.filled = s.filled || n == len(into)
	if c.t.tls != nil {
		c.t.feed = into[:n]
	} else {
		s.n += n
	}
	return true
}

func (c *conn) awaitBlocking() error {
	s := c.borrow()
	n, err := c.t.stream().Read(s.buf[s.n:])
	s.filled = s.filled || n == len(s.buf)-s.n
	s.n += n
	c.reader.partial += n
	if n > 0 {
		return nil
	}
	return err
}

// borrow takes a scratch and puts what was carried over in front.
func (c *conn) borrow() *scratch {
	if c.reader.scratch != nil {
		return c.reader.scratch
	}
	s := c.b.pools.getScratch()
	if len(c.reader.carry) > 0 {
		if len(c.reader.carry) >= len(s.buf) { // else there is room for more
			s.room(2 * len(c.reader.carry))
		}
		s.n = copy(s.buf, c.reader.carry)
		c.reader.carry = c.reader.carry[:0]
	}
	c.reader.scratch = s
	return s
}

// keepCarry is the largest carry that is kept for the next time while the connection is busy.
const keepCarry = 512

// giveBack returns the scratch before the connection parks. The beginning of a frame stays behind, in as
// many bytes as there are.
func (c *conn) giveBack() {
	s := c.reader.scratch
	if s == nil {
		return
	}
	if s.n > 0 {
		c.reader.carry = append(c.reader.carry[:0], s.buf[:s.n]...)
	} else if cap(c.reader.carry) > keepCarry {
		c.reader.carry = nil
	}
	c.b.pools.putScratch(s)
	c.reader.scratch = nil
}

// resume decides after a failed read: true reads on, false when the reader has finished.
func (c *conn) resume(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.shared.stopping.Load() && c.t.raw != nil {
		_ = c.t.Conn.SetReadDeadline(time.Time{})
		if !c.shared.stopping.Load() { // or the deadline just taken away was end's
			if cap(c.reader.carry) > 0 && len(c.reader.carry) == 0 {
				c.reader.carry = nil
			}
			return true
		}
	}
	c.finish()
	return false
}

// handle takes everything that was read. False when the reader has finished.
func (c *conn) handle() (alive bool) {
	defer c.guard(&alive)
	if !c.shared.grown.Load() {
		c.shared.grown.Store(true)
	}
	c.reader.whole = false
	if c.t.tls == nil || c.t.raw == nil {
		alive = c.consume()
	} else {
		alive = c.decrypt()
	}
	c.heard()
	if !alive {
		c.finish()
	}
	return alive
}

// Progress that an incomplete packet has to make within one and a half times the keep alive to count as a sign of life:
// at least minRate bytes a second of it, and never more than maxProgress bytes. A slow network gives a kilobyte a second.
const (
	minRate     = 64
	maxProgress = 4 << 10
)

// heard notes that the client is alive: it has sent a whole packet, or enough of one. A byte now and then is not enough.
func (c *conn) heard() {
	if !c.reader.whole && int64(c.reader.partial) < min(minRate*c.keepalive/1000, maxProgress) {
		return
	}
	c.reader.partial = 0
	c.shared.lastRead.Store(c.b.wheel.clock.Load())
}

// decrypt takes what TLS makes of the ciphertext that was read.
func (c *conn) decrypt() bool {
	s := c.borrow()
	if s.n > 0 && !c.consume() { // what came with the CONNECT, or the beginning of a frame
		return false
	}
	for {
		n, err := c.t.tls.Read(s.buf[s.n:])
		if s.n += n; n > 0 && !c.consume() {
			return false
		}
		switch {
		case err == nil:
		case errors.Is(err, errWouldBlock):
			return true
		default:
			return false
		}
	}
}

// guard turns a panic into the end of this connection alone.
func (c *conn) guard(alive *bool) {
	p := recover()
	if p == nil {
		return
	}
	c.b.panicked("reader", c.id, p)
	*alive = false
	c.reader.scratch = nil // its state is unknown
	c.end(frame.ReasonUnspecified, "", "panic")
	c.finish()
}

// consume handles the whole frames at the front of the scratch and moves the rest there. False ends the
// connection: end has then been called.
func (c *conn) consume() bool {
	s := c.borrow()
	off := 0
	for off < s.n {
		f, h, err := c.nextFrame(s.buf[off:s.n])
		if err != nil {
			return c.flush() && c.violation(err)
		}
		if f == nil {
			break
		}
		if !c.dispatch(f, h) {
			return false
		}
		off += h.Size
	}
	if !c.flush() {
		return false
	}
	c.reader.whole = c.reader.whole || off > 0
	c.b.metrics.receivedBytes.Add(float64(off))
	s.n = copy(s.buf, s.buf[off:s.n])
	if !c.restrain(off) {
		return false
	}
	if s.n == len(s.buf) {
		// Nothing but the beginning of a frame. It doubles as the frame arrives: a declared length alone allocates nothing.
		s.room(2 * s.n)
	}
	return true
}

// nextFrame gives the whole frame at the front of b; nil when there is none yet.
func (c *conn) nextFrame(b []byte) ([]byte, frame.Header, error) {
	h, ok, err := frame.Scan(b, c.version)
	if err != nil || !ok {
		return nil, h, err
	}
	if h.Size > int(c.told.maxPacket) {
		return nil, h, &frame.Violation{Reason: frame.ReasonPacketTooLarge, Why: "packet larger than the announced maximum"}
	}
	if h.Size > len(b) {
		return nil, h, nil
	}
	return b[:h.Size], h, nil
}

// restrain holds the connection's quotas: it does not read on before they allow.
func (c *conn) restrain(bytes int) bool {
	limits := c.b.limits.Load()
	messages := c.reader.seen
	c.reader.seen = 0
	if limits.MessagesPerSecond > 0 || limits.BytesPerSecond > 0 {
		wait := c.reader.quota.take(c.b.elapsed().Nanoseconds(), messages, int64(bytes),
			nanosPer(int64(limits.MessagesPerSecond)), nanosPer(limits.BytesPerSecond))
		if wait > 0 && !c.pause(wait) {
			return false
		}
	}
	return c.waitFor(c.roomLocked)
}

// roomLocked reports whether the outgoing queue is within its bound.
func (c *conn) roomLocked() bool {
	return c.writer.out == nil || len(c.writer.out.b) <= c.b.limits.Load().OutboundBytes
}

// waitFor blocks the reader until the condition, which is called under mu, holds; false when the
// connection ends first. What makes it hold calls signalLocked.
func (c *conn) waitFor(holds func() bool) bool {
	c.mu.Lock()
	if !holds() {
		c.shared.busy.Store(true)
		for !holds() && !c.closing.begun {
			wake := c.wakeLocked()
			c.mu.Unlock()
			<-wake
			c.mu.Lock()
		}
		c.unbusy()
	}
	ending := c.closing.begun
	c.mu.Unlock()
	return !ending
}

func (c *conn) unbusy() {
	if now := c.b.wheel.clock.Load(); now != c.shared.lastRead.Load() {
		c.shared.lastRead.Store(now)
	}
	c.shared.busy.Store(false)
}

func (c *conn) wakeLocked() chan struct{} {
	if c.waits.wake == nil {
		c.waits.wake = make(chan struct{}, 1)
	}
	return c.waits.wake
}

func (c *conn) signalLocked() {
	if c.waits.wake != nil {
		select {
		case c.waits.wake <- struct{}{}:
		default:
		}
	}
}

// pause blocks the reader for d; false when the connection ends first.
func (c *conn) pause(d time.Duration) bool {
	c.b.metrics.Rejected.WithLabelValues("slowed").Inc()
	c.shared.busy.Store(true)
	defer c.unbusy()
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		c.mu.Lock()
		wake, ending := c.wakeLocked(), c.closing.begun
		c.mu.Unlock()
		if ending {
			return false
		}
		select {
		case <-t.C:
			return true
		case <-wake:
		}
	}
}

// waitContext is a context for the reader's wait on another part, which ends when the connection does.
func (c *conn) waitContext() (context.Context, func()) {
	ctx, cancel := context.WithCancel(c.b.ctx)
	c.mu.Lock()
	c.waits.cancel = cancel
	if c.closing.begun {
		cancel()
	}
	c.mu.Unlock()
	c.shared.busy.Store(true)
	return ctx, func() {
		c.mu.Lock()
		c.waits.cancel = nil
		c.mu.Unlock()
		cancel()
		c.unbusy()
	}
}
