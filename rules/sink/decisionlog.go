package sink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cellgate/broker/wal"
)

// A decision log is a directory of segments, {number, 16 hex digits}.log, each:
//
//	magic    8 bytes  "cgdecs\x00\x03", the last one the version
//	number   8 bytes  its own; this and all that follows is little-endian
//	previous 8 bytes  number of the segment before it
//	end      8 bytes  where that one ends
//	epoch    8 bytes  of the journal whose records are decided in it; version 2 has a sequence here that nothing reads
//	crc      4 bytes  CRC-32C of what is in front of it
//	frames, each
//	  length 4 bytes  of the chunk
//	  crc    4 bytes  CRC-32C of the chunk
//	  chunk
//
// The header is read and written in segmentheader.go.
//
// Nothing in it counts before a checkpoint names a position behind it: opening cuts off the rest. Chunks
// stand in journal order.
const (
	logMagic      = "cgdecs\x00\x03"
	logMagic2     = "cgdecs\x00\x02"
	segmentHeader = len(logMagic) + 4*8 + 4
	frameHeader   = 8
	// maxChunk is far above what one journal batch can decide; a length beyond it is damage.
	maxChunk = 64 << 20
	// flushAt is how much a log buffers before it writes to the file.
	flushAt = 256 << 10
)

// ErrDecisionLog is wrapped by errors about damaged decision logs.
var ErrDecisionLog = errors.New("damaged decision log")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// position is a place in a decision log.
type position struct {
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
}

type logSegment struct {
	number uint64
	size   int64  // with what is buffered
	last   uint64 // highest sequence; 0 when empty
}

// decisionLog is one sink's. Appending and syncing are done by one goroutine at a time each, reading by
// one; the mutex makes them agree.
type decisionLog struct {
	fs           wal.FS
	dir          string
	epoch        uint64 // of the journal
	segmentBytes int64

	mu       sync.Mutex
	segments []logSegment // oldest first; the last is written to
	file     wal.File     // of the last segment
	written  int64        // bytes of the last segment in the file
	buf      []byte       // bytes behind written
	unsynced []wal.File   // finished segments that are not synced yet
	dirDirty bool         // a segment was created and the directory not synced
	dirty    bool         // something was appended since the last sync
	err      error        // sticky: a failed fsync

	reader     wal.File // of readerSeg
	readerSeg  uint64
	readHead   [frameHeader]byte
	readBuffer []byte
}

