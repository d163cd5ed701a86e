package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"cellgate/broker/message"
)

// A journal is a directory of segments. All integers are little-endian; every CRC is CRC-32C.
//
//	LOCK                    held with flock by the process that has the journal open
//	{index, 16 hex}.log     a segment in use: always preallocated to its full size, always with a synced header
//	free-{n, 16 hex}.log    a segment without records, waiting to be used (again)
//
//	segment:  header copy A (page 0) | header copy B (page 1) | batch | batch | … | whatever was there before
//
// Segment header, 96 bytes at the start of each of the first two pages of 4,096 bytes. The copies are
// equal, so that damage to one costs nothing:
//
//	 0  magic      8   "CGJRNL\r\n"
//	 8  version    2   1
//	10  state      2   1 in use, 2 free
//	12  salt       4   random; seeds the CRCs of the segment's batches, so that batches left over from
//	                   the file's last use never pass for batches of this one
//	16  epoch      8   of the journal
//	24  index      8   of the segment, from 1, without gaps
//	32  base       8   sequence of the first record
//	40  time       8   ms since 1970: not after the first record's time
//	48  size       8   bytes of the file
//	56  prev index 8   the segment before, 0 for none
//	64  prev end   8   the offset at which the batches of the segment before end; up to there, all of it
//	                   was synced before this header was written
//	72  zero      20
//	92  crc        4   of bytes 0 to 91
//
// Batch: a header of 48 bytes, the records, zeros up to the next multiple of 16:
//
//	 0  crc        4   of bytes 4 to 47, seeded with the salt
//	 4  body crc   4   of the records and the zeros behind them, seeded with the salt
//	 8  length     4   bytes of the records
//	12  count      4   number of records; 0 for a batch that only carries the mark
//	16  first      8   sequence of the first record, or of the next one if there is none
//	24  time       8   ms since 1970 of the first record; the records hold differences to it
//	32  mark       8   everything up to this sequence was durable when the batch was written
//	40  span       4   ms from the first record's time to the last one's
//	44  flags      1   the records' message.Flags, or-ed
//	45  zero       3
//	48  records        each: length 4, then the bytes that message.Record.Append made
//
// Batch N is synced before batch N+1 is written, so mark+1 = first in every batch. Therefore a batch
// that does not check is the torn end of the journal if no good batch follows, and damage if one does.
const (
	magic         = "CGJRNL\r\n"
	formatVersion = 1

	stateUsed = 1
	stateFree = 2

	segmentHeaderLen = 96
	pageLen          = 4096
	segmentStart     = 2 * pageLen // offset of the first batch

	batchHeaderLen  = 48
	batchAlign      = 16
	recordLenBytes  = 4
	minSegmentBytes = segmentStart + pageLen
	maxSegmentBytes = 1 << 31
)

// ErrVersion is wrapped by Open when the journal was written by a later version of the format.
var ErrVersion = errors.New("journal format version not supported")

var errBadHeader = errors.New("segment header does not check")

// castagnoli is never written after the package is loaded.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type segmentHeader struct {
	state     uint16
	salt      uint32
	epoch     uint64
	index     uint64
	base      uint64
	time      int64
	size      int64
	prevIndex uint64
	prevEnd   int64
}

// encode returns both copies, two pages.
func (h *segmentHeader) encode() []byte {
	b := make([]byte, segmentStart)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint16(b[8:], formatVersion)
	le.PutUint16(b[10:], h.state)
	le.PutUint32(b[12:], h.salt)
	le.PutUint64(b[16:], h.epoch)
	le.PutUint64(b[24:], h.index)
	le.PutUint64(b[32:], h.base)
	le.PutUint64(b[40:], uint64(h.time)) //nolint:gosec // two's complement both ways
	le.PutUint64(b[48:], uint64(h.size)) //nolint:gosec // as above
	le.PutUint64(b[56:], h.prevIndex)
	le.PutUint64(b[64:], uint64(h.prevEnd)) //nolint:gosec // as above
	le.PutUint32(b[92:], crc32.Checksum(b[:92], castagnoli))
	copy(b[pageLen:], b[:segmentHeaderLen])
	return b
}

