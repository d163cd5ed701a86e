package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// FS is the part of a file system that a log needs. Tests use waltest's, which can fail and lose unsynced data.
type FS interface {
	// MkdirAll creates dir with its parents and makes their entries durable.
	MkdirAll(dir string) error
	// List returns the names in dir, in any order.
	List(dir string) ([]string, error)
	// Create makes a new file for reading and writing; it fails if the name exists.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)
	// OpenDir opens a directory, to sync creations, renames and removals in it.
	OpenDir(dir string) (Dir, error)
	Rename(from, to string) error
	Remove(name string) error
	// Lock takes the lock file name for this process, or returns ErrLocked at once.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes that can still be allocated on the file system of dir.
	Free(dir string) (int64, error)
}

// Dir is an open directory.
type Dir interface {
	io.Closer
	Sync() error
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
	Truncate(size int64) error
	// Zero durably writes zeros to a preallocated part of the file that was never written. Later writes there need no
	// change of metadata to be durable. Nothing that can be read changes.
	Zero(from, to int64) error
	// Sync makes contents and metadata durable.
	Sync() error
	// SyncData makes contents durable, not the length: it does not change after Preallocate.
	SyncData() error
	// InPlace reports whether name still refers to this file. It reports false only if that is certain: the name does
	// not exist, or refers to another file.
	InPlace(name string) bool
}

// ErrLocked means that another process, or another Journal, has the directory open.
var ErrLocked = errors.New("journal is open elsewhere")

// IsExhausted reports whether err says that the process or the system has no descriptor left. Nothing was changed then,
// and the call can be repeated.
func IsExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// OS is the operating system's file system. New files get the mode Perm.
type OS struct{ Perm os.FileMode }

// MkdirAll implements FS.
func (f OS) MkdirAll(dir string) error {
	return MakeDirWith(dir, func(dir string) error { return os.Mkdir(dir, 0o750) }, func(dir string) error { return SyncDir(f, dir) })
}

// SyncDir makes changes of the entries of dir durable.
func SyncDir(fsys FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDirWith implements MkdirAll. mkdir makes one directory and returns os.ErrExist or os.ErrNotExist where that fits;
// sync makes a directory's entries durable. The parent of an existing directory is synced too, because the start that
// made it may have been killed before its sync. A parent that cannot be read is skipped.
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

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	d, err := os.Open(dir) //nolint:gosec // a log's directory
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}

// Create implements FS.
func (f OS) Create(name string) (File, error) { return f.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL) }

// Open implements FS.
func (f OS) Open(name string) (File, error) { return f.open(name, os.O_RDONLY) }

// OpenWrite implements FS.
func (f OS) OpenWrite(name string) (File, error) { return f.open(name, os.O_RDWR) }

func (f OS) open(name string, flag int) (File, error) {
	file, err := os.OpenFile(name, flag, f.Perm) //nolint:gosec // below a log's directory
	if err != nil {
		return nil, err
	}
	return osFile{file}, nil
}

// OpenDir implements FS.
func (OS) OpenDir(dir string) (Dir, error) {
	d, err := os.Open(dir) //nolint:gosec // a log's directory
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

type osFile struct{ *os.File }

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

func (f osFile) Zero(from, to int64) error {
	if err := writeZeros(f, from, to); err != nil {
		return err
	}
	return f.SyncData()
}

// writeZeros allocates by writing; Preallocate uses it where the system cannot allocate otherwise.
func writeZeros(w io.WriterAt, from, to int64) error {
	zeros := make([]byte, min(to-from, 1<<20))
	for off := from; off < to; off += int64(len(zeros)) {
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), to-off)], off); err != nil {
			return err
		}
	}
	return nil
}
