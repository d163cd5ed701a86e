package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/session"
)

// conn is one client's connection after CONNACK.
//
// One goroutine reads (run). Only the writer goroutine writes to the socket. It is started when there is something to
// write and ends when there is not. All others add whole frames or marks to writer, under mu, and never block. Fields
// outside the groups below are set before run and do not change.
type conn struct {
	b *Broker
	t *transport

	id         string // MQTT client identifier
	key        string // session key
	version    byte
	vehicle    bool
	explains   bool // the client takes reason strings in acknowledgements
	noExpiry   bool // the CONNECT's session expiry was 0: a DISCONNECT may not raise it
	resumable  bool // the session outlives the connection: unacknowledged messages may be sent again
	announced  announced
	maxPacket  int    // the client's maximum packet size; 0 none
	authMethod string // of enhanced authentication, or ""
	own        string // v1/{id}/, the vehicle's own topics
	session    *session.Session
	keepalive  int64 // 1.5 times the keep alive plus a tick for the clock's lag, ms

	reader connReader
	shared connShared
	place  wheelPlace

	mu      sync.Mutex // guards the rest
	writer  connWriter
	waits   connWaits
	closing connClosing
}

// connReader belongs to the reader's goroutine: begin, then run.
type connReader struct {
	scratch    *scratch
	onReadable func(fd uintptr) bool
	readErr    error
	carry      []byte   // an incomplete frame, while the connection has no scratch
	aliases    []string // topic aliases, by number - 1
	aliasBytes int
	quota      quota
	recent     recentSent
	credit     int    // QoS 1 and 2 messages that may be accepted before writer.used is read again
	seen       int    // messages and requests of the current read
	partial    int    // bytes read since the last sign of life
	submitted  uint64 // number of commands
	newExpiry  *time.Duration
	whole      bool // the current read completed a packet
	normal     bool // ended by a DISCONNECT that discards the will
}

// connShared may be read and written by any goroutine without a lock.
type connShared struct {
	perm     atomic.Pointer[auth.Permissions]
	identity atomic.Pointer[auth.Identity]
	lastRead atomic.Int64 // wheel clock of the last sign of life, ms: see progressed
	endAt    atomic.Int64 // token end, Unix ms; 0 none
	noticeAt atomic.Int64 // time of the token-expiring notice, Unix ms; 0 none, or already sent
	grown    atomic.Bool  // the stack or the buffers may have grown since the last release
	busy     atomic.Bool  // deliberately not reading: keep alive is suspended
	stopping atomic.Bool  // copy of closing.begun, readable without the lock
	closed   atomic.Bool  // the socket is closed
}

// connWriter holds what the writer sends and its state. The connection's lock guards it.
type connWriter struct {
	out          *outBuffer // frames to write, or nil
	acks         ackQueue
	used         int    // QoS 1 and 2 messages accepted and not acknowledged
	durable      uint64 // durable mark
	unsettled    uint64 // the record for which Settled is pending; 0 none
	sampleSeq    uint64 // the record of the PUBLISH whose acknowledgement is timed
	sampleAt     int64  // ns, of Broker.elapsed
	since        int64  // wheel clock at the start of the current write, ms; 0 none
	open         bool   // CONNACK 0 is queued
	wantWritable bool   // the session was refused room: call Writable
	running      bool
}

// connWaits wakes the reader while it waits for other parts. The connection's lock guards it.
type connWaits struct {
	wake       chan struct{}
	cancel     func() // ends the reader's wait for another part
	operations int    // SUBSCRIBEs and UNSUBSCRIBEs not answered yet
}

// connClosing records how far the end of the connection is, and why it ends. The connection's lock guards it.
type connClosing struct {
	refusal    // what the DISCONNECT says; the label is that of disconnects_total
	drained    chan struct{}
	since      int64
	begun      bool
	silent     bool // no DISCONNECT: the client sent one, or has disconnected
	goodbye    bool // the client sent a DISCONNECT, and may still read and send a close_notify
	readerDone bool
	broken     bool // the socket failed
}

// announced holds the limits announced in CONNACK. They hold until the connection ends; a reload affects later connections.
type announced struct {
	window    int32 // Receive Maximum: unacknowledged QoS 1 and 2 messages
	maxPacket int32 // Maximum Packet Size
}

func announce(l *Limits) announced {
	return announced{
		window: int32(min(l.Window, 65_535)), maxPacket: int32(min(l.MaxPacket, maxPacketSize)), //nolint:gosec // bounded
	}
}

// maxAliases is the Topic Alias Maximum for clients' messages.
const maxAliases = 16

// maxPacketSize is the largest MQTT packet in bytes (MQTT 5, 2.1.4).
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

