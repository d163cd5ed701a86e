package journal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// FS is what the journal needs of a file system. Tests put file systems that fail or forget under it.
type FS interface {
	// MkdirAll creates dir and what is missing above it, and syncs the directories that got an entry.
	MkdirAll(dir string) error
	// List returns the names in dir, in any order.
	List(dir string) ([]string, error)
	// Create makes a new file for reading and writing; the name must not be taken.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// Lock takes the lock file name for this process, or returns ErrLocked at once.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes that can still be allocated on dir's file system.
	Free(dir string) (int64, error)
}

// File is one open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Preallocate gives the empty file the length size with all of its blocks allocated.
	Preallocate(size int64) error
	// Sync makes contents and metadata durable.
	Sync() error
	// SyncData makes contents durable. The length does not change after Preallocate.
	SyncData() error
}

// ErrLocked is returned by Open when another process, or another Journal, has the directory open.
var ErrLocked = errors.New("journal is open elsewhere")

// IsExhausted tells that the process or the system has no descriptor left, which passes: nothing was begun.
func IsExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// osFS is the real thing.
type osFS struct {
	// dir is a directory that SyncDir has at hand: a roll to the next segment takes no descriptor that there may not be.
	dir *os.File
}

// holding returns a file system that has dir at hand, and the function that lets go of it.
func (f osFS) holding(dir string) (FS, func() error, error) {
	d, err := os.Open(dir) //nolint:gosec // the configured journal directory
	if err != nil {
		return nil, nil, err
	}
	f.dir = d
	return f, d.Close, nil
}

func (osFS) MkdirAll(dir string) error { return MakeDir(dir) }

// MakeDir makes dir and what is missing above it, durably.
func MakeDir(dir string) error {
	return MakeDirWith(dir, func(dir string) error { return os.Mkdir(dir, 0o750) }, osFS{}.SyncDir)
}

// MakeDirWith is MakeDir on another file system. mkdir makes one directory in one that is there and answers os.ErrExist or
// os.ErrNotExist where that fits; sync makes a directory's entries durable. The parent of a directory that is there is
// synced, too: the start that made it may have been killed before it had. A parent that may not be read is not one in
// which we make directories.
func MakeDirWith(dir string, mkdir, sync func(dir string) error) error {
	parent := filepath.Dir(dir)
	err := mkdir(dir)
	if errors.Is(err, os.ErrNotExist) && parent != dir {
		if err := MakeDirWith(parent, mkdir, sync); err != nil {
			return err
		}
		err = mkdir(dir)
	}
	switch {
	case err == nil:
		return sync(parent)
	case !errors.Is(err, os.ErrExist):
		return err
	}
	if err := sync(parent); !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}

func (osFS) List(dir string) ([]string, error) {
	d, err := os.Open(dir) //nolint:gosec // the configured journal directory
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}

func (osFS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (osFS) Open(name string) (File, error) { return openOS(name, os.O_RDONLY) }

func (osFS) OpenWrite(name string) (File, error) { return openOS(name, os.O_RDWR) }

func openOS(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o640) //nolint:gosec // below the journal directory; group may read for backups
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (f osFS) SyncDir(dir string) error {
	if f.dir != nil && f.dir.Name() == dir {
		return f.dir.Sync()
	}
	d, err := os.Open(dir) //nolint:gosec // the configured journal directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

// placed is a file that can tell whether it is still what a name leads to.
type placed interface{ InPlace(name string) bool }

// InPlace reports false only when it is certain: there is no such name, or it leads to another file.
func (f osFile) InPlace(name string) bool {
	at, err := os.Stat(name)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	own, err := f.Stat()
	return err != nil || os.SameFile(at, own)
}

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// writeZeros is Preallocate where the system cannot allocate without writing.
func writeZeros(w io.WriterAt, size int64) error {
	zeros := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
