package kafkaclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// corruptTries is how often a batch that the broker calls corrupt is sent before it counts as refused:
// damage on the way heals, but brokers also use the code for what they will never take (a record
// without a key for a compacted topic).
const corruptTries = 4

// lane writes one partition: one batch in flight, the same bytes until it is taken or refused, only then
// the next. That, and the sequence numbers of its producer id, are what keeps order and keeps a resent
// batch from being written twice.
type lane struct {
	t         *topic
	partition int
	wake      chan struct{} // a record came to an empty queue, or filled a batch
	gone      chan struct{} // closed when the partition is gone and the lane empty

	mu     sync.Mutex
	queue  []*Record
	bytes  int
	flying int // records taken from the queue and not yet finished

	// The rest belongs to run alone.
	began      time.Time // of the last batch
	state      producerState
	identified bool // state came from the cluster, or the cluster gives out none
	plain      bool // the cluster gives out no producer ids
	buf        []byte
}

func newLane(t *topic, partition int) *lane {
	l := &lane{t: t, partition: partition, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	t.p.wg.Add(1)
	go l.run()
	return l
}

func (l *lane) add(r *Record) {
	o := &l.t.p.o
	l.mu.Lock()
	was := l.fullLocked(o)
	l.queue = append(l.queue, r)
	l.bytes += r.size()
	if len(l.queue) == 1 || (!was && l.fullLocked(o)) {
		l.signal()
	}
	l.mu.Unlock()
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// waiting is how many records the lane has.
func (l *lane) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) + l.flying
}

func (l *lane) fullLocked(o *ProducerOptions) bool {
	return l.bytes >= o.Flow.batchBytes(o.BatchBytes) || len(l.queue) >= o.BatchRecords
}

func (l *lane) busy() bool { return l.waiting() > 0 }

func (l *lane) run() {
	p := l.t.p
	defer p.wg.Done()
	var batch []*Record
	for {
		batch = l.next(batch[:0])
		if len(batch) == 0 {
			return
		}
		l.send(batch)
		clear(batch)
		l.mu.Lock()
		l.flying = 0
		l.mu.Unlock()
	}
}

// next waits for a batch: full, or the linger after the one before it. A record that comes later than that leaves at
// once: nothing waits for company that is not coming. It returns none when the producer closes and nothing is left.
func (l *lane) next(batch []*Record) []*Record {
	p := l.t.p
	var linger <-chan time.Time
	closing := false
	for {
		l.mu.Lock()
		n, full := len(l.queue), l.fullLocked(&p.o)
		l.mu.Unlock()
		switch {
		case full || (n > 0 && closing):
			return l.cut(batch)
		case n == 0 && closing:
			return nil
		case n > 0 && linger == nil:
			wait := p.o.Linger - time.Since(l.began)
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
			p.note(l, nil)
			return nil
		case <-p.closing:
			closing = true
		}
	}
}

// cut takes at most one batch from the front of the queue.
func (l *lane) cut(batch []*Record) []*Record {
	o := &l.t.p.o
	most := o.Flow.batchBytes(o.BatchBytes)
	l.mu.Lock()
	defer l.mu.Unlock()
	size, n := 0, 0
	for n < len(l.queue) && n < o.BatchRecords {
		s := l.queue[n].size()
		if n > 0 && size+s > most {
			break
		}
		size += s
		n++
	}
	l.began = time.Now()
	batch = append(batch, l.queue[:n]...)
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	l.bytes -= size
	l.flying = n
	return batch
}

// send delivers recs, in halves when the broker will not take some record among them.
func (l *lane) send(recs []*Record) {
	err := l.deliver(recs)
	if errors.Is(err, ErrRefused) && len(recs) > 1 {
		mid := len(recs) / 2
		l.send(recs[:mid])
		l.send(recs[mid:])
		return
	}
	m := l.t.p.o.Metrics
	switch {
	case errors.Is(err, errLeft):
		l.t.takeBack(recs)
		return
	case errors.Is(err, errStuck):
		l.t.parkLane(l, recs, err)
		return
	case err == nil:
		m.Records.WithLabelValues(l.t.p.o.Name, "written").Add(float64(len(recs)))
	case errors.Is(err, ErrRefused):
		m.Records.WithLabelValues(l.t.p.o.Name, "refused").Add(float64(len(recs)))
	}
	l.t.finish(recs, err)
}

