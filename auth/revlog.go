package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// revLog is the file of revocations, shared by all processes on the directory:
//
//	revocations.log   one entry per line: crc32c in 8 hex digits, a space, the JSON of a Revocation, '\n'
//	lock              flock(2)ed exclusively while the log or the keys are written
//
// Writers append under the lock and fsync before they release it. Readers follow the growing file, and start again when
// it was replaced by a compacted one. A line without its '\n' was being written when its process died and was never
// confirmed: the next writer removes it. Any other invalid line is damage, and reading fails, because an incomplete
// list would admit a revoked token.
type revLog struct {
	dir  string
	sync func(*os.File) error // (*os.File).Sync, except in tests

	mu     sync.Mutex // guards below
	file   *os.File   // open for reading, nil before the first read
	info   os.FileInfo
	offset int64 // everything before it has been read
	lines  int   // lines read from the present file, including superseded ones
}

const revLogName = "revocations.log"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRevocationLog = errors.New("revocation log is damaged")

func newRevLog(dir string) *revLog { return &revLog{dir: dir, sync: (*os.File).Sync} }

func (l *revLog) path() string { return filepath.Join(l.dir, revLogName) }

// append writes entries durably.
func (l *revLog) append(entries []Revocation) error {
	var buf bytes.Buffer
	for i := range entries {
		if err := appendLine(&buf, &entries[i]); err != nil {
			return err
		}
	}
	unlock, err := lockDir(l.dir)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := os.OpenFile(l.path(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = giveToOwner(f, l.dir)
	if err == nil {
		err = l.appendDurably(f, buf.Bytes())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write revocations: %w", err)
	}
	return syncDir(l.dir) // the file may be new
}

func appendLine(buf *bytes.Buffer, r *Revocation) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode revocation: %w", err)
	}
	fmt.Fprintf(buf, "%08x %s\n", crc32.Checksum(b, castagnoli), b)
	return nil
}

// appendDurably removes a torn last line, appends b and syncs.
func (l *revLog) appendDurably(f *os.File, b []byte) error {
	end, err := endOfLines(f)
	if err != nil {
		return err
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, end); err != nil {
		return err
	}
	return l.sync(f)
}

func endOfLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for end > 0 {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// read returns the entries appended since the last read, by this process or another. If there are none it costs one
// stat.
func (l *revLog) read() ([]Revocation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, l.putBack()
	}
	if err != nil {
		return nil, err
	}
	if l.info != nil && os.SameFile(l.info, info) && info.Size() == l.offset {
		return nil, nil
	}
	if l.info == nil || !os.SameFile(l.info, info) {
		if err := l.reopen(); err != nil {
			return nil, err
		}
	}
	return l.readRest()
}

// errPutBack means that the file was deleted while it was in use. A start without it would admit revoked tokens.
var errPutBack = errors.New("revocation log was deleted under a running process and has been put back")

// putBack restores a deleted file from the open descriptor.
func (l *revLog) putBack() error {
	if l.file == nil {
		return nil
	}
	unlock, err := lockDir(l.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(l.path()); err == nil {
		return nil // another process was faster
	}
	b, err := io.ReadAll(io.NewSectionReader(l.file, 0, 1<<40))
	if err != nil {
		return err
	}
	return errors.Join(fmt.Errorf("%w: %s", errPutBack, l.path()), writeFileAtomic(l.path(), b))
}

// reopen starts reading the present file. It keeps the descriptor open, so that no later file can get the same inode
// and be mistaken for it.
func (l *revLog) reopen() error {
	f, err := os.Open(l.path())
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if l.file != nil {
		_ = l.file.Close() // opened for reading only
	}
	l.file, l.info, l.offset, l.lines = f, info, 0, 0
	return nil
}

func (l *revLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.info = nil, nil
	return err
}

func (l *revLog) readRest() ([]Revocation, error) {
	b, err := io.ReadAll(io.NewSectionReader(l.file, l.offset, 1<<40))
	if err != nil {
		return nil, err
	}
	var out []Revocation
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			return out, nil
		}
		r, err := parseLine(line)
		if err != nil {
			return out, fmt.Errorf("%w: %s line %d: copy the file from another gateway, or remove the line", err, l.path(), l.lines+1)
		}
		out = append(out, r)
		l.offset += int64(len(line)) + 1
		l.lines++
		b = rest
	}
}

func parseLine(line []byte) (Revocation, error) {
	var r Revocation
	if len(line) < 9 || line[8] != ' ' {
		return r, errRevocationLog
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[9:], castagnoli) {
		return r, errRevocationLog
	}
	if err := json.Unmarshal(line[9:], &r); err != nil {
		return r, errRevocationLog
	}
	return r, nil
}

// superseded returns how many lines of the file are no longer in force, when live are.
func (l *revLog) superseded(live int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines - live
}

// compact replaces the file by one with the entries that keep returns for all entries of the file. It reads the file
// again under the lock, so that no entry appended by another process is lost.
func (l *revLog) compact(keep func([]Revocation) []Revocation) error {
	unlock, err := lockDir(l.dir)
	if err != nil {
		return err
	}
	defer unlock()
	whole := newRevLog(l.dir)
	entries, err := whole.read()
	if err := errors.Join(err, whole.close()); err != nil {
		return err
	}
	var buf bytes.Buffer
	for _, r := range keep(entries) {
		if err := appendLine(&buf, &r); err != nil {
			return err
		}
	}
	return writeFileAtomic(l.path(), buf.Bytes())
}
