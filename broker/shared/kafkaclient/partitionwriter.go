package kafkaclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// corruptTries is how often a batch that the broker calls corrupt is sent before it counts as refused. Damage in
// transit heals, but brokers also use the code for records that they never take (a record without a key for a compacted
// topic).
const corruptTries = 4

// partitionWriter writes one partition. It sends one batch, with the same bytes until it is taken or refused, and only then the
// next: this and the sequence numbers of its producer id keep the order and prevent duplicates. While nothing fails a
// writer may have more batches in flight: see window.
type partitionWriter struct {
	t         *topic
	partition int
	wake      chan struct{} // a record came to an empty queue, or filled a batch
	gone      chan struct{} // closed when the partition is removed and the writer empty

	queue  recordQueue
	window window
	own    writerState
}

// recordQueue is shared by run and the goroutines that add records.
type recordQueue struct {
	mu      sync.Mutex // guards the rest
	records []*Record
	bytes   int
	flying  int // records taken from the queue and not finished
}

// writerState is used only by run.
type writerState struct {
	began      time.Time // of the last batch
	state      producerState
	identified bool // state came from the cluster, or the cluster gives out no ids
	plain      bool // the cluster gives out no producer ids
	buf        []byte
	had        bool // the writer had an id, which may have been refused since
	// proven means that the leader has taken a batch under this id. Before that it takes any first batch, whatever its
	// sequence number.
	proven bool
	pipe   *pipe
	conn   net.Conn // the pipe's
}

