package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/wal"
)

const (
	// keptSpares is how many unused files are kept. More are removed, so that disk space is released after a backlog.
	keptSpares = 2
	// roomRetry is the delay before room that was refused is requested again.
	roomRetry = 250 * time.Millisecond
)

var (
	errMaxBytes = errors.New("max_bytes is reached and every segment is still needed")
	errDisk     = errors.New("the disk is full and every segment of the journal is still needed")
	errReserve  = errors.New("the rest of the disk is reserved")
)

// spare is a preallocated file without records.
type spare struct {
	file wal.File
	name string // path
	size int64
	salt uint32 // of its last use; 0 when new
	// busy is held while the keeper writes zeros to the file. zeroed is the offset up to which it has; only the keeper
	// uses it.
	busy   sync.Mutex
	zeroed int64
}

// keeper makes spare files, from recycled segments if possible, so that the committer finds one ready. A failure here
// loses nothing, since the file has no record. It counts as lack of room and is retried.
type keeper struct {
	fs      wal.FS
	held    wal.Dir // open all the time: beginning a segment then needs no descriptor, which may not be available
	dir     string
	log     *slog.Logger
	metrics *Metrics
	table   *table
	epoch   uint64

	segmentBytes int64
	maxBytes     atomic.Int64
	byDisk       atomic.Bool // maxBytes follows from the disk
	reserve      atomic.Int64

	kicks   chan struct{} // wakes the keeper
	changed chan struct{} // tells the committer that a round has ended
	stop    chan struct{}
	done    chan struct{}
	number  uint64 // of the next spare's name; for the keeper's goroutine only

	mu       sync.Mutex
	spares   []*spare
	bytes    int64     // of spares, including those popped and not yet in the table
	noRoom   error     // why there is no spare file
	zeroFrom time.Time // when zeros may be written next
}

func newKeeper(o *Options, held wal.Dir, t *table, epoch uint64) *keeper {
	k := &keeper{
		fs: o.FS, dir: o.Dir, held: held, log: o.Log, metrics: o.Metrics, table: t, epoch: epoch, segmentBytes: o.SegmentBytes,
		kicks: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}), zeroFrom: time.Now().Add(zeroAtStart),
	}
	k.maxBytes.Store(o.MaxBytes)
	k.reserve.Store(o.ReserveBytes)
	return k
}

// adopt takes over the spare files of the last run, and removes those of another size.
func (k *keeper) adopt() error {
	l, err := list(k.fs, k.dir)
	if err != nil {
		return err
	}
	for _, n := range l.spares {
		k.number = max(k.number, n+1)
		path := filepath.Join(k.dir, spareName(n))
		f, err := k.fs.OpenWrite(path)
		if err != nil {
			return err
		}
		if !k.usable(f) {
			if err := errors.Join(f.Close(), k.fs.Remove(path)); err != nil {
				return err
			}
			continue
		}
		h, _, err := readHeader(f)
		if err != nil {
			h.Salt = 0
		}
		k.push(&spare{file: f, name: path, size: k.segmentBytes, salt: h.Salt})
	}
	return nil
}

// usable makes sure that a spare file of the last run is fully allocated.
func (k *keeper) usable(f wal.File) bool {
	size, err := f.Size()
	return err == nil && size == k.segmentBytes && len(k.spares) < keptSpares &&
		f.Preallocate(size) == nil && f.Sync() == nil
}

// readHeader returns the first header copy with a valid checksum.
func readHeader(f wal.File) (wal.Header, int64, error) {
	b := make([]byte, wal.HeaderLen)
	for page := int64(0); page < wal.SegmentStart; page += wal.PageLen {
		if _, err := f.ReadAt(b, page); err != nil {
			return wal.Header{}, 0, err
		}
		if h, err := wal.DecodeHeader(b); err == nil {
			return h, page, nil
		}
	}
	return wal.Header{}, 0, wal.ErrBadHeader
}

func (k *keeper) push(s *spare) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spares = append(k.spares, s)
	k.bytes += s.size
}

// pop returns a spare file, which stays counted until becameSegment.
func (k *keeper) pop() (*spare, error) {
	k.mu.Lock()
	n := len(k.spares)
	if n == 0 {
		defer k.mu.Unlock()
		return nil, k.noRoom
	}
	s := k.spares[n-1]
	k.spares = k.spares[:n-1]
	k.mu.Unlock()
	s.busy.Lock() // wait for zeros being written; from here on the committer owns it
	defer s.busy.Unlock()
	return s, nil
}

// becameSegment records that a popped spare file is now a segment in the table.
func (k *keeper) becameSegment(s *spare) {
	k.mu.Lock()
	k.bytes -= s.size
	k.zeroFrom = time.Now().Add(zeroAfter)
	k.mu.Unlock()
	k.kick()
}

