package broker

import (
	"time"

	"cellgate/broker/frame"
)

// startWriterLocked starts the writer unless it runs or the socket is closed.
func (c *conn) startWriterLocked() {
	if !c.writer.running && !c.shared.closed.Load() {
		c.writer.running = true
		go c.write()
	}
}

// acknowledgeLocked starts the writer if an acknowledgement may leave.
func (c *conn) acknowledgeLocked() {
	if c.ackReadyLocked() {
		c.startWriterLocked()
	}
}

// write is the only code that writes frames to the socket after CONNACK. It runs while there is something to write, and
// sends the acknowledgements and frames of a round in one write.
func (c *conn) write() {
	defer c.guardWriter()
	for {
		round, more := c.nextRound()
		if !more {
			return
		}
		if round.out != nil && !c.send(round) {
			return
		}
		if round.last {
			c.close(!c.peerGone())
			return
		}
	}
}

// guardWriter turns a panic into the end of only this connection.
func (c *conn) guardWriter() {
	if p := recover(); p != nil {
		c.b.panicked("writer", c.id, p)
		c.endSilently("panic")
		c.close(false)
	}
}

// round is the content of one write.
type round struct {
	out       *outBuffer
	last      bool // close the socket after it
	writable  bool // call the session's Writable after it
	sampledAt int64
}

// nextRound collects what may be written. more is false if there is nothing: the writer ends.
func (c *conn) nextRound() (r round, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.out, c.writer.out = c.writer.out, nil
	if c.ackReadyLocked() {
		if r.out == nil {
			r.out = c.b.pools.getOut()
		}
		c.takeAcksLocked(&r)
	}
	r.last = c.lastRoundLocked()
	if r.last && !c.closing.silent {
		if r.out == nil {
			r.out = c.b.pools.getOut()
		}
		r.out.b = c.appendDisconnect(r.out.b)
	}
	if (r.out == nil && !r.last) || c.shared.closed.Load() {
		c.writer.running = false
		return r, false
	}
	if r.writable = c.writer.wantWritable && c.writer.open; r.writable {
		c.writer.wantWritable = false
	}
	if r.out != nil {
		c.writer.since = c.b.wheel.clock.Load()
	}
	c.signalLocked()
	return r, true
}

// appendDisconnect appends the DISCONNECT, with as much explanation as the client's maximum packet allows (MQTT 5,
// 3.14.2.2).
func (c *conn) appendDisconnect(dst []byte) []byte {
	for _, text := range [...]struct{ reason, ref string }{{c.closing.text, c.closing.serverRef}, {"", c.closing.serverRef}, {"", ""}} {
		out := frame.AppendDisconnect(dst, c.closing.reason, text.reason, text.ref, c.version)
		if c.maxPacket == 0 || len(out)-len(dst) <= c.maxPacket {
			return out
		}
	}
	return dst
}

func (c *conn) takeAcksLocked(r *round) {
	if c.writer.sampleSeq != 0 && c.writer.sampleSeq <= c.writer.durable {
		r.sampledAt, c.writer.sampleSeq = c.writer.sampleAt, 0
	}
	r.out.b = c.encodeAcksLocked(r.out.b)
}

// lastRoundLocked reports whether this round ends the connection: the reader appends nothing more, and no
// acknowledgement is pending or endGrace has passed.
func (c *conn) lastRoundLocked() bool {
	if !c.closing.begun || (!c.closing.readerDone && c.t.raw != nil) {
		return false
	}
	late := c.b.wheel.clock.Load()-c.closing.since >= endGrace.Milliseconds()
	return c.writer.acks.len() == 0 || late || c.closing.broken
}

// send writes one round. It returns false if the write failed; the socket is then closed.
func (c *conn) send(r round) bool {
	_, err := c.t.stream().Write(r.out.b)
	c.b.pools.putOut(r.out)
	if r.sampledAt != 0 {
		c.b.metrics.pubackSeconds.Observe(float64(c.b.elapsed().Nanoseconds()-r.sampledAt) / float64(time.Second))
	}
	c.mu.Lock()
	c.writer.since = 0
	if err != nil {
		c.closing.broken, c.writer.running = true, false
	}
	c.mu.Unlock()
	if err != nil {
		c.endSilently("write_failed")
		c.close(false)
		return false
	}
	if r.writable {
		c.session.Writable()
	}
	return true
}

// peerGone reports whether the client cannot read the last write: lingering is pointless.
func (c *conn) peerGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing.broken || (c.closing.silent && !c.closing.goodbye)
}
