package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/session"
)

// conn is one client's connection from CONNACK on.
//
// One goroutine reads (run). Nobody writes to the socket but the writer goroutine, which is started when there
// is something to write and ends when there is not; everyone else adds whole frames or marks to writer, under mu,
// and never blocks. What is not in one of the groups below is set before run and does not change.
type conn struct {
	b *Broker
	t *transport

	id         string // MQTT client identifier
	key        string // of the session
	version    byte
	vehicle    bool
	noExpiry   bool // the CONNECT's session expiry was 0: a DISCONNECT may not raise it
	resumable  bool // the session outlives the connection: what is unacknowledged may come again
	told       told
	maxPacket  int    // the client's maximum packet size; 0 none
	authMethod string // of enhanced authentication, or ""
	own        string // v1/{id}/, where a vehicle is at home
	session    *session.Session
	keepalive  int64 // 1.5 times the keep alive and a tick, by which the clock may be behind, ms

	reader connReader
	shared connShared
	place  wheelPlace

	mu      sync.Mutex // guards the rest
	writer  connWriter
	waits   connWaits
	closing connClosing
}

// connReader is what the reader's goroutine alone uses: that of run, and of begin before it.
type connReader struct {
	scratch    *scratch
	onReadable func(fd uintptr) bool
	readErr    error
	carry      []byte   // the beginning of a frame, while there is no scratch
	aliases    []string // topic aliases by number - 1
	aliasBytes int
	quota      quota
	recent     recentSent
	credit     int    // QoS 1 and 2 messages that may be taken before writer.used is looked at again
	seen       int    // messages and requests of the present read
	partial    int    // bytes read since something last counted as heard
	submitted  uint64 // commands
	newExpiry  *time.Duration
	whole      bool // the present read completed a packet
	normal     bool // ended by a DISCONNECT without will
}

// connShared is read and written by any goroutine, without a lock.
type connShared struct {
	perm     atomic.Pointer[auth.Permissions]
	identity atomic.Pointer[auth.Identity]
	lastRead atomic.Int64 // wheel clock of the last sign of life, ms: see heard
	endAt    atomic.Int64 // token end, Unix ms; 0 none
	noticeAt atomic.Int64 // when to tell about it; 0 never, or told
	grown    atomic.Bool  // the stack or the buffers may have grown since the last release
	busy     atomic.Bool  // deliberately not reading: keep alive is suspended
	stopping atomic.Bool  // closing.begun, for the reader's quick look
	closed   atomic.Bool  // the socket is
}

// connWriter is what the writer sends, and who it is; under the connection's lock.
type connWriter struct {
	out          *outBuffer // frames to write; nil none
	acks         ackQueue
	used         int    // QoS 1 and 2 messages taken and not acknowledged
	durable      uint64 // mark
	unsettled    uint64 // the record that the settlement is waiting for on the connection's behalf; 0 none
	sampleSeq    uint64 // of the PUBLISH whose acknowledgement is being timed
	sampleAt     int64  // ns, of Broker.elapsed
	since        int64  // clock when the write under way began, ms; 0 none
	open         bool   // CONNACK 0 is queued
	wantWritable bool   // the session was refused room
	running      bool
}

// connWaits is how the reader is woken that waits for others; under the connection's lock.
type connWaits struct {
	wake       chan struct{}
	cancel     func() // ends its wait for another part
	operations int    // SUBSCRIBEs and UNSUBSCRIBEs not answered yet
}

// connClosing is how far the end of the connection is, and why it ends; under the connection's lock.
type connClosing struct {
	ref, why   string
	label      string // as disconnects_total has it
	drained    chan struct{}
	since      int64
	reason     byte // of the DISCONNECT
	begun      bool
	silent     bool // no DISCONNECT: the client sent one, or is gone
	goodbye    bool // the client sent one, and may still read and close as TLS asks
	readerDone bool
	broken     bool // the socket failed
}

// told is what a client was told at CONNECT of what it may send. It holds for the connection: a reload of the limits
// binds those that connect afterwards.
type told struct {
	window    int32 // QoS 1 and 2 messages that are not acknowledged: Receive Maximum
	maxPacket int32 // Maximum Packet Size
}

func tellOf(l *Limits) told {
	return told{
		window: int32(min(l.Window, 65_535)), maxPacket: int32(min(l.MaxPacket, maxPacketSize)), //nolint:gosec // bounded
	}
}

