package kafkaclient

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go"
)

// A record batch, message format 2 (https://kafka.apache.org/documentation/#recordbatch). All numbers
// big-endian:
//
//	 0  base offset            8   0, the broker assigns it
//	 8  batch length           4   bytes after this field
//	12  partition leader epoch 4   -1
//	16  magic                  1   2
//	17  CRC-32C                4   of everything from offset 21
//	21  attributes             2   compression in bits 0-2
//	23  last offset delta      4   count - 1
//	27  base timestamp         8   ms
//	35  max timestamp          8   ms
//	43  producer id            8
//	51  producer epoch         2
//	53  base sequence          4
//	57  record count           4
//	61  records, compressed as one
//
// A record: length varint, attributes 1, timestamp delta varint, offset delta varint, key, value (each
// a varint length, -1 for null, and bytes), header count varint, headers (key, value likewise).
// Varints are zigzag.
//
// In a produce request its length precedes it, in 4 bytes.
const (
	sizePrefix  = 4
	batchHeader = 61
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// producerState identifies a batch when it is sent twice.
type producerState struct {
	id    int64
	epoch int16
	seq   int32 // of the next record
}

// advance moves on by n records. Sequences wrap to 0 after the largest int32 (KIP-98).
func (p *producerState) advance(n int) {
	p.seq = int32((int64(p.seq) + int64(n)) & 0x7fffffff) //nolint:gosec // masked to 31 bits
}

// encoders are shared by a producer's writers. Encoding only needs the processor, so more than encodersAtOnce would only
// use more memory, one batch each.
type encoders chan *encoder

const encodersAtOnce = 2

func newEncoders(c codec) encoders {
	es := make(encoders, encodersAtOnce)
	for range encodersAtOnce {
		es <- &encoder{codec: c}
	}
	return es
}

func (es encoders) encode(dst []byte, recs []*Record, p producerState) ([]byte, error) {
	e := <-es
	defer func() { es <- e }()
	return e.encode(dst, recs, p)
}

// encoder encodes records as one batch. It reuses its buffer, so a steady writer allocates nothing.
type encoder struct {
	codec   codec
	records []byte // uncompressed
}

// encode writes the batch of at least one record, preceded by its length, to dst[:0].
func (e *encoder) encode(dst []byte, recs []*Record, p producerState) ([]byte, error) {
	base, last := recs[0].Time, recs[0].Time
	e.records = e.records[:0]
	for i, r := range recs {
		last = max(last, r.Time)
		e.records = appendRecord(e.records, r, i, r.Time-base)
	}
	buf := append(dst[:0], make([]byte, sizePrefix+batchHeader)...)
	buf, err := e.codec.compress(buf, e.records)
	if err != nil {
		return buf, err
	}
	be := binary.BigEndian
	be.PutUint32(buf, uint32(len(buf)-sizePrefix)) //nolint:gosec // bounded by the batch size
	dst = buf[sizePrefix:]
	be.PutUint32(dst[8:], uint32(len(dst)-12)) //nolint:gosec // bounded by the batch size
	be.PutUint32(dst[12:], 0xffffffff)
	dst[16] = 2
	be.PutUint16(dst[21:], uint16(e.codec.id))  //nolint:gosec // 0 to 4
	be.PutUint32(dst[23:], uint32(len(recs)-1)) //nolint:gosec // bounded by the batch size
	be.PutUint64(dst[27:], uint64(base))        //nolint:gosec // two's complement on the wire
	be.PutUint64(dst[35:], uint64(last))        //nolint:gosec // as above
	be.PutUint64(dst[43:], uint64(p.id))        //nolint:gosec // as above
	be.PutUint16(dst[51:], uint16(p.epoch))     //nolint:gosec // as above
	be.PutUint32(dst[53:], uint32(p.seq))       //nolint:gosec // as above
	be.PutUint32(dst[57:], uint32(len(recs)))   //nolint:gosec // bounded by the batch size
	be.PutUint32(dst[17:], crc32.Checksum(dst[21:], castagnoli))
	return buf, nil
}

func appendRecord(dst []byte, r *Record, offset int, delta int64) []byte {
	n := 1 + varintLen(delta) + varintLen(int64(offset)) + bytesLen(r.Key) + bytesLen(r.Value) +
		varintLen(int64(r.HeaderCount)) + len(r.Headers)
	dst = binary.AppendVarint(dst, int64(n))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, delta)
	dst = binary.AppendVarint(dst, int64(offset))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(r.HeaderCount))
	return append(dst, r.Headers...)
}

func varintLen(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63) //nolint:gosec // zigzag
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

func bytesLen(b []byte) int {
	if b == nil {
		return 1
	}
	return varintLen(int64(len(b))) + len(b)
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// AppendHeader appends one header in the encoding of Record.Headers; the caller counts them.
func AppendHeader[V string | []byte](dst []byte, key string, value V) []byte {
	dst = binary.AppendVarint(dst, int64(len(key)))
	dst = append(dst, key...)
	dst = binary.AppendVarint(dst, int64(len(value)))
	return append(dst, value...)
}

// size estimates a record's bytes in an uncompressed batch.
func (r *Record) size() int { return len(r.Key) + len(r.Value) + len(r.Headers) + 24 }

// codec compresses a batch's records.
type codec struct {
	id   kafka.Compression
	zstd *zstd.Encoder // only for zstd; EncodeAll is safe for concurrent use
}

// newCodec accepts none, gzip, snappy, lz4 and zstd; "" means zstd.
func newCodec(name string) (codec, error) {
	switch name {
	case "none":
		return codec{}, nil
	case "gzip":
		return codec{id: kafka.Gzip}, nil
	case "snappy":
		return codec{id: kafka.Snappy}, nil
	case "lz4":
		return codec{id: kafka.Lz4}, nil
	case "zstd":
		// A window of 256 KiB covers most of a batch and keeps an encoder at about 1 MB.
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10),
			zstd.WithEncoderConcurrency(encodersAtOnce), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
		if err != nil {
			return codec{}, fmt.Errorf("zstd: %w", err)
		}
		return codec{id: kafka.Zstd, zstd: z}, nil
	}
	return codec{}, fmt.Errorf("%w: unknown compression %q; use none, gzip, snappy, lz4 or zstd", errConfig, name)
}

func (c codec) compress(dst, src []byte) ([]byte, error) {
	switch {
	case c.id == 0:
		return append(dst, src...), nil
	case c.zstd != nil:
		return c.zstd.EncodeAll(src, dst), nil
	}
	buf := bytes.NewBuffer(dst)
	w := c.id.Codec().NewWriter(buf)
	if _, err := w.Write(src); err != nil {
		return dst, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return dst, fmt.Errorf("compress: %w", err)
	}
	return buf.Bytes(), nil
}
