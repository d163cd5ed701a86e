package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
)

// A log is a directory of segments. All integers are little-endian; every CRC is CRC-32C.
//
//	{index, 16 hex}.log     a segment in use
//	free-{n, 16 hex}.log    of the journal: a segment without records, waiting to be used (again)
//	LOCK                    of the journal: held with flock by the process that has it open
//
// The journal's segments are preallocated and used again; the header is there twice, on a page of 4,096 bytes each, so that
// damage to one copy costs nothing, and is synced before the segment gets its name:
//
//	header copy A (page 0) | header copy B (page 1) | batch | batch | … | whatever was there before
//
// Those of any other log (type Log) grow, and are never used again:
//
//	header | batch | batch | …
//
// Segment header, 96 bytes:
//
//	 0  magic      8   "CGJRNL\r\n" of the journal, "CGWLOG\r\n" of any other log
//	 8  version    2   1
//	10  state      2   1 in use, 2 free
//	12  salt       4   seeds the CRCs of the segment's batches, so that batches left over from the file's
//	                   last use, or of another log, never pass for batches of this one; random, or made
//	                   of epoch and index in other logs than the journal
//	16  epoch      8   of the journal; Identity.code of any other log
//	24  index      8   of the segment, from 1, without gaps
//	32  base       8   sequence of the first record; 1 in other logs, which count from 1 in each segment
//	40  time       8   ms since 1970: not after the first record's time; 0 in other logs, as in their batches
//	48  size       8   bytes that the file has, or may have
//	56  prev index 8   the segment before, 0 for none
//	64  prev end   8   the offset at which the batches of the segment before end; up to there, all of it
//	                   was synced before this header was written
//	72  zero      20
//	92  crc        4   of bytes 0 to 91
//
// Batch: a header of 48 bytes, the records, zeros up to the next multiple of 16:
//
//	 0  crc        4   of bytes 4 to 47, seeded with the salt
//	 4  body crc   4   of the records and the zeros after them, seeded with the salt
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
	journalMagic = "CGJRNL\r\n"
	logMagic     = "CGWLOG\r\n"
	// FormatVersion is the newest version that is written and read.
	FormatVersion = 1

	// StateUsed and StateFree are the states of a segment.
	StateUsed = 1
	StateFree = 2

	// HeaderLen is the length of a segment header, PageLen the distance between the journal's two copies of it.
	HeaderLen = 96
	PageLen   = 4096
	// SegmentStart is the offset of the first batch in the journal.
	SegmentStart = 2 * PageLen

	// BatchHeaderLen is the length of a batch header, BatchAlign the alignment of batches, RecordLenBytes the length
	// prefix of a record.
	BatchHeaderLen = 48
	BatchAlign     = 16
	RecordLenBytes = 4
	// MinSegmentBytes and MaxSegmentBytes bound the size of a journal's segment.
	MinSegmentBytes = SegmentStart + PageLen
	MaxSegmentBytes = 1 << 31
)

// ErrVersion means that a later version of the format wrote the segment.
var ErrVersion = errors.New("journal format version not supported")

// ErrBadHeader means that the file has no segment header of this kind of log.
var ErrBadHeader = errors.New("segment header fails its checksum")

// castagnoli is constant.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is a segment header.
type Header struct {
	State     uint16
	Salt      uint32
	Epoch     uint64
	Index     uint64
	Base      uint64
	Time      int64
	Size      int64
	PrevIndex uint64
	PrevEnd   int64
}

// Encode returns the journal's two copies, one on each of two pages.
func (h *Header) Encode() []byte {
	b := make([]byte, SegmentStart)
	h.put(b, journalMagic)
	copy(b[PageLen:], b[:HeaderLen])
	return b
}

func (h *Header) put(b []byte, magic string) {
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint16(b[8:], FormatVersion)
	le.PutUint16(b[10:], h.State)
	le.PutUint32(b[12:], h.Salt)
	le.PutUint64(b[16:], h.Epoch)
	le.PutUint64(b[24:], h.Index)
	le.PutUint64(b[32:], h.Base)
	le.PutUint64(b[40:], uint64(h.Time)) //nolint:gosec // two's complement both ways
	le.PutUint64(b[48:], uint64(h.Size)) //nolint:gosec // as above
	le.PutUint64(b[56:], h.PrevIndex)
	le.PutUint64(b[64:], uint64(h.PrevEnd)) //nolint:gosec // as above
	le.PutUint32(b[92:], crc32.Checksum(b[:92], castagnoli))
}

// DecodeHeader reads one copy of a journal's header.
func DecodeHeader(b []byte) (Header, error) { return decodeHeader(b, journalMagic) }

