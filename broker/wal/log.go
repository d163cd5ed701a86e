package wal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// ErrDamaged is wrapped by errors about logs that lack records which the caller knows to be in them.
var ErrDamaged = errors.New("damaged log")

const (
	// flushAt is the size at which the buffer is written to the file.
	flushAt = 256 << 10
	// logReadAhead is the size of one read.
	logReadAhead = 16 << 10
)

// Log is a log whose owner records elsewhere how far it is valid: opening cuts off the rest. One goroutine at a time
// may append, one sync, one read.
type Log struct {
	fs           FS
	dir          string
	id           Identity
	code         uint64 // of id
	segmentBytes int64

	mu       sync.Mutex
	segments []logSegment // oldest first; the last is written to
	file     File         // of the last segment
	written  int64        // bytes of the last segment in the file
	frames   uint64       // in the last segment
	buf      []byte       // bytes after written
	unsynced []File       // finished segments that are not synced yet
	dirDirty bool         // a segment was created and the directory not synced
	dirty    bool         // something was appended since the last sync
	err      error        // sticky: a failed fsync

	reader    Window // of readerSeg
	readerSeg uint64
}

type logSegment struct {
	index uint64
	start int64  // offset of the first batch
	size  int64  // with what is buffered
	last  uint64 // highest sequence; 0 when empty
	old   bool   // of the format before: see oldlog.go
}

// OpenLog opens the log in dir, removes the segments before that of start, and cuts off everything after end. An end at
// offset 0 empties the log. Segments at its beginning may be missing, as after a trim; the caller knows whether they
// were needed.
func OpenLog(fsys FS, dir string, id Identity, start, end Position, segmentBytes int64) (*Log, error) {
	l := &Log{fs: fsys, dir: dir, id: id, code: id.code(), segmentBytes: segmentBytes}
	if end.Log != 0 && end.Log != l.code && end.Offset > 0 {
		return nil, fmt.Errorf("%w: the stored state of %s belongs to another log", ErrDamaged, dir)
	}
	// The entry of the parent too: an earlier start may have been killed before it synced it.
	if err := errors.Join(fsys.MkdirAll(filepath.Dir(dir)), fsys.MkdirAll(dir)); err != nil {
		return nil, l.failure(err)
	}
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if n < start.Segment || n > end.Segment || end.Offset == 0 {
			if err := l.fs.Remove(l.path(n)); err != nil {
				return nil, l.failure(err)
			}
			continue
		}
		if err := l.adopt(n, end); err != nil {
			return nil, err
		}
	}
	if end.Offset > 0 && (len(l.segments) == 0 || l.segments[len(l.segments)-1].index != end.Segment) {
		return nil, fmt.Errorf("%w: segment %016x of %s is missing", ErrDamaged, end.Segment, dir)
	}
	// A new segment: after a power loss what was cut off may come back, but not into this one.
	if err := l.roll(end.Segment + 1); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) failure(err error) error { return fmt.Errorf("log %s: %w", l.dir, err) }

// Damage returns an error about a position of the log.
func (l *Log) Damage(pos Position, err error) error {
	return fmt.Errorf("%w: %s at byte %d: %w", ErrDamaged, l.path(pos.Segment), pos.Offset, err)
}

// Dir returns the log's directory.
func (l *Log) Dir() string { return l.dir }

// salt returns the seed of the checksums of a segment's batches.
func (l *Log) salt(n uint64) uint32 { return uint32(l.code>>32) ^ uint32(n) } //nolint:gosec // any bits will do

func (l *Log) path(n uint64) string { return filepath.Join(l.dir, SegmentName(n)) }

