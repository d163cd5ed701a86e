package broker

import (
	"sync"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

const (
	// readBytes is the most that one read takes from a socket: some 60 messages of 256 bytes. A scratch begins with
	// minReadBytes and grows when a read fills it. Thousands of connections that are all busy with a message each,
	// as when others keep the processors, have a scratch each.
	readBytes    = 16 << 10
	minReadBytes = 4 << 10
	// batchRecords is the most records of one journal append.
	batchRecords = 64
	// keepOut is the largest outgoing buffer that goes back to the pool.
	keepOut = 64 << 10
)

// scratch is what a connection needs while it handles what it read, and gives back before it parks: an
// idle connection owns no buffer.
type scratch struct {
	base    []byte // from minReadBytes to readBytes
	buf     []byte // plain frames, n bytes of them read and not handled; base, or larger for a large frame
	n       int
	cipher  []byte // ciphertext, for TLS alone
	records []message.Record
	acks    []ack
	users   []message.UserProperty // of the batch's records
	qos2    bool                   // the batch holds QoS 2 messages
	claims  places                 // of the batch's records, those with a claim on room for retained messages
	filled  bool                   // a read took all that fits
	in      frame.Inbound
}

func (s *scratch) reset() {
	if s.filled && len(s.base) < readBytes {
		s.base, s.cipher = make([]byte, readBytes), nil
	}
	s.buf, s.n, s.qos2, s.filled, s.claims = s.base, 0, false, false, 0
	clear(s.records) // they alias buffers
	s.records, s.acks, s.users = s.records[:0], s.acks[:0], s.users[:0]
}

// room makes buf hold at least n bytes, keeping what it holds.
func (s *scratch) room(n int) {
	if n > len(s.buf) {
		buf := make([]byte, n)
		copy(buf, s.buf[:s.n])
		s.buf = buf
	}
}

// outBuffer is a pooled outgoing buffer.
type outBuffer struct{ b []byte }

// pools hold the buffers of all connections of a broker.
type pools struct{ scratch, out sync.Pool }

func newPools() *pools {
	return &pools{
		scratch: sync.Pool{New: func() any {
			base := make([]byte, minReadBytes)
			return &scratch{base: base, buf: base}
		}},
		out: sync.Pool{New: func() any { return &outBuffer{b: make([]byte, 0, 1024)} }},
	}
}

func (p *pools) getScratch() *scratch { return p.scratch.Get().(*scratch) }

func (p *pools) putScratch(s *scratch) {
	s.reset()
	p.scratch.Put(s)
}

func (p *pools) getOut() *outBuffer { return p.out.Get().(*outBuffer) }

func (p *pools) putOut(o *outBuffer) {
	if cap(o.b) <= keepOut {
		o.b = o.b[:0]
		p.out.Put(o)
	}
}