func decodeHeader(b []byte, magic string) (Header, error) {
	le := binary.LittleEndian
	if len(b) < HeaderLen || string(b[:8]) != magic || le.Uint32(b[92:]) != crc32.Checksum(b[:92], castagnoli) {
		return Header{}, ErrBadHeader
	}
	if v := le.Uint16(b[8:]); v != FormatVersion {
		return Header{}, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, FormatVersion)
	}
	h := Header{
		State:     le.Uint16(b[10:]),
		Salt:      le.Uint32(b[12:]),
		Epoch:     le.Uint64(b[16:]),
		Index:     le.Uint64(b[24:]),
		Base:      le.Uint64(b[32:]),
		Time:      int64(le.Uint64(b[40:])), //nolint:gosec // two's complement both ways
		Size:      int64(le.Uint64(b[48:])), //nolint:gosec // as above
		PrevIndex: le.Uint64(b[56:]),
		PrevEnd:   int64(le.Uint64(b[64:])), //nolint:gosec // as above
	}
	if h.Size < MinSegmentBytes || h.Size > MaxSegmentBytes || h.Base == 0 || h.Index == 0 || (h.State != StateUsed && h.State != StateFree) {
		return Header{}, ErrBadHeader
	}
	return h, nil
}

// BatchHeader is the header of a batch.
type BatchHeader struct {
	BodyCRC uint32
	Length  uint32
	Count   uint32
	First   uint64
	Time    int64
	Mark    uint64
	Span    uint32
	Flags   uint8
}

// Put encodes h into the first batchHeaderLen bytes of b.
func (h *BatchHeader) Put(b []byte, salt uint32) {
	_ = b[BatchHeaderLen-1]
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.BodyCRC)
	le.PutUint32(b[8:], h.Length)
	le.PutUint32(b[12:], h.Count)
	le.PutUint64(b[16:], h.First)
	le.PutUint64(b[24:], uint64(h.Time)) //nolint:gosec // two's complement both ways
	le.PutUint64(b[32:], h.Mark)
	le.PutUint32(b[40:], h.Span)
	le.PutUint32(b[44:], uint32(h.Flags))
	le.PutUint32(b, crc32.Update(salt, castagnoli, b[4:BatchHeaderLen]))
}

// DecodeBatchHeader reads a header and reports whether its checksum is right. It does not read the records.
func DecodeBatchHeader(b []byte, salt uint32) (BatchHeader, bool) {
	if len(b) < BatchHeaderLen {
		return BatchHeader{}, false
	}
	le := binary.LittleEndian
	if le.Uint32(b[44:]) > math.MaxUint8 || le.Uint32(b) != crc32.Update(salt, castagnoli, b[4:BatchHeaderLen]) {
		return BatchHeader{}, false
	}
	h := BatchHeader{
		BodyCRC: le.Uint32(b[4:]),
		Length:  le.Uint32(b[8:]),
		Count:   le.Uint32(b[12:]),
		First:   le.Uint64(b[16:]),
		Time:    int64(le.Uint64(b[24:])), //nolint:gosec // two's complement both ways
		Mark:    le.Uint64(b[32:]),
		Span:    le.Uint32(b[40:]),
		Flags:   uint8(b[44]),
	}
	// count ≤ length/4 because each record has its length before it; so next cannot overflow in practice.
	return h, uint64(h.Count)*RecordLenBytes <= uint64(h.Length)
}

// Size returns the bytes of the batch in the file.
func (h *BatchHeader) Size() int64 { return BatchSize(int64(h.Length)) }

// Next returns the sequence after the batch.
func (h *BatchHeader) Next() uint64 { return h.First + uint64(h.Count) }

// lastTime returns the time of the last record.
func (h *BatchHeader) lastTime() int64 { return h.Time + int64(h.Span) }

// bodyOK checks the records and their padding: everything after the header.
func (h *BatchHeader) bodyOK(body []byte, salt uint32) bool {
	return crc32.Update(salt, castagnoli, body) == h.BodyCRC
}

// BatchSize returns the size of a batch with body bytes of records.
func BatchSize(body int64) int64 {
	return (BatchHeaderLen + body + BatchAlign - 1) &^ (BatchAlign - 1)
}

// EachRecord calls fn with every record of a body that bodyOK has checked.
func (h *BatchHeader) EachRecord(body []byte, fn func(i int, rec []byte) error) error {
	body = body[:h.Length]
	for i := range int(h.Count) {
		if len(body) < RecordLenBytes {
			return errShortBody
		}
		n := binary.LittleEndian.Uint32(body)
		body = body[RecordLenBytes:]
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

// Checksum returns the salted CRC-32C of b.
func Checksum(salt uint32, b []byte) uint32 { return crc32.Update(salt, castagnoli, b) }

const nameSuffix = ".log"

// SegmentName returns the file name of a segment.
func SegmentName(index uint64) string { return fmt.Sprintf("%016x%s", index, nameSuffix) }

// ParseName returns the index of the segment with that file name; ok is false for other names.
func ParseName(name string) (index uint64, ok bool) {
	hex, ok := strings.CutSuffix(name, nameSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	index, err := strconv.ParseUint(hex, 16, 64)
	return index, err == nil
}
