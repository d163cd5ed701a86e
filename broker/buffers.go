package broker

import (
	"sync"

	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

const (
	// readBytes is the maximum of one read: about 60 messages of 256 bytes. A scratch starts with minReadBytes and
	// grows when a read fills it, because on a busy machine each of thousands of connections with a single message can
	// hold a scratch.
	readBytes    = 16 << 10
	minReadBytes = 4 << 10
	// batchRecords is the maximum number of records in one journal append.
	batchRecords = 64
	// keepOut is the capacity in bytes above which an outgoing buffer does not return to the pool.
	keepOut = 64 << 10
)

// scratch holds the buffers of a connection while it handles what it read. The connection returns it before it parks:
// an idle connection owns no buffer.
type scratch struct {
	base    []byte // minReadBytes or readBytes
	buf     []byte // plain frames, the first n bytes unhandled; base, or larger for a large frame
	n       int
	cipher  []byte // ciphertext, TLS only
	records []message.Record
	acks    []ack
	users   []message.UserProperty // of the batch's records
	qos2    bool                   // the batch holds QoS 2 messages
	claims  places                 // the batch's records with a claim on room for retained messages
	filled  bool                   // a read filled the buffer
	in      frame.Inbound
}

func (s *scratch) reset() {
	if s.filled && len(s.base) < readBytes {
		s.base, s.cipher = make([]byte, readBytes), nil
	}
	s.buf, s.n, s.qos2, s.filled, s.claims = s.base, 0, false, false, 0
	clear(s.records) // the records alias buffers
	s.records, s.acks, s.users = s.records[:0], s.acks[:0], s.users[:0]
}

// room grows buf to at least n bytes and keeps its contents.
func (s *scratch) room(n int) {
	if n > len(s.buf) {
		buf := make([]byte, n)
		copy(buf, s.buf[:s.n])
		s.buf = buf
	}
}

type outBuffer struct{ b []byte }

// pools holds the buffer pools that all connections of a broker share.
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