// decodeSegmentHeader reads one copy.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	le := binary.LittleEndian
	if len(b) < segmentHeaderLen || string(b[:8]) != magic || le.Uint32(b[92:]) != crc32.Checksum(b[:92], castagnoli) {
		return segmentHeader{}, errBadHeader
	}
	if v := le.Uint16(b[8:]); v != formatVersion {
		return segmentHeader{}, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, formatVersion)
	}
	h := segmentHeader{
		state:     le.Uint16(b[10:]),
		salt:      le.Uint32(b[12:]),
		epoch:     le.Uint64(b[16:]),
		index:     le.Uint64(b[24:]),
		base:      le.Uint64(b[32:]),
		time:      int64(le.Uint64(b[40:])), //nolint:gosec // two's complement both ways
		size:      int64(le.Uint64(b[48:])), //nolint:gosec // as above
		prevIndex: le.Uint64(b[56:]),
		prevEnd:   int64(le.Uint64(b[64:])), //nolint:gosec // as above
	}
	if h.size < minSegmentBytes || h.size > maxSegmentBytes || h.base == 0 || h.index == 0 || (h.state != stateUsed && h.state != stateFree) {
		return segmentHeader{}, errBadHeader
	}
	return h, nil
}

type batchHeader struct {
	bodyCRC uint32
	length  uint32
	count   uint32
	first   uint64
	time    int64
	mark    uint64
	span    uint32
	flags   message.Flags
}

// put encodes h into the first batchHeaderLen bytes of b.
func (h *batchHeader) put(b []byte, salt uint32) {
	_ = b[batchHeaderLen-1]
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.bodyCRC)
	le.PutUint32(b[8:], h.length)
	le.PutUint32(b[12:], h.count)
	le.PutUint64(b[16:], h.first)
	le.PutUint64(b[24:], uint64(h.time)) //nolint:gosec // two's complement both ways
	le.PutUint64(b[32:], h.mark)
	le.PutUint32(b[40:], h.span)
	le.PutUint32(b[44:], uint32(h.flags))
	le.PutUint32(b, crc32.Update(salt, castagnoli, b[4:batchHeaderLen]))
}

// decodeBatchHeader reads a header and reports whether it checks. It does not look at the records.
func decodeBatchHeader(b []byte, salt uint32) (batchHeader, bool) {
	if len(b) < batchHeaderLen {
		return batchHeader{}, false
	}
	le := binary.LittleEndian
	if le.Uint32(b[44:]) > math.MaxUint8 || le.Uint32(b) != crc32.Update(salt, castagnoli, b[4:batchHeaderLen]) {
		return batchHeader{}, false
	}
	h := batchHeader{
		bodyCRC: le.Uint32(b[4:]),
		length:  le.Uint32(b[8:]),
		count:   le.Uint32(b[12:]),
		first:   le.Uint64(b[16:]),
		time:    int64(le.Uint64(b[24:])), //nolint:gosec // two's complement both ways
		mark:    le.Uint64(b[32:]),
		span:    le.Uint32(b[40:]),
		flags:   message.Flags(b[44]),
	}
	// count ≤ length/4 because each record has its length before it; so next cannot overflow in practice.
	return h, uint64(h.count)*recordLenBytes <= uint64(h.length)
}

// size is what the batch takes in the file.
func (h *batchHeader) size() int64 { return batchSize(int64(h.length)) }

// next is the sequence behind the batch.
func (h *batchHeader) next() uint64 { return h.first + uint64(h.count) }

// lastTime is the time of the last record.
func (h *batchHeader) lastTime() int64 { return h.time + int64(h.span) }

// bodyOK checks the records and their padding: everything behind the header up to size.
func (h *batchHeader) bodyOK(body []byte, salt uint32) bool {
	return crc32.Update(salt, castagnoli, body) == h.bodyCRC
}

// batchSize is the size of a batch whose records take body bytes.
func batchSize(body int64) int64 {
	return (batchHeaderLen + body + batchAlign - 1) &^ (batchAlign - 1)
}

// eachRecord calls fn with the bytes of every record of a body that has passed its check.
func (h *batchHeader) eachRecord(body []byte, fn func(i int, rec []byte) error) error {
	body = body[:h.length]
	for i := range int(h.count) {
		if len(body) < recordLenBytes {
			return errShortBody
		}
		n := binary.LittleEndian.Uint32(body)
		body = body[recordLenBytes:]
		if uint64(n) > uint64(len(body)) {
			return errShortBody
		}
		if err := fn(i, body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	if len(body) != 0 {
		return errShortBody
	}
	return nil
}

var errShortBody = errors.New("record lengths do not add up to the batch's length")

// checksum is the salted CRC of a batch's parts.
func checksum(salt uint32, b []byte) uint32 { return crc32.Update(salt, castagnoli, b) }