// deliver sends one batch until it is taken (nil), refused, abandoned, the producer is closed, or the records are to go
// elsewhere.
func (l *lane) deliver(recs []*Record) error {
	encoded, corrupted, beside := false, 0, 0
	began := time.Now()
	for try := 1; ; try++ {
		tried := time.Now()
		if l.t.leaving(l) {
			return l.burn(errLeft)
		}
		err := l.prepare(recs, &encoded)
		if err == nil {
			err = l.request(recs)
		}
		v := judge(err)
		if v == corrupt {
			if corrupted++; corrupted >= corruptTries {
				v = refuse
			}
		}
		if v == missing {
			l.t.p.kick() // looks whether the topic or the partition is gone
		}
		switch v {
		case taken:
			l.taken(len(recs))
			if try > 1 {
				l.buf = nil // a request that timed out may still be reading it
			}
			return nil
		case refuse:
			l.buf = nil
			l.t.p.note(l, nil) // that was an answer, and the batch waits no more
			return fmt.Errorf("%w: %w", ErrRefused, err)
		case newIdentity:
			l.identified, l.buf = false, nil
		}
		if beside++; !l.othersTake(tried) {
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

// burn gives up the sequence numbers of a batch: whether the broker counted them is unknown.
func (l *lane) burn(err error) error {
	l.identified, l.buf = l.plain, nil
	return err
}

// parkable reports whether some record among recs could be parked.
func parkable(recs []*Record) bool {
	return slices.ContainsFunc(recs, func(r *Record) bool { return r.Parker != nil })
}

// prepare makes sure that the lane has a producer id and the batch is encoded under it.
func (l *lane) prepare(recs []*Record, encoded *bool) error {
	if !l.identified {
		*encoded = false
		if err := l.identify(); err != nil {
			return err
		}
	}
	if *encoded {
		return nil
	}
	var err error
	if l.buf, err = l.t.p.encoders.encode(l.buf, recs, l.state); err == nil {
		*encoded = true
	}
	return err
}

// pause waits before the next try; false when the producer gives up.
func (l *lane) pause(try int, err error) bool {
	p := l.t.p
	if p.ctx.Err() != nil {
		return false
	}
	p.note(l, fmt.Errorf("%s/%d: %w", l.t.name, l.partition, err))
	p.o.Metrics.Retries.WithLabelValues(p.o.Name, retryReason(err)).Inc()
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

// retryReason is a label of few values: Kafka's own name of the error, or where it broke.
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

func (l *lane) taken(n int) {
	p := l.t.p
	if !l.plain {
		l.state.advance(n)
	}
	p.lastTaken.Store(time.Now().UnixNano())
	p.note(l, nil)
	p.o.Metrics.Batches.WithLabelValues(p.o.Name).Inc()
	p.o.Metrics.Bytes.WithLabelValues(p.o.Name).Add(float64(len(l.buf)))
}

// giveUp tells why deliver ended without an answer.
func (l *lane) giveUp(recs []*Record) error {
	if abandoned(recs) {
		l.t.p.note(l, nil) // nothing waits that fails here; the next batch will tell
		return l.burn(ErrAbandoned)
	}
	return l.burn(ErrClosed)
}

func abandoned(recs []*Record) bool {
	for _, r := range recs {
		if r.Parker == nil || !r.Parker.Abandoned() {
			return false
		}
	}
	return true
}

// identify gets the lane a producer id of its own.
func (l *lane) identify() error {
	p := l.t.p
	ctx, cancel := context.WithTimeout(p.ctx, p.o.RequestTimeout)
	defer cancel()
	c := p.client.take()
	state, err := initProducerID(ctx, c.Client)
	c.release()
	switch {
	case err == nil:
		l.state, l.plain = state, false
	case noIdempotence(err):
		p.o.Log.Warn("kafka gives out no producer ids; a batch that is sent again may be written twice",
			"topic", l.t.name, "err", err)
		l.state, l.plain = producerState{id: -1, epoch: -1, seq: -1}, true
	default:
		return err
	}
	l.identified = true
	return nil
}

// request sends the encoded batch once.
func (l *lane) request(recs []*Record) error {
	p := l.t.p
	raw := 0
	for _, r := range recs {
		raw += r.size()
	}
	ticket, err := p.o.Flow.enter(p.ctx, len(l.buf), raw)
	if err != nil {
		return err
	}
	err = l.exchange()
	p.o.Flow.leave(ticket, err != nil)
	return err
}

func (l *lane) exchange() error {
	p := l.t.p
	ctx, cancel := context.WithTimeout(p.ctx, p.o.RequestTimeout)
	defer cancel()
	c := p.client.take()
	defer c.release()
	res, err := c.RawProduce(ctx, &kafka.RawProduceRequest{
		Topic: l.t.name, Partition: l.partition, RequiredAcks: kafka.RequireAll,
		RawRecords: protocol.RawRecordSet{Reader: bytes.NewReader(l.buf)},
	})
	if err != nil {
		return err
	}
	return res.Error
}
