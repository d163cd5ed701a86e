package broker

import (
	"context"
	"errors"
	"os"
	"time"

	"cellgate/broker/frame"
)

// run is the connection's long-lived goroutine. Its frames and those of await are on the stack of every idle
// connection; keep them few and small, and call everything else from handle. A stack that handle has grown does not
// shrink below a parked reader. When the wheel finds the connection idle, it therefore wakes the reader, which
// continues in a new goroutine.
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

// begin waits until the session's messages may be journaled, and handles what arrived with the CONNECT. It runs on the
// handshake's goroutine, whose stack is already deep. Then it starts the reader: data that arrives later makes the
// socket readable.
func (c *conn) begin() {
	c.session.AwaitReady()
	if c.handle() {
		c.shared.grown.Store(false)
		go c.run()
	}
}

// await parks until data arrives, and reads it into the scratch.
func (c *conn) await() error {
	if c.t.raw == nil {
		return c.awaitBlocking()
	}
	if err := c.t.raw.Read(c.reader.onReadable); err != nil {
		return err
	}
	return c.reader.readErr
}

// readable is called with the descriptor, first as an attempt and then whenever the socket becomes readable. It returns
// false to park.
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

// borrow takes a scratch and copies the carry to its front.
func (c *conn) borrow() *scratch {
	if c.reader.scratch != nil {
		return c.reader.scratch
	}
	s := c.b.pools.getScratch()
	if len(c.reader.carry) > 0 {
		if len(c.reader.carry) >= len(s.buf) { // otherwise there is room to read more
			s.room(2 * len(c.reader.carry))
		}
		s.n = copy(s.buf, c.reader.carry)
		c.reader.carry = c.reader.carry[:0]
	}
	c.reader.scratch = s
	return s
}

// keepCarry is the largest capacity of an empty carry that is kept for reuse, in bytes.
const keepCarry = 512

// giveBack returns the scratch before the connection parks. An incomplete frame is kept in carry.
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

// resume handles a failed read. It returns true to read again, false after the reader has finished.
func (c *conn) resume(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.shared.stopping.Load() && c.t.raw != nil {
		_ = c.t.Conn.SetReadDeadline(time.Time{})
		if !c.shared.stopping.Load() { // otherwise this removed end's deadline
			if cap(c.reader.carry) > 0 && len(c.reader.carry) == 0 {
				c.reader.carry = nil
			}
			return true
		}
	}
	c.finish()
	return false
}

// handle handles everything that was read. It returns false after the reader has finished.
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
	c.progressed()
	if !alive {
		c.finish()
	}
	return alive
}

// An incomplete packet counts as a sign of life if it makes this progress within one and a half times the keep alive:
// at least minRate bytes a second, but never more than maxProgress bytes. Slow networks carry a kilobyte a second.
const (
	minRate     = 64
	maxProgress = 4 << 10
)

// progressed records a sign of life: a whole packet, or enough progress of one. A byte now and then is not enough.
func (c *conn) progressed() {
	if !c.reader.whole && int64(c.reader.partial) < min(minRate*c.keepalive/1000, maxProgress) {
		return
	}
	c.reader.partial = 0
	c.shared.lastRead.Store(c.b.wheel.clock.Load())
}

// decrypt handles the plaintext of the ciphertext that was read.
func (c *conn) decrypt() bool {
	s := c.borrow()
	if s.n > 0 && !c.consume() { // data that came with the CONNECT, or an incomplete frame
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

// guard turns a panic into the end of only this connection.
func (c *conn) guard(alive *bool) {
	p := recover()
	if p == nil {
		return
	}
	c.b.panicked("reader", c.id, p)
	*alive = false
	c.reader.scratch = nil // its state is unknown
	c.end(c.b.explain(whyPanic))
	c.finish()
}

// consume handles the whole frames at the front of the scratch and moves the rest to the front. False means that the
// connection ends; end has been called.
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
	if !c.throttle(off) {
		return false
	}
	if s.n == len(s.buf) {
		// The buffer holds only an incomplete frame. It doubles as the frame arrives; a declared length alone allocates
		// nothing.
		s.room(2 * s.n)
	}
	return true
}

// nextFrame returns the whole frame at the front of b, nil while it is incomplete.
func (c *conn) nextFrame(b []byte) ([]byte, frame.Header, error) {
	h, ok, err := frame.Scan(b, c.version)
	if err != nil || !ok {
		return nil, h, err
	}
	if h.Size > int(c.announced.maxPacket) {
		return nil, h, &frame.Violation{Reason: frame.ReasonPacketTooLarge, Why: "packet larger than the announced maximum"}
	}
	if h.Size > len(b) {
		return nil, h, nil
	}
	return b[:h.Size], h, nil
}

// throttle enforces the connection's quotas and the bound of its outgoing queue by blocking the reader. It returns
// false if the connection ends first.
func (c *conn) throttle(bytes int) bool {
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

// waitFor blocks the reader until holds, called under mu, returns true. It returns false if the connection ends first.
// Whoever changes the condition must call signalLocked.
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

// pause blocks the reader for d. It returns false if the connection ends first.
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

// waitContext returns a context for the reader's wait on another part. It ends with the connection.
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
