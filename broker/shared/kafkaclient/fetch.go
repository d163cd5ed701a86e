package kafkaclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// fetchVersion is the version of our Fetch requests, supported by every broker since Kafka 2.1. It is the first version
// for topics stored in zstd (KIP-110). From version 3 on a broker returns at least one whole batch, however large.
const fetchVersion = 10

// errAnswer is wrapped by errors about malformed responses.
var errAnswer = errors.New("malformed answer")

// rawFetch is a Fetch request for one partition that keeps the batches compressed. kafka-go's own request decompresses
// all of them at once: 1 MiB that compresses well may become gigabytes.
type rawFetch struct {
	fetch.Request

	clientID string
}

func newRawFetch(clientID, topic string, partition int, offset int64, maxBytes int, wait time.Duration) *rawFetch {
	limit := int32(min(maxBytes, 64<<20)) //nolint:gosec // bounded here
	return &rawFetch{clientID: clientID, Request: fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(wait.Milliseconds()), MinBytes: 1, MaxBytes: limit, SessionEpoch: -1, //nolint:gosec // less than a second
		Topics: []fetch.RequestTopic{{Topic: topic, Partitions: []fetch.RequestPartition{{
			Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, PartitionMaxBytes: limit, //nolint:gosec // Kafka's own type
		}}}},
	}}
}

// rawFetched is the response to rawFetch.
type rawFetched struct {
	code    kafka.Error
	high    int64
	batches []byte // the last one may have been cut off
}

// ApiKey implements protocol.Message.
func (*rawFetched) ApiKey() protocol.ApiKey { return protocol.Fetch } //nolint:revive // the library's name

// Required implements protocol.RawExchanger.
func (*rawFetch) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger.
func (r *rawFetch) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1 // a connection has one request in flight, so any number is unique
	if err := protocol.WriteRequest(rw, fetchVersion, correlation, r.clientID, &r.Request); err != nil {
		return nil, err
	}
	answer, err := readAnswer(rw)
	if err != nil {
		return nil, err
	}
	return parseFetched(answer)
}

// readAnswer reads one response: its length in 4 bytes, then the body.
func readAnswer(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	answer, err := io.ReadAll(io.LimitReader(r, size))
	if err == nil && int64(len(answer)) < size {
		err = io.ErrUnexpectedEOF
	}
	return answer, err
}

// parseFetched reads an answer of version 10 with one partition:
//
//	correlation id 4, throttle time 4, error 2, session 4, topics 4, name 2 + n,
//	partitions 4, partition 4, error 2, high watermark 8, last stable offset 8, first offset 8,
//	aborted transactions 4 + 16 each, length of the batches 4, batches
func parseFetched(b []byte) (*rawFetched, error) {
	be := binary.BigEndian
	const head, fixed = 20, 4 + 4 + 2 + 8 + 8 + 8 + 4
	if len(b) < head {
		return nil, fmt.Errorf("%w: %d bytes", errAnswer, len(b))
	}
	if code := kafka.Error(int16(be.Uint16(b[8:]))); code != 0 { //nolint:gosec // two's complement on the wire
		return nil, code
	}
	if be.Uint32(b[14:]) != 1 {
		return nil, fmt.Errorf("%w: %d bytes without a topic", errAnswer, len(b))
	}
	b = b[min(len(b), head+int(be.Uint16(b[18:]))):]
	if len(b) < fixed || be.Uint32(b) != 1 {
		return nil, fmt.Errorf("%w: no partition", errAnswer)
	}
	res := &rawFetched{code: kafka.Error(int16(be.Uint16(b[8:]))), high: int64(be.Uint64(b[10:]))} //nolint:gosec // two's complement on the wire
	aborted := max(0, int64(int32(be.Uint32(b[34:]))))                                             //nolint:gosec // as above
	b = b[min(int64(len(b)), fixed+16*aborted):]
	if len(b) < 4 || max(0, int64(int32(be.Uint32(b)))) > int64(len(b)-4) { //nolint:gosec // as above
		return nil, fmt.Errorf("%w: short batches", errAnswer)
	}
	res.batches = b[4 : 4+max(0, int64(int32(be.Uint32(b))))] //nolint:gosec // as above
	return res, nil
}

// ask fetches batches from p.next on.
func (p *Assignment) ask(ctx context.Context, maxBytes int, wait time.Duration) (*rawFetched, error) {
	c := p.c.client
	m, err := c.Transport.RoundTrip(ctx, c.Addr, newRawFetch(p.c.o.ClientID, p.Topic, p.ID, p.next, maxBytes, wait))
	if err != nil {
		return nil, err
	}
	res, ok := m.(*rawFetched)
	if !ok {
		return nil, fmt.Errorf("%w: %T", errAnswer, m)
	}
	return res, nil
}

