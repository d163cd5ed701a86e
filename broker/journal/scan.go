package journal

import (
	"errors"
	"fmt"
	"io"

	"cellgate/broker/wal"
)

// Corruption is a place of the journal that cannot be read although it was durable.
type Corruption struct {
	File   string `json:"file"` // base name
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // bytes; 0 when something is missing rather than wrong
	First  uint64 `json:"first"`  // first lost sequence; 0 when no record is lost
	Last   uint64 `json:"last"`   // last lost sequence
	Reason string `json:"reason"`
}

func (c Corruption) String() string {
	lost := "no record is lost"
	if c.First != 0 {
		lost = fmt.Sprintf("records %d to %d are lost", c.First, c.Last)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d: %s: %s", c.File, c.Length, c.Offset, c.Reason, lost)
}

// window reads a file through a buffer, in pieces of at least ahead bytes, never beyond limit.
type window struct {
	f     wal.File
	size  int64 // of the file; it does not change
	limit int64
	ahead int
	start int64 // file offset of buf
	buf   []byte
}

// at returns the n bytes at off, fewer where limit or the file ends before. They are valid until the
// next call.
func (w *window) at(off int64, n int) ([]byte, error) {
	if end := w.start + int64(len(w.buf)); off >= w.start && off+int64(n) <= end {
		return w.buf[off-w.start:][:n], nil
	}
	left := max(min(w.limit, w.size)-off, 0)
	n = int(min(int64(n), left))
	size := int(min(int64(max(n, w.ahead)), left))
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	w.start, w.buf = off, w.buf[:size]
	got, err := w.f.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return nil, fmt.Errorf("read at offset %d: %w", off, err)
	}
	return w.buf[:min(n, got)], nil
}

// reset points the window at another file.
func (w *window) reset(f wal.File) (err error) {
	w.f, w.start, w.buf, w.limit = f, 0, w.buf[:0], 0
	w.size, err = f.Size()
	return err
}

// header reads the batch header at off and reports whether it checks and its batch ends within limit.
func (w *window) header(off int64, salt uint32) (batchHeader, bool, error) {
	b, err := w.at(off, batchHeaderLen)
	if err != nil {
		return batchHeader{}, false, err
	}
	h, ok := decodeBatchHeader(b, salt)
	return h, ok && off+h.size() <= w.limit, nil
}

// body reads what is behind the header of a batch at off and reports whether it checks.
func (w *window) body(off int64, h *batchHeader, salt uint32) ([]byte, bool, error) {
	b, err := w.at(off, int(h.size()))
	if err != nil {
		return nil, false, err
	}
	if int64(len(b)) < h.size() {
		return nil, false, nil
	}
	b = b[batchHeaderLen:]
	return b, h.bodyOK(b, salt), nil
}

// find looks for the first batch at or behind off that checks as a whole and says that everything before
// it was durable. ok is false when there is none up to the limit.
func (w *window) find(off int64, salt uint32) (at int64, h batchHeader, ok bool, err error) {
	for off = (off + batchAlign - 1) &^ (batchAlign - 1); off+batchHeaderLen <= w.limit; off += batchAlign {
		b, err := w.at(off, batchHeaderLen)
		if err != nil || len(b) < batchHeaderLen {
			return 0, h, false, err
		}
		h, ok = decodeBatchHeader(b, salt)
		if !ok || off+h.size() > w.limit || h.mark+1 < h.first {
			continue
		}
		if _, ok, err = w.body(off, &h, salt); ok || err != nil {
			return off, h, ok, err
		}
	}
	return 0, batchHeader{}, false, nil
}

// scanned is what scan found in one segment.
type scanned struct {
	end      int64  // offset behind the last good batch
	next     uint64 // sequence behind the last good batch
	mark     uint64 // highest mark seen
	lastTime int64  // of the last record
	tailOff  int64  // offset and size of the last good batch with records
	tailLen  int64
	tailLast uint64 // its last sequence
	batches  int
	records  uint64
	bad      []Corruption
}

// scan visits the good batches of a segment up to the window's limit. What does not check before a good
// batch is corruption; what does not check at the end is the caller's to judge. visit may be nil.
func scan(w *window, name string, salt uint32, base uint64, visit func(h *batchHeader, body []byte) error) (scanned, error) {
	s := scanned{end: segmentStart, next: base}
	for {
		h, body, ok, err := w.batch(s.end, salt)
		if err != nil {
			return s, err
		}
		if !ok || h.first != s.next {
			at, found, ok, err := w.find(s.end, salt)
			if err != nil || !ok || found.first < s.next {
				return s, err
			}
			if at != s.end || found.first != s.next {
				s.bad = append(s.bad, lostBetween(name, s.end, at, s.next, found.first))
			}
			s.end, s.next = at, found.first
			continue
		}
		if visit != nil {
			if err := visit(&h, body); err != nil {
				return s, err
			}
		}
		s.note(&h)
	}
}

// note takes a good batch into account.
func (s *scanned) note(h *batchHeader) {
	if h.count > 0 {
		s.tailOff, s.tailLen, s.tailLast = s.end, h.size(), h.next()-1
		s.lastTime = h.lastTime()
	}
	s.batches++
	s.records += uint64(h.count)
	s.mark = max(s.mark, h.mark)
	s.end += h.size()
	s.next = h.next()
}

// batch reads and checks the whole batch at off.
func (w *window) batch(off int64, salt uint32) (batchHeader, []byte, bool, error) {
	h, ok, err := w.header(off, salt)
	if !ok || err != nil {
		return h, nil, false, err
	}
	body, ok, err := w.body(off, &h, salt)
	return h, body, ok, err
}

// lostBetween describes a bad stretch before a good batch.
func lostBetween(name string, from, to int64, expected, found uint64) Corruption {
	c := Corruption{File: name, Offset: from, Length: to - from, Reason: "batch does not check"}
	if found > expected {
		c.First, c.Last = expected, found-1
	}
	return c
}