func newPartitionWriter(t *topic, partition int) *partitionWriter {
	l := &partitionWriter{t: t, partition: partition, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	t.p.wg.Add(1)
	go l.run()
	return l
}

func (l *partitionWriter) add(r *Record) {
	o := &l.t.p.o
	l.queue.mu.Lock()
	was := l.fullLocked(o)
	l.queue.records = append(l.queue.records, r)
	l.queue.bytes += r.size()
	if len(l.queue.records) == 1 || (!was && l.fullLocked(o)) {
		l.signal()
	}
	l.queue.mu.Unlock()
}

func (l *partitionWriter) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// waiting returns the number of the writer's records.
func (l *partitionWriter) waiting() int {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	return len(l.queue.records) + l.queue.flying
}

func (l *partitionWriter) fullLocked(o *ProducerOptions) bool {
	return l.queue.bytes >= o.Flow.batchBytes(o.BatchBytes) || len(l.queue.records) >= o.BatchRecords
}

func (l *partitionWriter) run() {
	defer l.t.p.wg.Done()
	defer l.closePipe()
	var batch []*Record
	for {
		batch = l.next(batch[:0])
		switch {
		case len(batch) > 0 && l.pipelines():
			l.post(batch)
		case len(batch) > 0:
			l.empty()
			l.send(batch)
			l.landed(len(batch))
		case l.window.failed() != nil:
			l.sendAgain()
		default: // the producer closes, or the partition is removed
			l.empty()
			return
		}
		clear(batch)
	}
}

// landed subtracts n records from those in flight.
func (l *partitionWriter) landed(n int) {
	l.queue.mu.Lock()
	l.queue.flying -= n
	l.queue.mu.Unlock()
}

// next waits for a batch: full, or the linger after the previous one. A record that arrives later than that is sent at
// once. It returns none when the producer closes and nothing is left, and when a flight has failed.
func (l *partitionWriter) next(batch []*Record) []*Record {
	p := l.t.p
	var linger <-chan time.Time
	closes, closing := p.closing, false
	for {
		l.queue.mu.Lock()
		n, full := len(l.queue.records), l.fullLocked(&p.o)
		l.queue.mu.Unlock()
		switch room := l.hasRoom(); {
		case l.window.failed() != nil:
			return nil
		case !room:
			linger = nil // later records go with the next batch
		case full || (n > 0 && closing):
			return l.cut(batch)
		case n == 0 && closing:
			return nil
		case n > 0 && linger == nil:
			wait := p.o.Linger - time.Since(l.own.began)
			if wait <= 0 {
				return l.cut(batch)
			}
			linger = time.After(wait)
		}
		select {
		case <-l.wake:
		case <-linger:
			return l.cut(batch)
		case <-l.gone:
			p.health.Set(l, nil)
			return nil
		case <-closes:
			closes, closing = nil, true
		}
	}
}

// cut takes at most one batch from the front of the queue.
func (l *partitionWriter) cut(batch []*Record) []*Record {
	o := &l.t.p.o
	most := o.Flow.batchBytes(o.BatchBytes)
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	size, n := 0, 0
	for n < len(l.queue.records) && n < o.BatchRecords {
		s := l.queue.records[n].size()
		if n > 0 && size+s > most {
			break
		}
		size += s
		n++
	}
	l.own.began = time.Now()
	batch = append(batch, l.queue.records[:n]...)
	rest := copy(l.queue.records, l.queue.records[n:])
	clear(l.queue.records[rest:])
	l.queue.records = l.queue.records[:rest]
	l.queue.bytes -= size
	l.queue.flying += n
	return batch
}

func (l *partitionWriter) send(recs []*Record) { l.settle(recs, l.redeliver(recs, false)) }

// settle finishes a batch, or sends its halves if the broker refuses some record in it.
func (l *partitionWriter) settle(recs []*Record, err error) {
	if errors.Is(err, ErrRefused) && len(recs) > 1 {
		mid := len(recs) / 2
		l.send(recs[:mid])
		l.send(recs[mid:])
		return
	}
	l.complete(recs, err)
}

// complete reports the outcome of recs.
func (l *partitionWriter) complete(recs []*Record, err error) {
	m := l.t.p.o.Metrics
	switch {
	case errors.Is(err, errLeft):
		l.t.takeBack(recs)
		return
	case errors.Is(err, errStuck):
		l.t.parkPartition(l, recs, err)
		return
	case err == nil:
		m.Records.WithLabelValues(l.t.p.o.Name, "written").Add(float64(len(recs)))
	case errors.Is(err, ErrRefused):
		m.Records.WithLabelValues(l.t.p.o.Name, "refused").Add(float64(len(recs)))
	}
	l.t.finish(recs, err)
}

// redeliver sends one batch, which may already be encoded, until it is taken (nil), refused or abandoned, the producer is
// closed, or the records must be rerouted.
func (l *partitionWriter) redeliver(recs []*Record, encoded bool) error {
	corrupted, beside := 0, 0
	began := time.Now()
	for try := 1; ; try++ {
		tried := time.Now()
		if l.t.leaving(l) {
			return l.burn(errLeft)
		}
		v, err := l.attempt(recs, &encoded)
		if v == corrupt {
			corrupted++
		}
		if corrupted == corruptTries {
			v = refuse
		}
		switch v {
		case taken:
			l.acknowledged(len(recs))
			if try > 1 {
				l.own.buf = nil // a timed-out request may still be reading it
			}
			return nil
		case refuse:
			l.own.buf = nil
			l.t.p.health.Set(l, nil) // that was a response, and the batch no longer waits
			return fmt.Errorf("%w: %w", ErrRefused, err)
		case newIdentity:
			l.t.p.superseded(&l.own.state, err)
			l.own.identified, l.own.buf = false, nil
		}
		if beside++; !l.othersSucceed(tried) {
			beside = 0
		}
		if !l.pause(try, err) || abandoned(recs) {
			return l.giveUp(recs)
		}
		if parkable(recs) && l.stuck(began, err, beside) {
			return l.burn(fmt.Errorf("%w: %w", errStuck, err))
		}
	}
}

// attempt sends the batch once.
func (l *partitionWriter) attempt(recs []*Record, encoded *bool) (verdict, error) {
	err := l.prepare(recs, encoded)
	if err == nil {
		err = l.request(recs)
	}
	v := judge(err)
	if v == missing {
		l.t.p.kick() // check whether the topic or partition was removed
	}
	return v, err
}

// acknowledged accounts for a batch that was taken.
func (l *partitionWriter) acknowledged(records int) {
	l.taken(records, len(l.own.buf))
	if !l.own.plain {
		l.own.state.advance(records)
		l.own.proven = true
	}
}

// burn gives up the sequence numbers of a batch: it is unknown whether the broker counted them.
func (l *partitionWriter) burn(err error) error {
	l.own.identified, l.own.buf = l.own.plain, nil
	return err
}

// parkable reports whether any of recs has a Parker.
func parkable(recs []*Record) bool {
	return slices.ContainsFunc(recs, func(r *Record) bool { return r.Parker != nil })
}

// prepare ensures that the writer has a producer id and the batch is encoded under it.
func (l *partitionWriter) prepare(recs []*Record, encoded *bool) error {
	if !l.own.identified {
		*encoded = false
		if err := l.identify(); err != nil {
			return err
		}
	}
	if *encoded {
		return nil
	}
	var err error
	if l.own.buf, err = l.t.p.encoders.encode(l.own.buf, recs, l.own.state); err == nil {
		*encoded = true
	}
	return err
}

// pause waits before the next try; it returns false if the producer gives up.
func (l *partitionWriter) pause(try int, err error) bool {
	p := l.t.p
	if p.ctx.Err() != nil {
		return false
	}
	p.health.Set(l, fmt.Errorf("%s/%d: %w", l.t.name, l.partition, err))
	p.retried(err)
	timer := time.After(p.o.backoff(try))
	for {
		select {
		case <-timer:
			return true
		case <-l.wake:
			if l.t.leaving(l) {
				return true
			}
		case <-p.ctx.Done():
			return false
		}
	}
}

// retried counts a resend.
func (p *Producer) retried(err error) {
	reason := retryReason(err)
	p.o.Metrics.Retries.WithLabelValues(p.o.Name, reason).Inc()
	if p.o.Retried != nil {
		p.o.Retried(reason)
	}
}

// retryReason returns a label with few values: Kafka's name of the error, or where the connection failed.
func retryReason(err error) string {
	var code kafka.Error
	switch {
	case errors.As(err, &code):
		return code.Title()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case judge(err) == missing:
		return "unknown topic"
	}
	return "connection"
}

// taken counts a batch of n records that the leader has taken.
func (l *partitionWriter) taken(n, size int) {
	p := l.t.p
	p.lastTaken.Store(time.Now().UnixNano())
	p.health.Set(l, nil)
	p.o.Metrics.Batches.WithLabelValues(p.o.Name).Inc()
	p.o.Metrics.Bytes.WithLabelValues(p.o.Name).Add(float64(size))
}

// giveUp returns why deliver ended without a response.
func (l *partitionWriter) giveUp(recs []*Record) error {
	if abandoned(recs) {
		l.t.p.health.Set(l, nil) // no failing record waits here any more
		return l.burn(ErrAbandoned)
	}
	return l.burn(errClosed)
}

func abandoned(recs []*Record) bool {
	for _, r := range recs {
		if r.Parker == nil || !r.Parker.Abandoned() {
			return false
		}
	}
	return true
}

// identify requests a producer id for the writer.
func (l *partitionWriter) identify() error {
	p := l.t.p
	ctx, cancel := context.WithTimeout(p.ctx, p.o.RequestTimeout)
	defer cancel()
	state, err := l.producerID(ctx)
	switch {
	case err == nil:
		l.own.state, l.own.plain = state, false
	case noIdempotence(err) && p.o.TransactionalID == "":
		p.o.Log.Warn("kafka assigns no producer ids; a batch that is resent may be written twice",
			"topic", l.t.name, "err", err)
		l.own.state, l.own.plain = producerState{id: -1, epoch: -1, seq: -1}, true
	default:
		return err
	}
	l.own.identified, l.own.proven = true, false
	return nil
}

// producerID requests an id for this writer, or returns the one shared by the producer's writers.
func (l *partitionWriter) producerID(ctx context.Context) (producerState, error) {
	p := l.t.p
	if p.o.TransactionalID == "" {
		c := p.client.take()
		defer c.release()
		return initProducerID(ctx, c.Client)
	}
	var refused *producerState
	if l.own.had {
		refused = &l.own.state
	}
	state, err := p.shared(ctx, refused)
	l.own.had = l.own.had || err == nil
	return state, err
}

func (l *partitionWriter) request(recs []*Record) error {
	p := l.t.p
	ticket, err := p.o.Flow.enter(p.ctx, l.wireSize(len(l.own.buf)), rawSize(recs))
	if err != nil {
		return err
	}
	err = l.exchange()
	p.o.Flow.leave(ticket, err != nil)
	return err
}

func rawSize(recs []*Record) (n int) {
	for _, r := range recs {
		n += r.size()
	}
	return n
}

func (l *partitionWriter) exchange() error {
	p := l.t.p
	ctx, cancel := context.WithTimeout(p.ctx, p.o.RequestTimeout)
	defer cancel()
	c := p.client.take()
	defer c.release()
	res, err := c.RawProduce(ctx, &kafka.RawProduceRequest{
		Topic: l.t.name, Partition: l.partition, RequiredAcks: kafka.RequireAll,
		RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(l.own.buf)},
	})
	if err != nil {
		return err
	}
	return res.Error
}