// decode takes batches off p.batches until the records from p.next on have maxBytes or more. It skips control records,
// and stops at missing records and sets p.hole: a log without compaction has none. fresh means that the batches were
// just fetched, so the first is whole.
func (p *Assignment) decode(maxBytes int, fresh bool) ([]Fetched, error) {
	var out []Fetched
	was, size := p.next, 0
	for size < maxBytes && p.hole == nil {
		rest := p.batches
		batch, base, after, control := p.cutBatch()
		if batch == nil { // the end, or a truncated batch that the next response begins with
			p.batches = nil
			if fresh && len(rest) > 0 && p.next == was {
				return nil, fmt.Errorf("read %s/%d at %d: %w: no whole batch", p.Topic, p.ID, p.next, errAnswer)
			}
			break
		}
		recs, err := decodeBatch(batch)
		if err != nil {
			p.batches = nil
			if len(out) > 0 {
				return out, nil // the next fetch begins at the unreadable batch
			}
			return nil, fmt.Errorf("read %s/%d at %d: %w", p.Topic, p.ID, p.next, err)
		}
		p.missing(base)
		if !control {
			taken := p.take(recs)
			out, size = append(out, taken...), size+sizeOf(taken)
			p.missing(after)
		}
		if p.hole != nil {
			p.batches = rest // read again after the hole
			break
		}
		p.next = max(p.next, after)
	}
	return out, nil
}

// take returns the records from p.next on, up to a hole, and moves p.next past them.
func (p *Assignment) take(recs []Fetched) []Fetched {
	recs = slices.DeleteFunc(recs, func(f Fetched) bool { return f.Offset < p.next })
	for i := range recs {
		if p.missing(recs[i].Offset); p.hole != nil {
			return recs[:i]
		}
		p.next = recs[i].Offset + 1
	}
	return recs
}

func sizeOf(recs []Fetched) (bytes int) {
	for i := range recs {
		bytes += len(recs[i].Key) + len(recs[i].Value)
	}
	return bytes
}

// missing sets p.hole if the next existing record is not the one to be read next.
func (p *Assignment) missing(next int64) {
	if p.hole == nil && p.next < next {
		p.hole = &GapError{Topic: p.Topic, ID: p.ID, From: p.next, To: next, End: p.high}
	}
}

// cutBatch takes the first batch off p.batches: its bytes, its first offset and the offset after it (both 0 if
// unknown), and whether it holds control records. It returns nil if no whole batch is left. For the layout see
// batch.go.
func (p *Assignment) cutBatch() (batch []byte, base, after int64, control bool) {
	be, b := binary.BigEndian, p.batches
	const magic, attributes, lastDelta = 16, 21, 23
	if len(b) <= magic {
		return nil, 0, 0, false
	}
	size := 12 + int64(be.Uint32(b[8:]))
	if size > int64(len(b)) || (b[magic] >= 2 && size < batchHeader) {
		return nil, 0, 0, false
	}
	p.batches = b[size:]
	if b[magic] >= 2 {
		base = int64(be.Uint64(b)) //nolint:gosec // two's complement on the wire
		after = base + int64(be.Uint32(b[lastDelta:])) + 1
		control = be.Uint16(b[attributes:])&0x20 != 0
	}
	return b[:size], base, after, control
}

func decodeBatch(b []byte) ([]Fetched, error) {
	prefix := binary.BigEndian.AppendUint32(nil, uint32(len(b))) //nolint:gosec // it was 32 bits
	var set protocol.RecordSet
	if _, err := set.ReadFrom(bufio.NewReader(io.MultiReader(bytes.NewReader(prefix), bytes.NewReader(b)))); err != nil {
		return nil, err
	}
	if set.Records == nil {
		return nil, nil
	}
	var all []Fetched
	for {
		rec, err := set.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		f, err := fetched(rec)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
}

func fetched(rec *kafka.Record) (Fetched, error) {
	f := Fetched{Offset: rec.Offset, Time: rec.Time, Headers: slices.Clone(rec.Headers)}
	var kerr, verr error
	f.Key, kerr = protocol.ReadAll(rec.Key)
	f.Value, verr = protocol.ReadAll(rec.Value)
	return f, errors.Join(kerr, verr)
}