// control queues an answer to a request, which must not be lost. The reader stops while the queue is over its bound
// (see throttle), so answers exceed the bound by at most what one read can request. An answer larger than the client's
// maximum packet ends the connection: the client would wait for it forever.
func (c *conn) control(f []byte) {
	if c.maxPacket != 0 && len(f) > c.maxPacket {
		c.end(c.b.explain(whyAnswerSize))
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
	r := c.b.farewell(reason)
	r.serverRef = serverRef
	c.end(r)
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

// end begins the end of the connection, from any goroutine: the reader appends nothing more, pending acknowledgements
// leave, then a DISCONNECT on MQTT 5, then the socket is closed. Only the first call counts.
func (c *conn) end(r refusal) {
	c.mu.Lock()
	if c.closing.begun {
		c.mu.Unlock()
		return
	}
	c.closing.begun, c.closing.refusal = true, r
	c.closing.silent = !c.writer.open // the client has seen no CONNACK
	c.endLocked()
}

// endSilently is end without a DISCONNECT.
func (c *conn) endSilently(label string) {
	c.mu.Lock()
	if c.closing.begun {
		c.mu.Unlock()
		return
	}
	c.closing.begun, c.closing.silent, c.closing.label = true, true, label
	c.endLocked()
}

// endLocked is the common part of end and endSilently. It unlocks mu.
func (c *conn) endLocked() {
	label := c.closing.label
	c.shared.stopping.Store(true)
	c.closing.since = c.b.wheel.clock.Load()
	c.signalLocked()
	if c.waits.cancel != nil {
		c.waits.cancel()
	}
	if c.t.raw == nil {
		c.startWriterLocked() // a blocking reader returns only after the socket is closed
	}
	c.mu.Unlock()
	if c.t.raw != nil {
		_ = c.t.Conn.SetReadDeadline(past())
	}
	c.b.wheel.sooner(c, endGrace)
	c.b.metrics.disconnects.WithLabelValues(label).Inc()
}

// past returns a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }

// endGrace is how long an ending connection waits for its last acknowledgements to become due.
const endGrace = 2 * time.Second

// finish is the last step of the reader: it appends nothing after it.
func (c *conn) finish() {
	c.endSilently("lost")
	if c.reader.scratch != nil {
		c.b.pools.putScratch(c.reader.scratch)
		c.reader.scratch = nil
	}
	c.reader.carry, c.reader.aliases = nil, nil
	// A new connection of the client waits for drained. By then the session must be detached, so that a clean
	// DISCONNECT stays clean, and the messages that may be repeated must be in resends.
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

// presenceReason returns the reason for the presence event.
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

// close closes the socket, if lingering after the client has had time to read.
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

// check is called by the wheel. It ends the connection if a limit is due and returns when to check again at the latest.
// now is the wheel clock, ms.
func (c *conn) check(now int64) time.Duration {
	writing := c.checkWriter(now, c.b.limits.Load())
	if c.shared.stopping.Load() {
		return endGrace
	}
	if end := c.shared.endAt.Load(); end != 0 && c.b.wheel.wall.Load() >= end {
		c.b.reject("token_expired")
		c.end(c.b.explain(whyTokenEnded))
		return endGrace
	}
	if notice := c.shared.noticeAt.Load(); notice != 0 && c.b.wheel.wall.Load() >= notice {
		c.shared.noticeAt.Store(0)
		c.b.noticeExpiring(c)
	}
	idle := now - c.shared.lastRead.Load()
	if !c.shared.busy.Load() && idle >= c.keepalive {
		c.end(c.b.explain(whyKeepalive))
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

// nextCheck returns the time until something may be due. Keep alive and token end are accurate to a tick.
func (c *conn) nextCheck(idle int64) time.Duration {
	due, now := c.keepalive-idle, c.b.wheel.wall.Load()
	for _, at := range []int64{c.shared.endAt.Load(), c.shared.noticeAt.Load()} {
		if at != 0 {
			due = min(due, at-now)
		}
	}
	return max(time.Duration(due)*time.Millisecond, wheelTick)
}

// checkWriter closes a connection whose write takes too long, and starts the writer to end one whose last
// acknowledgements do not become due. It reports whether a write is in progress.
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
	case stuck: // the reader is stuck in another part: free the socket at least
		c.close(false)
	}
	return writing
}

// trimAfter is how long a connection must be idle before its grown memory is released.
const trimAfter = 5 * time.Second

// trim releases the memory that the connection grew. It wakes the reader to replace its stack: see run.
func (c *conn) trim() {
	c.mu.Lock()
	c.writer.acks.release()
	c.mu.Unlock()
	if c.t.raw != nil && c.shared.grown.Load() && !c.shared.busy.Load() {
		_ = c.t.Conn.SetReadDeadline(past())
	}
}
