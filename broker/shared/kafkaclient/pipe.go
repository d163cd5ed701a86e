package kafkaclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// MaxInFlight is how many batches of a producer id a partition's leader recognises on a resend, and so the maximum in
// flight (KIP-98).
const MaxInFlight = 5

// produceVersion is the version of our Produce requests on pipes, supported by every broker since Kafka 2.1. It is the
// first with zstd (KIP-110); its requests are those of version 3.
const produceVersion = 7

// pipeIdle is how long an idle pipe is kept. Brokers close idle connections after ten minutes.
const pipeIdle = 8 * time.Minute

var errPipe = errors.New("connection closed")

// pipe is a connection to the leader of a writer's partition that carries several unanswered requests. kafka-go connects,
// with TLS and login, and leaves the connection to the pipe through RawExchange. A pipe ends at the first response that
// is an error, and is not reused.
type pipe struct {
	l     *partitionWriter
	ended context.Context // done when the pipe has ended
	end   context.CancelFunc
	open  chan net.Conn // receives the connection, once
	done  chan struct{} // closed when all goroutines of the pipe have ended

	flying chan *flight // sent and unanswered, in order
}

func (l *partitionWriter) openPipe() (*pipe, net.Conn, error) {
	p := l.t.p
	ctx, end := context.WithCancel(p.ctx)
	q := &pipe{
		l: l, ended: ctx, end: end, open: make(chan net.Conn, 1), done: make(chan struct{}), flying: make(chan *flight, MaxInFlight),
	}
	failed := make(chan error, 1)
	go func() {
		defer close(q.done)
		c := p.client.take()
		defer c.release()
		req := &pipeRequest{Request: rawproduce.Request{Topics: []rawproduce.RequestTopic{{
			Topic: l.t.name, Partitions: []rawproduce.RequestPartition{{Partition: int32(l.partition)}},
		}}}, pipe: q, finished: make(chan struct{})}
		_, err := c.Transport.RoundTrip(ctx, c.Addr, req)
		req.abandon()
		end()
		failed <- err
	}()
	timeout := time.NewTimer(p.o.RequestTimeout)
	defer timeout.Stop()
	select {
	case conn := <-q.open:
		return q, conn, nil
	case err := <-failed:
		return nil, nil, fmt.Errorf("connect: %w", err)
	case <-timeout.C:
		end()
		<-q.done
		return nil, nil, fmt.Errorf("connect: %w", context.DeadlineExceeded)
	}
}

// close ends the pipe at once.
func (q *pipe) close() {
	q.end()
	<-q.done
}

// finish ends the pipe once all requests are answered or timed out: otherwise the leader could still read old requests
// between resent ones.
func (q *pipe) finish() {
	close(q.flying)
	<-q.done
}

// pipeRequest makes kafka-go find the leader and connect to it, as for a Produce request, and takes over the
// connection.
type pipeRequest struct {
	rawproduce.Request

	pipe *pipe

	mu       sync.Mutex
	begun    bool
	left     bool // its caller has stopped waiting
	finished chan struct{}
}

// Required implements protocol.RawExchanger.
func (*pipeRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger: it reads responses until the pipe ends. It always returns an error, so
// that kafka-go closes the connection.
func (r *pipeRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	defer close(r.finished)
	r.mu.Lock()
	conn, ok := rw.(net.Conn)
	if r.left || !ok {
		r.mu.Unlock()
		return nil, errPipe
	}
	r.begun = true
	r.mu.Unlock()
	stop := context.AfterFunc(r.pipe.ended, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Time{})
	r.pipe.open <- conn
	return nil, r.pipe.read(conn)
}

// abandon waits for RawExchange if it has begun: kafka-go does not wait when the context has ended.
func (r *pipeRequest) abandon() {
	r.mu.Lock()
	begun := r.begun
	r.left = true
	r.mu.Unlock()
	if begun {
		<-r.finished
	}
}

// read gives each flight its response. Responses after an error are read and ignored.
func (q *pipe) read(conn net.Conn) error {
	defer func() {
		q.end()
		q.l.endResponses() // one may have been sent at the last moment
	}()
	idle := time.NewTimer(pipeIdle)
	defer idle.Stop()
	for well := true; ; {
		var f *flight
		select {
		case f = <-q.flying:
		case <-q.ended.Done():
		case <-idle.C:
		}
		if f == nil {
			return errPipe
		}
		_ = conn.SetReadDeadline(f.sent.Add(q.l.t.p.o.RequestTimeout))
		err := f.answer(conn)
		well = well && q.l.answered(f, err)
		if err != nil && !answered(err) {
			return errPipe
		}
		idle.Reset(pipeIdle)
	}
}

// answer reads the next response, which belongs to f.
func (f *flight) answer(r io.Reader) error {
	id, m, err := protocol.ReadResponse(r, protocol.Produce, produceVersion)
	if err != nil {
		return err
	}
	res, ok := m.(*produce.Response)
	if !ok || id != f.state.seq || len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		return fmt.Errorf("%w: to another produce request", errAnswer)
	}
	if code := res.Topics[0].Partitions[0].ErrorCode; code != 0 {
		return kafka.Error(code)
	}
	return nil
}

// send writes the flight's request without waiting for the response.
func (q *pipe) send(conn net.Conn, f *flight) error {
	o := &q.l.t.p.o
	f.sent = time.Now()
	_ = conn.SetWriteDeadline(f.sent.Add(o.RequestTimeout))
	head := produceHead(o, q.l.t.name, q.l.partition, f.state.seq, len(f.buf))
	select {
	case q.flying <- f: // before the write: the response may be fast
	case <-q.ended.Done():
		return errPipe
	}
	if q.ended.Err() != nil {
		return errPipe
	}
	parts := net.Buffers{head, f.buf}
	_, err := parts.WriteTo(conn)
	return err
}

// produceHead encodes what precedes the records in a request: length 4, key 2, version 2, correlation id 4, client id 2
// + n, transactional id 2, acks 2, timeout 4, topics 4, name 2 + n, partitions 4, partition 4.
func produceHead(o *ProducerOptions, topic string, partition int, correlation int32, records int) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(make([]byte, 0, 64+len(o.ClientID)+len(topic)), 0)
	b = be.AppendUint16(b, uint16(protocol.Produce))
	b = be.AppendUint16(b, produceVersion)
	b = be.AppendUint32(b, uint32(correlation))
	b = be.AppendUint16(b, uint16(len(o.ClientID)))
	b = append(b, o.ClientID...)
	b = be.AppendUint16(b, 0xffff) // no transaction
	b = be.AppendUint16(b, 0xffff) // all in-sync replicas
	b = be.AppendUint32(b, uint32(o.RequestTimeout.Milliseconds()))
	b = be.AppendUint32(b, 1)
	b = be.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(partition))
	be.PutUint32(b, uint32(len(b)-4+records))
	return b
}

// wireSize returns the bytes of a Produce request for n bytes of records.
func (l *partitionWriter) wireSize(n int) int { return n + 46 + len(l.t.p.o.ClientID) + len(l.t.name) }
