package sink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// link holds every segment against the one that follows it, which says where it ends. A crash in the middle of a trim
// may have undone any of its removals: the log begins behind the last gap.
func (l *decisionLog) link() error {
	first := 0
	for i := range l.segments {
		s := &l.segments[i]
		h, err := l.header(s.number)
		if err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		before := &l.segments[i-1]
		switch {
		case h.previous > before.number:
			first = i
		case h.previous < before.number || h.end > before.size:
			return fmt.Errorf("%w: %s: %016x has %d bytes, %016x of %d bytes was in front of it", ErrDecisionLog,
				l.path(s.number), before.number, before.size, h.previous, h.end)
		default:
			before.size = h.end
		}
	}
	l.segments = l.segments[first:]
	return nil
}

// logHeader is a segment's header.
type logHeader struct {
	number, previous uint64
	end              int64
	epoch            uint64 // 0: not told
}

func (h *logHeader) encode() []byte {
	b := append(make([]byte, 0, segmentHeader), logMagic...)
	b = binary.LittleEndian.AppendUint64(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, h.previous)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.end)) //nolint:gosec // not negative
	b = binary.LittleEndian.AppendUint64(b, h.epoch)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// header reads and checks a segment's header.
func (l *decisionLog) header(n uint64) (h logHeader, err error) {
	f, err := l.fs.Open(l.path(n))
	if err != nil {
		return h, fmt.Errorf("decision log: %w", err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, segmentHeader)
	if _, err := f.ReadAt(b, 0); err != nil {
		return h, l.damage(position{Segment: n}, err)
	}
	le := binary.LittleEndian
	h = logHeader{le.Uint64(b[8:]), le.Uint64(b[16:]), int64(le.Uint64(b[24:])), le.Uint64(b[32:])} //nolint:gosec // as written
	switch {
	case string(b[:len(logMagic)]) == logMagic2:
		h.epoch = 0
	case string(b[:len(logMagic)]) != logMagic:
		return h, l.damage(position{Segment: n}, fmt.Errorf("begins with %q, not %q", b[:len(logMagic)], logMagic))
	}
	switch {
	case le.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli):
		return h, l.damage(position{Segment: n}, errors.New("checksum of the header"))
	case h.number != n:
		return h, l.damage(position{Segment: n}, fmt.Errorf("is segment %016x", h.number))
	case h.epoch != 0 && h.epoch != l.epoch:
		return h, l.damage(position{Segment: n}, fmt.Errorf("belongs to journal %d, not to %d", h.epoch, l.epoch))
	}
	return h, nil
}

// headLocked is the header of the segment that is written to.
func (l *decisionLog) headLocked() []byte {
	n := len(l.segments) - 1
	h := logHeader{number: l.segments[n].number, epoch: l.epoch}
	if n > 0 {
		h.previous, h.end = l.segments[n-1].number, l.segments[n-1].size
	}
	return h.encode()
}
