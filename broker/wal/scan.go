package wal

import (
	"errors"
	"fmt"
	"io"
)

// Corruption is a part of the journal that was durable and cannot be read.
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
	if c.Length == 0 {
		return fmt.Sprintf("%s: %s: %s", c.File, c.Reason, lost)
	}
	return fmt.Sprintf("%s: %d bytes at offset %d: %s: %s", c.File, c.Length, c.Offset, c.Reason, lost)
}

// Window reads a file through a buffer, in pieces of at least ahead bytes, never past limit.
type Window struct {
	File  File
	Size  int64 // of the file
	Limit int64
	Ahead int
	start int64 // file offset of buf
	buf   []byte
}

// at returns the n bytes at off, fewer at limit or the end of the file. They are valid until the next call.
func (w *Window) at(off int64, n int) ([]byte, error) {
	if end := w.start + int64(len(w.buf)); off >= w.start && off+int64(n) <= end {
		return w.buf[off-w.start:][:n], nil
	}
	left := max(min(w.Limit, w.Size)-off, 0)
	n = int(min(int64(n), left))
	size := int(min(int64(max(n, w.Ahead)), left))
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	w.start, w.buf = off, w.buf[:size]
	got, err := w.File.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return nil, fmt.Errorf("read at offset %d: %w", off, err)
	}
	return w.buf[:min(n, got)], nil
}

// Reset points the window at another file.
func (w *Window) Reset(f File) (err error) {
	w.File, w.start, w.buf, w.Limit = f, 0, w.buf[:0], 0
	w.Size, err = f.Size()
	return err
}

// Header reads the batch header at off and reports whether its checksum is right and its batch ends within limit.
func (w *Window) Header(off int64, salt uint32) (BatchHeader, bool, error) {
	b, err := w.at(off, BatchHeaderLen)
	if err != nil {
		return BatchHeader{}, false, err
	}
	h, ok := DecodeBatchHeader(b, salt)
	return h, ok && off+h.Size() <= w.Limit, nil
}

// Body reads the records of the batch at off and reports whether their checksum is right.
func (w *Window) Body(off int64, h *BatchHeader, salt uint32) ([]byte, bool, error) {
	b, err := w.at(off, int(h.Size()))
	if err != nil {
		return nil, false, err
	}
	if int64(len(b)) < h.Size() {
		return nil, false, nil
	}
	b = b[BatchHeaderLen:]
	return b, h.bodyOK(b, salt), nil
}

// Find searches from off for the first valid batch whose mark says that everything before it was durable. ok is false
// if there is none before the limit.
func (w *Window) Find(off int64, salt uint32) (at int64, h BatchHeader, ok bool, err error) {
	for off = (off + BatchAlign - 1) &^ (BatchAlign - 1); off+BatchHeaderLen <= w.Limit; off += BatchAlign {
		b, err := w.at(off, BatchHeaderLen)
		if err != nil || len(b) < BatchHeaderLen {
			return 0, h, false, err
		}
		h, ok = DecodeBatchHeader(b, salt)
		if !ok || off+h.Size() > w.Limit || h.Mark+1 < h.First {
			continue
		}
		if _, ok, err = w.Body(off, &h, salt); ok || err != nil {
			return off, h, ok, err
		}
	}
	return 0, BatchHeader{}, false, nil
}

// Scanned is the result of Scan for one segment.
type Scanned struct {
	End      int64  // offset after the last good batch
	Next     uint64 // sequence after the last good batch
	Mark     uint64 // highest mark seen
	LastTime int64  // of the last record
	TailOff  int64  // offset and size of the last good batch with records
	TailLen  int64
	TailLast uint64 // its last sequence
	Batches  int
	Records  uint64
	Bad      []Corruption
}

// Scan visits the valid batches of a segment from start to the window's limit. An invalid part before a valid batch is
// corruption; the caller judges an invalid end. visit may be nil.
func Scan(w *Window, start int64, name string, salt uint32, base uint64, visit func(h *BatchHeader, body []byte) error) (Scanned, error) {
	s := Scanned{End: start, Next: base}
	for {
		h, body, ok, err := w.batch(s.End, salt)
		if err != nil {
			return s, err
		}
		if !ok || h.First != s.Next {
			at, found, ok, err := w.Find(s.End, salt)
			if err != nil || !ok || found.First < s.Next {
				return s, err
			}
			if at != s.End || found.First != s.Next {
				s.Bad = append(s.Bad, LostBetween(name, s.End, at, s.Next, found.First))
			}
			s.End, s.Next = at, found.First
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

// note records a valid batch.
func (s *Scanned) note(h *BatchHeader) {
	if h.Count > 0 {
		s.TailOff, s.TailLen, s.TailLast = s.End, h.Size(), h.Next()-1
		s.LastTime = h.lastTime()
	}
	s.Batches++
	s.Records += uint64(h.Count)
	s.Mark = max(s.Mark, h.Mark)
	s.End += h.Size()
	s.Next = h.Next()
}

// batch reads and checks the whole batch at off.
func (w *Window) batch(off int64, salt uint32) (BatchHeader, []byte, bool, error) {
	h, ok, err := w.Header(off, salt)
	if !ok || err != nil {
		return h, nil, false, err
	}
	body, ok, err := w.Body(off, &h, salt)
	return h, body, ok, err
}

// LostBetween describes an invalid part before a valid batch.
func LostBetween(name string, from, to int64, expected, found uint64) Corruption {
	c := Corruption{File: name, Offset: from, Length: to - from, Reason: "batch fails its checksum"}
	if found > expected {
		c.First, c.Last = expected, found-1
	}
	return c
}

// Torn returns the length of the batch that was being written at off, according to its header.
func (w *Window) Torn(off int64, salt uint32) (int64, error) {
	b, err := w.at(off, BatchHeaderLen)
	if err != nil {
		return 0, err
	}
	h, ok := DecodeBatchHeader(b, salt)
	if !ok {
		return 0, nil
	}
	return min(h.Size(), w.Limit-off), nil
}