// list returns the indexes of the segments, in order.
func (l *Log) list() (all []uint64, err error) {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return nil, l.failure(err)
	}
	for _, name := range names {
		if n, ok := ParseName(name); ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// adopt adds an existing segment, cut at end if it is the last, and checks it against the segment before it, whose end
// it records. A crash during a trim may have undone any of the removals: the log starts after the last gap.
func (l *Log) adopt(n uint64, end Position) error {
	h, s, err := l.load(n)
	if err != nil {
		return err
	}
	if n == end.Segment {
		if s.size < end.Offset {
			return fmt.Errorf("%w: %s ends at %d, and should end at %d", ErrDamaged, l.path(n), s.size, end.Offset)
		}
		if err := l.cut(n, end.Offset); err != nil {
			return l.failure(err)
		}
		s.size = end.Offset
	}
	if len(l.segments) > 0 {
		switch before := &l.segments[len(l.segments)-1]; {
		case h.PrevIndex > before.index:
			l.segments = nil
		case h.PrevIndex < before.index || h.PrevEnd > before.size:
			return fmt.Errorf("%w: %s: %016x has %d bytes, %016x of %d bytes was before it", ErrDamaged,
				l.path(n), before.index, before.size, h.PrevIndex, h.PrevEnd)
		default:
			before.size = h.PrevEnd
		}
	}
	l.segments = append(l.segments, s)
	return nil
}

// load reads and checks a segment's header.
func (l *Log) load(n uint64) (h Header, s logSegment, err error) {
	f, err := l.fs.Open(l.path(n))
	if err != nil {
		return h, s, l.failure(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, HeaderLen)
	k, _ := f.ReadAt(b, 0) //nolint:errcheck // what is missing does not check
	s = logSegment{index: n, start: HeaderLen}
	if s.size, err = f.Size(); err != nil {
		return h, s, l.failure(err)
	}
	if s.old = isOldHeader(b[:k]); s.old {
		s.start = oldHeaderLen
		h, err = decodeOldHeader(b[:k], l.id)
	} else {
		h, err = decodeHeader(b[:k], logMagic)
	}
	switch {
	case err != nil:
	case h.Index != n:
		err = fmt.Errorf("is segment %016x", h.Index)
	case !s.old && h.Epoch != l.code:
		err = errForeign
	}
	if err != nil {
		err = l.Damage(Position{Segment: n}, err)
	}
	return h, s, err
}

var errForeign = errors.New("belongs to another log, or to another journal")

// cut shortens a segment permanently: no later position names its old end.
func (l *Log) cut(n uint64, size int64) error {
	f, err := l.fs.OpenWrite(l.path(n))
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// roll starts segment n.
func (l *Log) roll(n uint64) error {
	f, err := l.fs.Create(l.path(n))
	if err != nil {
		return l.failure(err)
	}
	if l.file != nil {
		l.unsynced = append(l.unsynced, l.file)
	}
	h := Header{State: StateUsed, Salt: l.salt(n), Epoch: l.code, Index: n, Base: 1, Size: MaxSegmentBytes}
	if k := len(l.segments); k > 0 {
		h.PrevIndex, h.PrevEnd = l.segments[k-1].index, l.segments[k-1].size
	}
	l.file, l.written, l.frames, l.dirDirty = f, 0, 0, true
	l.buf = append(l.buf[:0], make([]byte, HeaderLen)...)
	h.put(l.buf, logMagic)
	l.segments = append(l.segments, logSegment{index: n, start: HeaderLen, size: HeaderLen})
	return nil
}

// Append adds a record; last is the highest sequence in it, for Trim. On an error of the disk nothing is added, and the
// call can be repeated.
func (l *Log) Append(data []byte, last uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	tail := &l.segments[len(l.segments)-1]
	if tail.size >= l.segmentBytes {
		if err := l.flushLocked(); err != nil {
			return err
		}
		if err := l.roll(tail.index + 1); err != nil {
			return err
		}
		tail = &l.segments[len(l.segments)-1]
	}
	if len(l.buf) >= flushAt {
		if err := l.flushLocked(); err != nil {
			return err
		}
	}
	tail.size += l.frameLocked(data, tail.index)
	tail.last = last
	l.dirty = true
	return nil
}

// frameLocked puts a batch of one record into the buffer and returns its size.
func (l *Log) frameLocked(data []byte, index uint64) int64 {
	l.frames++
	h := BatchHeader{Length: uint32(RecordLenBytes + len(data)), Count: 1, First: l.frames, Mark: l.frames - 1} //nolint:gosec // below 2 GiB
	at := len(l.buf)
	l.buf = slices.Grow(l.buf, int(h.Size()))[:at+int(h.Size())]
	b := l.buf[at:]
	binary.LittleEndian.PutUint32(b[BatchHeaderLen:], uint32(len(data))) //nolint:gosec // as above
	clear(b[BatchHeaderLen+RecordLenBytes+copy(b[BatchHeaderLen+RecordLenBytes:], data):])
	salt := l.salt(index)
	h.BodyCRC = Checksum(salt, b[BatchHeaderLen:])
	h.Put(b, salt)
	return h.Size()
}

// flushLocked writes the buffer to the file. After a short write the whole buffer is written again at the same offset.
func (l *Log) flushLocked() error {
	if len(l.buf) == 0 {
		return nil
	}
	if _, err := l.file.WriteAt(l.buf, l.written); err != nil {
		return l.failure(err)
	}
	l.written += int64(len(l.buf))
	l.buf = l.buf[:0]
	return nil
}

// End is the position after everything appended.
func (l *Log) End() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := &l.segments[len(l.segments)-1]
	return l.at(tail.index, tail.size)
}

// Start is the position of the oldest record kept.
func (l *Log) Start() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(l.segments[0].index, l.segments[0].start)
}

func (l *Log) at(segment uint64, offset int64) Position {
	return Position{Log: l.code, Segment: segment, Offset: offset}
}

// Sync makes everything appended so far durable. A failed fsync is final: the kernel may have dropped the pages, and a
// second fsync would succeed without them.
func (l *Log) Sync() error {
	l.mu.Lock()
	err := l.err
	if err == nil {
		err = l.flushLocked()
	}
	if err != nil || (!l.dirty && !l.dirDirty) {
		l.mu.Unlock()
		return err
	}
	old, cur, dir := l.unsynced, l.file, l.dirDirty
	l.unsynced, l.dirDirty, l.dirty = nil, false, false
	l.mu.Unlock()

	err = syncFiles(old, cur)
	if err == nil && dir {
		err = SyncDir(l.fs, l.dir)
	}
	if err == nil {
		return l.inPlace()
	}
	err = l.failure(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if IsExhausted(err) { // the directory could not even be opened: the next call does
		l.dirDirty = true
		return err
	}
	l.err = err
	return err
}

func syncFiles(old []File, cur File) error {
	var errs []error
	for _, f := range old {
		errs = append(errs, f.Sync(), f.Close())
	}
	return errors.Join(append(errs, cur.Sync())...)
}

// inPlace returns an error if the current segment was deleted or replaced while the gateway runs: no owner may record a
// position that the next start cannot find.
func (l *Log) inPlace() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := l.path(l.segments[len(l.segments)-1].index)
	if l.file.InPlace(tail) {
		return nil
	}
	l.dirty = true // looked at again
	return fmt.Errorf("%w: %s was deleted under the running gateway; no more checkpoints are taken: put it back, or restart "+
		"the gateway, which reports what is lost", ErrDamaged, tail)
}

// Read returns the record at pos and the position after it; false when there is none yet. The record is
// valid until the next read.
func (l *Log) Read(pos Position) (data []byte, next Position, ok bool, err error) {
	if pos.Log != 0 && pos.Log != l.code {
		return nil, pos, false, l.Damage(pos, errForeign)
	}
	s, pos, err := l.locate(pos)
	if err != nil || pos.Offset >= s.size {
		return nil, pos, false, err
	}
	if err := l.enter(&s); err != nil {
		return nil, pos, false, err
	}
	data, size, err := l.frame(&s, pos.Offset)
	if err != nil {
		return nil, pos, false, l.Damage(pos, err)
	}
	return data, l.at(s.index, pos.Offset+size), true, nil
}

// locate returns the segment that contains pos, as far as it can be read, and pos in it: the end of a segment becomes
// the beginning of the next. It flushes the buffer first.
func (l *Log) locate(pos Position) (logSegment, Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Opening starts a new segment, so indexes may have gaps.
	i, _ := slices.BinarySearchFunc(l.segments, pos.Segment, func(s logSegment, n uint64) int { return cmp.Compare(s.index, n) })
	for ; i < len(l.segments); i++ {
		s := l.segments[i]
		if s.index != pos.Segment {
			pos = l.at(s.index, s.start)
		}
		if i+1 < len(l.segments) {
			if pos.Offset < s.size {
				return s, pos, nil
			}
			continue
		}
		if pos.Offset >= l.written {
			if err := l.flushLocked(); err != nil {
				return s, pos, err
			}
		}
		s.size = l.written
		return s, pos, nil
	}
	return logSegment{}, pos, fmt.Errorf("%w: no segment %016x in %s", ErrDamaged, pos.Segment, l.dir)
}

// enter makes s the segment that is read.
func (l *Log) enter(s *logSegment) error {
	if l.reader.File == nil || l.readerSeg != s.index {
		l.CloseReader()
		f, err := l.fs.Open(l.path(s.index))
		if err != nil {
			return l.failure(err)
		}
		l.reader, l.readerSeg = Window{File: f, Ahead: logReadAhead}, s.index
	}
	l.reader.Size, l.reader.Limit = s.size, s.size
	return nil
}

var errFrame = errors.New("fails its checksum")

// frame reads the record at off and returns its size in the file.
func (l *Log) frame(s *logSegment, off int64) (data []byte, size int64, err error) {
	if s.old {
		return l.reader.oldFrame(off)
	}
	h, body, ok, err := l.reader.batch(off, l.salt(s.index))
	if err != nil {
		return nil, 0, err
	}
	if !ok {
		return nil, 0, errFrame
	}
	err = h.EachRecord(body, func(_ int, rec []byte) error { data = rec; return nil })
	return data, h.Size(), err
}

// CloseReader closes the file that was read last.
func (l *Log) CloseReader() {
	if l.reader.File != nil {
		_ = l.reader.File.Close() // it was only read
	}
	l.reader = Window{}
}

// Note records the highest sequence of a segment that an earlier process wrote.
func (l *Log) Note(segment, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.segments {
		if s := &l.segments[i]; s.index == segment {
			s.last = max(s.last, last)
		}
	}
}

// Trim removes segments whose records are all at or below seq, except the last one and those from keep on, where the
// reader is.
func (l *Log) Trim(seq uint64, keep Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.segments) > 1 && l.segments[0].last <= seq && l.segments[0].index < keep.Segment {
		if err := l.fs.Remove(l.path(l.segments[0].index)); err != nil {
			return l.failure(err)
		}
		l.segments = l.segments[1:]
	}
	return nil
}

// Bytes returns the size of the log.
func (l *Log) Bytes() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.segments {
		n += l.segments[i].size
	}
	return n
}

// Failed reports whether an fsync failed, which is final.
func (l *Log) Failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

// Close closes the files; what is not synced is lost, as in a crash.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range append(l.unsynced, l.file) {
		if f != nil {
			_ = f.Close()
		}
	}
	l.CloseReader()
	l.unsynced, l.file = nil, nil
	if l.err == nil {
		l.err = os.ErrClosed
	}
}