// discard removes a spare file that could not be written for lack of space.
func (k *keeper) discard(s *spare, why error) {
	err := errors.Join(s.file.Close(), k.fs.Remove(s.name))
	if err != nil {
		k.log.Warn("journal: cannot remove an unused segment", slog.String("file", s.name), slog.Any("err", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bytes -= s.size
	k.noRoom = why
}

// kick starts another round. It never blocks.
func (k *keeper) kick() {
	select {
	case k.kicks <- struct{}{}:
	default:
	}
}

func (k *keeper) run() {
	defer close(k.done)
	for {
		var again <-chan time.Time
		if !k.round() {
			again = time.After(roomRetry)
		}
		select {
		case k.changed <- struct{}{}:
		default:
		}
		if !k.rest(again) {
			return
		}
	}
}

// rest writes zeros to spare files until there is something else to do. It returns false when the keeper must end.
func (k *keeper) rest(again <-chan time.Time) bool {
	for {
		var zero <-chan time.Time
		if pause, some := k.zeroPause(); some {
			zero = time.After(pause)
		}
		select {
		case <-k.stop:
			return false
		case <-k.kicks:
			return true
		case <-again:
			return true
		case <-zero:
			k.zero()
		}
	}
}

// round recycles unneeded segments and makes sure that there is a spare file. It reports whether everything succeeded.
func (k *keeper) round() bool {
	ok := true
	for s := k.table.recycle(); s != nil; s = k.table.recycle() {
		if err := k.recycle(s); err != nil {
			k.log.Error("journal: cannot recycle a segment; trying again", slog.String("file", s.name), slog.Any("err", err))
			ok = false
			break
		}
		k.metrics.recycled.Inc()
	}
	err := k.provide()
	k.mu.Lock()
	k.noRoom = err
	k.mu.Unlock()
	k.metrics.bytes.Set(float64(k.total()))
	return ok && err == nil
}

func (k *keeper) total() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bytes + k.table.bytes()
}

// recycle turns a segment into a spare file. It first marks the header as free, durably, and then renames the file, so
// that a crash in between never restores the records. A file with a segment name always has a good header.
func (k *keeper) recycle(s *segment) error {
	f, err := k.fs.OpenWrite(s.name)
	if err != nil {
		return err
	}
	h := wal.Header{State: wal.StateFree, Salt: s.salt, Epoch: k.epoch, Index: s.index, Base: s.base, Time: s.time, Size: s.size}
	if err := writeHeader(f, &h); err != nil {
		return errors.Join(err, f.Close())
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if size != k.segmentBytes || k.spareCount() >= keptSpares {
		if err := errors.Join(f.Close(), k.fs.Remove(s.name)); err != nil {
			return err
		}
		k.table.remove(s)
		return nil
	}
	name := k.newName()
	if err := k.fs.Rename(s.name, name); err != nil {
		return errors.Join(err, f.Close())
	}
	s.name = name // readers no longer use the name; a repeated attempt does
	// Nobody may write to the file before its old name is durably gone.
	if err := k.held.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	k.push(&spare{file: f, name: name, size: size, salt: s.salt})
	k.table.remove(s)
	return nil
}

func writeHeader(f wal.File, h *wal.Header) error {
	if _, err := f.WriteAt(h.Encode(), 0); err != nil {
		return fmt.Errorf("write the segment header: %w", err)
	}
	if err := f.SyncData(); err != nil {
		return fmt.Errorf("sync the segment header: %w", err)
	}
	return nil
}

func (k *keeper) newName() string {
	k.number++
	return filepath.Join(k.dir, spareName(k.number))
}

func (k *keeper) spareCount() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.spares)
}

func (k *keeper) provide() error {
	if k.spareCount() > 0 {
		return nil
	}
	if k.total()+k.segmentBytes > k.maxBytes.Load() {
		if k.byDisk.Load() {
			return errDisk
		}
		return errMaxBytes
	}
	if reserve := k.reserve.Load(); reserve > 0 {
		free, err := k.fs.Free(k.dir)
		if err != nil {
			return err
		}
		if free < k.segmentBytes+reserve {
			return fmt.Errorf("%w: %d bytes are free, %d of them reserved", errReserve, free, reserve)
		}
	}
	name := k.newName()
	f, err := k.fs.Create(name)
	if err != nil {
		return err
	}
	if err := allocate(f, k.segmentBytes); err != nil {
		return errors.Join(err, f.Close(), k.fs.Remove(name))
	}
	k.push(&spare{file: f, name: name, size: k.segmentBytes})
	return nil
}

func allocate(f wal.File, size int64) error {
	if err := f.Preallocate(size); err != nil {
		return fmt.Errorf("preallocate: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func (k *keeper) close() error {
	close(k.stop)
	<-k.done
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for _, s := range k.spares {
		err = errors.Join(err, s.file.Close())
	}
	k.spares = nil
	return err
}

func (k *keeper) spareBytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return int64(len(k.spares)) * (k.segmentBytes - wal.SegmentStart)
}