// openDecisionLog opens the log in dir, of the journal of that epoch, removes the segments before start's, and cuts off
// everything behind end. An end at offset 0 empties it. Segments at its beginning may be missing, as after a trim: whoever knows
// how many records are pending in it tells whether they had been passed.
func openDecisionLog(fs wal.FS, dir string, epoch uint64, start, end position, segmentBytes int64) (*decisionLog, error) {
	l := &decisionLog{fs: fs, dir: dir, epoch: epoch, segmentBytes: segmentBytes}
	// The parent's own entry, too: a start may have been killed before it had synced it.
	if err := errors.Join(fs.MkdirAll(filepath.Dir(dir)), fs.MkdirAll(dir)); err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	numbers, err := l.list()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if n < start.Segment || n > end.Segment || end.Offset == 0 {
			if err := l.fs.Remove(l.path(n)); err != nil {
				return nil, fmt.Errorf("decision log: %w", err)
			}
			continue
		}
		if err := l.adopt(n, end); err != nil {
			return nil, err
		}
	}
	if err := l.link(); err != nil {
		return nil, err
	}
	if end.Offset > 0 && (len(l.segments) == 0 || l.segments[len(l.segments)-1].number != end.Segment) {
		return nil, fmt.Errorf("%w: segment %016x of %s is missing", ErrDecisionLog, end.Segment, dir)
	}
	// A new segment: what was cut off may still come back after a power loss, but not into this one.
	if err := l.roll(end.Segment + 1); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *decisionLog) list() ([]uint64, error) {
	files, err := l.fs.List(l.dir)
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	var numbers []uint64
	for _, f := range files {
		name, ok := strings.CutSuffix(f, ".log")
		if n, err := strconv.ParseUint(name, 16, 64); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (l *decisionLog) path(n uint64) string { return filepath.Join(l.dir, fmt.Sprintf("%016x.log", n)) }

// adopt takes an existing segment over, cut at end if it is the last.
func (l *decisionLog) adopt(n uint64, end position) error {
	size, err := l.sizeOf(n)
	if err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	if n == end.Segment {
		if size < end.Offset {
			return fmt.Errorf("%w: %s ends at %d, the checkpoint says %d", ErrDecisionLog, l.path(n), size, end.Offset)
		}
		if err := l.cut(n, end.Offset); err != nil {
			return fmt.Errorf("decision log: %w", err)
		}
		size = end.Offset
	}
	l.segments = append(l.segments, logSegment{number: n, size: size})
	return nil
}

func (l *decisionLog) sizeOf(n uint64) (int64, error) {
	f, err := l.fs.Open(l.path(n))
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

// cut shortens a segment for good: a later checkpoint no longer names its end.
func (l *decisionLog) cut(n uint64, size int64) error {
	f, err := l.fs.OpenWrite(l.path(n))
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// roll starts segment n.
func (l *decisionLog) roll(n uint64) error {
	f, err := l.fs.Create(l.path(n))
	if err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	if l.file != nil {
		l.unsynced = append(l.unsynced, l.file)
	}
	l.file, l.written, l.dirDirty = f, 0, true
	l.buf = append(l.buf[:0], make([]byte, segmentHeader)...) // flushLocked fills it in
	l.segments = append(l.segments, logSegment{number: n, size: int64(segmentHeader)})
	return nil
}

// append adds a chunk whose last record is last. It fails only when the disk does not take it; then
// nothing is added, and it may be tried again.
func (l *decisionLog) append(data []byte, last uint64) error {
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
		if err := l.roll(tail.number + 1); err != nil {
			return err
		}
		tail = &l.segments[len(l.segments)-1]
	}
	if len(l.buf) >= flushAt {
		if err := l.flushLocked(); err != nil {
			return err
		}
	}
	l.buf = binary.LittleEndian.AppendUint32(l.buf, uint32(len(data))) //nolint:gosec // below maxChunk
	l.buf = binary.LittleEndian.AppendUint32(l.buf, crc32.Checksum(data, castagnoli))
	l.buf = append(l.buf, data...)
	tail.size += frameHeader + int64(len(data))
	tail.last = last
	l.dirty = true
	return nil
}

// flushLocked writes the buffer to the file. A short write leaves all of it buffered, to be written
// again at the same place.
func (l *decisionLog) flushLocked() error {
	if len(l.buf) == 0 {
		return nil
	}
	if l.written == 0 {
		copy(l.buf, l.headLocked())
	}
	if _, err := l.file.WriteAt(l.buf, l.written); err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	l.written += int64(len(l.buf))
	l.buf = l.buf[:0]
	return nil
}

// end is the position behind everything appended.
func (l *decisionLog) end() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := l.segments[len(l.segments)-1]
	return position{Segment: tail.number, Offset: tail.size}
}

// sync makes everything appended so far durable. A failed fsync is final: the kernel may have thrown the
// pages away, and a second fsync would say that all is well.
func (l *decisionLog) sync() error {
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

	err = l.syncFiles(old, cur)
	if err == nil && dir {
		err = wal.SyncDir(l.fs, l.dir)
	}
	if err == nil {
		return l.inPlace()
	}
	err = fmt.Errorf("decision log: %w", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if wal.IsExhausted(err) { // the directory could not even be opened: the next call does
		l.dirDirty = true
		return err
	}
	l.err = err
	return err
}

// inPlace says when the segment that is written to was deleted or replaced under the gateway: a checkpoint must not name what
// no start finds.
func (l *decisionLog) inPlace() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := l.path(l.segments[len(l.segments)-1].number)
	if l.file.InPlace(tail) {
		return nil
	}
	l.dirty = true // looked at again
	return fmt.Errorf("%w: %s was deleted under the running gateway; no checkpoint is taken any more: put it back, or restart "+
		"the gateway, which tells what is lost", ErrDecisionLog, tail)
}

func (l *decisionLog) syncFiles(old []wal.File, cur wal.File) error {
	var errs []error
	for _, f := range old {
		errs = append(errs, f.Sync(), f.Close())
	}
	return errors.Join(append(errs, cur.Sync())...)
}

// start is the position of the oldest chunk kept.
func (l *decisionLog) start() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return position{Segment: l.segments[0].number, Offset: int64(segmentHeader)}
}

// read returns the chunk at pos and the position behind it; false when there is none yet. The chunk is
// valid until the next read.
func (l *decisionLog) read(pos position) ([]byte, position, bool, error) {
	for {
		size, last, err := l.readable(pos)
		if err != nil {
			return nil, pos, false, err
		}
		if pos.Offset < size {
			break
		}
		if last {
			return nil, pos, false, nil
		}
		pos = position{Segment: pos.Segment + 1, Offset: int64(segmentHeader)}
	}
	data, err := l.frame(pos)
	if err != nil {
		return nil, pos, false, err
	}
	return data, position{Segment: pos.Segment, Offset: pos.Offset + frameHeader + int64(len(data))}, true, nil
}

// readable tells how far the segment of pos can be read, after writing out what is buffered, and
// whether it is the last.
func (l *decisionLog) readable(pos position) (size int64, last bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := &l.segments[len(l.segments)-1]
	if pos.Segment == tail.number {
		if pos.Offset >= l.written {
			if err := l.flushLocked(); err != nil {
				return 0, true, err
			}
		}
		return l.written, true, nil
	}
	for _, s := range l.segments {
		if s.number == pos.Segment {
			return s.size, false, nil
		}
	}
	// Opening starts a new segment, so numbers may jump.
	for _, s := range l.segments {
		if s.number > pos.Segment {
			return 0, false, nil
		}
	}
	return 0, false, fmt.Errorf("%w: no segment %016x", ErrDecisionLog, pos.Segment)
}

func (l *decisionLog) frame(pos position) ([]byte, error) {
	if l.reader == nil || l.readerSeg != pos.Segment {
		if l.reader != nil {
			_ = l.reader.Close()
			l.reader = nil
		}
		f, err := l.fs.Open(l.path(pos.Segment))
		if err != nil {
			return nil, fmt.Errorf("decision log: %w", err)
		}
		l.reader, l.readerSeg = f, pos.Segment
	}
	head := l.readHead[:]
	if _, err := l.reader.ReadAt(head, pos.Offset); err != nil {
		return nil, l.damage(pos, err)
	}
	n := binary.LittleEndian.Uint32(head)
	if n > maxChunk {
		return nil, l.damage(pos, fmt.Errorf("length %d", n))
	}
	l.readBuffer = slices.Grow(l.readBuffer[:0], int(n))[:n]
	if _, err := l.reader.ReadAt(l.readBuffer, pos.Offset+frameHeader); err != nil && !errors.Is(err, io.EOF) {
		return nil, l.damage(pos, err)
	}
	if crc32.Checksum(l.readBuffer, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, l.damage(pos, errors.New("checksum"))
	}
	return l.readBuffer, nil
}

func (l *decisionLog) damage(pos position, err error) error {
	return fmt.Errorf("%w: %s at byte %d: %w", ErrDecisionLog, l.path(pos.Segment), pos.Offset, err)
}

// noteLast tells the log the highest sequence of a segment that it did not write itself.
func (l *decisionLog) noteLast(segment, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.segments {
		if s := &l.segments[i]; s.number == segment {
			s.last = max(s.last, last)
		}
	}
}

// trim removes the segments all of whose records are at or below seq, but for the last and those from
// keep on, which is where the reader stands.
func (l *decisionLog) trim(seq uint64, keep position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.segments) > 1 && l.segments[0].last <= seq && l.segments[0].number < keep.Segment {
		if err := l.fs.Remove(l.path(l.segments[0].number)); err != nil {
			return fmt.Errorf("decision log: %w", err)
		}
		l.segments = l.segments[1:]
	}
	return nil
}

// bytes is the size of the log.
func (l *decisionLog) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, s := range l.segments {
		n += s.size
	}
	return n
}

// failed reports whether an fsync failed, which is final.
func (l *decisionLog) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

// close lets go of the files; what is not synced is lost, as in a crash.
func (l *decisionLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range append(l.unsynced, l.file, l.reader) {
		if f != nil {
			_ = f.Close()
		}
	}
	l.unsynced, l.file, l.reader = nil, nil, nil
	if l.err == nil {
		l.err = os.ErrClosed
	}
}