// maxAliases is the Topic Alias Maximum for what clients send.
const maxAliases = 16

// maxPacketSize is the largest packet that MQTT has (2.1.4).
const maxPacketSize = frame.MaxLength + 5

// Enqueue implements session.Outbound.
func (c *conn) Enqueue(f []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.begun {
		return false
	}
	if !c.writer.open || (c.writer.out != nil && len(c.writer.out.b)+len(f) > c.b.limits.Load().OutboundBytes) {
		c.writer.wantWritable = true
		return false
	}
	c.appendLocked(f)
	return true
}

// control queues a frame that must not be lost: an answer to a request. The reader does not read on while
// the queue is over its bound (see waitRoom), so answers exceed it by what one read can ask for. An answer that
// the client does not take for its size ends the connection: it would wait for it in vain.
func (c *conn) control(f []byte) {
	if c.maxPacket != 0 && len(f) > c.maxPacket {
		c.end(frame.ReasonPacketTooLarge, "", "answer_too_large")
		return
	}
	c.mu.Lock()
	if !c.closing.begun || c.closing.silent {
		c.appendLocked(f)
	}
	c.mu.Unlock()
}

func (c *conn) appendLocked(f []byte) {
	if c.writer.out == nil {
		c.writer.out = c.b.pools.getOut()
	}
	c.writer.out.b = append(c.writer.out.b, f...)
	c.startWriterLocked()
}

// Durable implements journal.Waiter.
func (c *conn) Durable(mark uint64) {
	c.mu.Lock()
	c.writer.durable = max(c.writer.durable, mark)
	c.acknowledgeLocked()
	c.mu.Unlock()
}

// Settled implements SettlementWaiter.
func (c *conn) Settled() {
	c.mu.Lock()
	c.writer.unsettled = 0
	c.acknowledgeLocked()
	c.mu.Unlock()
}

// Gone implements SettlementWaiter.
func (c *conn) Gone() bool { return c.shared.closed.Load() }

// Kick implements session.Outbound.
func (c *conn) Kick(reason byte, serverRef string) {
	c.end(reason, serverRef, disconnectLabel(reason))
}

// Drained implements session.Outbound.
func (c *conn) Drained() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.drained == nil {
		c.closing.drained = make(chan struct{})
		if c.closing.readerDone {
			close(c.closing.drained)
		}
	}
	return c.closing.drained
}

// end begins the end of the connection, from any goroutine: the reader makes no further append, pending
// acknowledgements leave, then a DISCONNECT on MQTT 5, then the socket is closed. Only the first call counts.
func (c *conn) end(reason byte, serverRef, label string) {
	c.mu.Lock()
	if c.closing.begun {
		c.mu.Unlock()
		return
	}
	c.closing.begun, c.closing.reason, c.closing.ref, c.closing.why = true, reason, serverRef, reasonString(reason, label)
	c.closing.silent = !c.writer.open // the client has seen no CONNACK yet
	c.endLocked(label)
}

// endSilently is end without a DISCONNECT.
func (c *conn) endSilently(label string) {
	c.mu.Lock()
	if c.closing.begun {
		c.mu.Unlock()
		return
	}
	c.closing.begun, c.closing.silent = true, true
	c.endLocked(label)
}

// endLocked unlocks.
func (c *conn) endLocked(label string) {
	c.shared.stopping.Store(true)
	c.closing.since, c.closing.label = c.b.wheel.clock.Load(), label
	c.signalLocked()
	if c.waits.cancel != nil {
		c.waits.cancel()
	}
	if c.t.raw == nil {
		c.startWriterLocked() // the reader only comes back when the socket is closed
	}
	c.mu.Unlock()
	if c.t.raw != nil {
		_ = c.t.Conn.SetReadDeadline(past())
	}
	c.b.wheel.sooner(c, endGrace)
	c.b.metrics.disconnects.WithLabelValues(label).Inc()
}

// past is a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }

// endGrace is how long an ending connection waits for the marks of its last acknowledgements.
const endGrace = 2 * time.Second

