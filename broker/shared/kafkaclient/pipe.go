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

// MaxInFlight is how many batches of a producer id a partition's leader recognises when they come again, and so how many
// may be on their way to it (KIP-98).
const MaxInFlight = 5

// produceVersion is the version of the Produce request that pipes speak, which every broker since Kafka 2.1 does: the first in
// which it takes zstd (KIP-110). Requests are those of version 3.
const produceVersion = 7

// pipeIdle is how long a pipe is kept that nothing is sent on. Brokers close connections after ten minutes.
const pipeIdle = 8 * time.Minute

var errPipe = errors.New("connection closed")

// pipe is a connection to the leader of a lane's partition, on which requests follow one another before they are answered.
// kafka-go connects, which is TLS and login too, and leaves the connection to whoever exchanges raw bytes on it. A pipe
// ends at the first answer that is not well, and is not used again.
type pipe struct {
	l     *lane
	ended context.Context // when the pipe is no more
	end   context.CancelFunc
	open  chan net.Conn // gets the connection, once
	done  chan struct{} // closed when nothing of the pipe is at work any more

	flying chan *flight // sent and not answered, in order
}

// openPipe connects.
func (l *lane) openPipe() (*pipe, net.Conn, error) {
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

// finish ends the pipe when everything that was sent is answered, or a request's time is up: what the leader has yet to
// read would come between what is sent again.
func (q *pipe) finish() {
	close(q.flying)
	<-q.done
}

// pipeRequest has kafka-go find the leader and connect to it, as for a Produce request, and keeps the connection.
type pipeRequest struct {
	rawproduce.Request

	pipe *pipe

	mu       sync.Mutex
	begun    bool
	left     bool // nobody waits for it any more
	finished chan struct{}
}

// Required implements protocol.RawExchanger.
func (*pipeRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger: it takes answers until the pipe ends. It always returns an error, so that
// kafka-go closes the connection.
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

// abandon waits for RawExchange, if it has begun: kafka-go does not when the context has ended.
func (r *pipeRequest) abandon() {
	r.mu.Lock()
	begun := r.begun
	r.left = true
	r.mu.Unlock()
	if begun {
		<-r.finished
	}
}

// read gives each flight its answer. Behind one that is not well the others' say nothing, and are only waited for.
func (q *pipe) read(conn net.Conn) error {
	defer func() {
		q.end()
		q.l.deserted() // one may have been sent at the last moment
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

// answer reads the next answer, which is the flight's.
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

// send writes the flight's request. It does not wait for the answer.
func (q *pipe) send(conn net.Conn, f *flight) error {
	o := &q.l.t.p.o
	f.sent = time.Now()
	_ = conn.SetWriteDeadline(f.sent.Add(o.RequestTimeout))
	head := produceHead(o, q.l.t.name, q.l.partition, f.state.seq, len(f.buf))
	select {
	case q.flying <- f: // before it is written: the answer may be quick
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

// produceHead is what stands before the records in a request: length 4, key 2, version 2, correlation id 4, client id
// 2 + n, transactional id 2, acks 2, timeout 4, topics 4, name 2 + n, partitions 4, partition 4.
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

// wireSize is what a Produce request for n bytes of records takes on the wire.
func (l *lane) wireSize(n int) int { return n + 46 + len(l.t.p.o.ClientID) + len(l.t.name) }