// finish is the reader's last act: everything it will ever append is appended.
func (c *conn) finish() {
	c.endSilently("lost")
	if c.reader.scratch != nil {
		c.b.pools.putScratch(c.reader.scratch)
		c.reader.scratch = nil
	}
	c.reader.carry, c.reader.aliases = nil, nil
	// Whoever takes over waits for drained, and then finds what this connection leaves behind: the session
	// detached, so that a clean DISCONNECT stays one, and the messages that may come again.
	c.session.Detach(c.reader.normal, c.presenceReason(), c.reader.newExpiry)
	c.b.resends.leave(c.key, c.reader.recent)
	c.reader.recent = recentSent{}
	c.mu.Lock()
	c.closing.readerDone = true
	if c.closing.drained != nil {
		close(c.closing.drained)
	}
	c.mu.Unlock()
	c.b.metrics.connections.Dec()
	c.mu.Lock()
	c.startWriterLocked()
	c.mu.Unlock()
}

// presenceReason is why the connection ended, as its presence tells.
func (c *conn) presenceReason() session.Reason {
	c.mu.Lock()
	label := c.closing.label
	c.mu.Unlock()
	switch label {
	case "client", "keepalive", "shutdown", "lost":
		return session.Reason(label)
	case "taken_over":
		return session.ReasonTakeover
	case "write_failed", "slow_reader":
		return session.ReasonLost
	case "admin", "journal_failed", "panic":
		return session.ReasonAdmin
	}
	return session.ReasonRefused
}

// close closes the socket at once.
func (c *conn) close(lingering bool) {
	if c.shared.closed.Swap(true) {
		return
	}
	if lingering {
		c.t.closeLingering()
	} else {
		_ = c.t.Conn.Close()
	}
	c.b.forget(c)
}

// check is the wheel's look: it ends what is due and tells when to look again at the latest (0: whenever).
// now is the clock.
func (c *conn) check(now int64) time.Duration {
	writing := c.checkWriter(now, c.b.limits.Load())
	if c.shared.stopping.Load() {
		return endGrace
	}
	if end := c.shared.endAt.Load(); end != 0 && c.b.wheel.wall.Load() >= end {
		c.b.reject("token_expired")
		c.end(frame.ReasonNotAuthorized, "", "token_expired")
		return endGrace
	}
	if notice := c.shared.noticeAt.Load(); notice != 0 && c.b.wheel.wall.Load() >= notice {
		c.shared.noticeAt.Store(0)
		c.b.noticeExpiring(c)
	}
	idle := now - c.shared.lastRead.Load()
	if !c.shared.busy.Load() && idle >= c.keepalive {
		c.end(frame.ReasonKeepaliveTimeout, "", "keepalive")
		return endGrace
	}
	if writing {
		return min(c.nextCheck(idle), endGrace)
	}
	if idle >= trimAfter.Milliseconds() {
		c.trim()
	}
	return c.nextCheck(idle)
}

// nextCheck is when something may be due, so that keep alive and token end are held to a tick.
func (c *conn) nextCheck(idle int64) time.Duration {
	due, now := c.keepalive-idle, c.b.wheel.wall.Load()
	for _, at := range []int64{c.shared.endAt.Load(), c.shared.noticeAt.Load()} {
		if at != 0 {
			due = min(due, at-now)
		}
	}
	return max(time.Duration(due)*time.Millisecond, wheelTick)
}

// checkWriter closes a connection whose write takes too long, and has the writer end one whose last
// acknowledgements do not come. It reports whether a write is under way.
func (c *conn) checkWriter(now int64, limits *Limits) bool {
	c.mu.Lock()
	writing := c.writer.since != 0
	stalled := writing && now-c.writer.since >= limits.WriteTimeout.Milliseconds()
	ended := now - c.closing.since
	if c.closing.begun && ended >= endGrace.Milliseconds() {
		c.startWriterLocked()
	}
	stuck := c.closing.begun && !c.closing.readerDone && ended >= 5*endGrace.Milliseconds()
	c.mu.Unlock()
	switch {
	case stalled:
		c.b.reject("slow_reader")
		c.endSilently("slow_reader")
		c.close(false)
	case stuck: // the reader does not come back from another part: free the socket at least
		c.close(false)
	}
	return writing
}

// trimAfter is how long a connection is idle before what it grew is released.
const trimAfter = 5 * time.Second

// trim wakes the reader to release what it grew: see run.
func (c *conn) trim() {
	c.mu.Lock()
	c.writer.acks.release()
	c.mu.Unlock()
	if c.t.raw != nil && c.shared.grown.Load() && !c.shared.busy.Load() {
		_ = c.t.Conn.SetReadDeadline(past())
	}
}
