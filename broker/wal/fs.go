package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// FS is what a log needs of a file system. Tests put waltest's under it, which fails or forgets.
type FS interface {
	// MkdirAll creates dir and what is missing above it, and makes its entry durable.
	MkdirAll(dir string) error
	// List returns the names in dir, in any order.
	List(dir string) ([]string, error)
	// Create makes a new file for reading and writing; the name must not be taken.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)
	// OpenDir opens a directory, to make creations, renames and removals in it durable.
	OpenDir(dir string) (Dir, error)
	Rename(from, to string) error
	Remove(name string) error
	// Lock takes the lock file name for this process, or returns ErrLocked at once.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes that can still be allocated on dir's file system.
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
	// Zero writes zeros, durably, to a part of the file that was preallocated and never written: what is written there later needs
	// no change of the file's metadata to be durable. It changes nothing that can be read.
	Zero(from, to int64) error
	// Sync makes contents and metadata durable.
	Sync() error
	// SyncData makes contents durable. The length does not change after Preallocate.
	SyncData() error
	// InPlace reports whether name leads to this file. It reports false only when that is certain: there is no such name,
	// or it leads to another file.
	InPlace(name string) bool
}

// ErrLocked is returned when another process, or another Journal, has the directory open.
var ErrLocked = errors.New("journal is open elsewhere")

// IsExhausted tells that the process or the system has no descriptor left, which passes: nothing was begun.
func IsExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// OS is the file system of the operating system. New files get Perm.
type OS struct{ Perm os.FileMode }

// MkdirAll implements FS.
func (f OS) MkdirAll(dir string) error {
	return MakeDirWith(dir, func(dir string) error { return os.Mkdir(dir, 0o750) }, func(dir string) error { return SyncDir(f, dir) })
}

// SyncDir makes what has changed in dir durable.
func SyncDir(fsys FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDirWith is MkdirAll of a file system. mkdir makes one directory in one that is there and answers os.ErrExist or
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

// writeZeros is also Preallocate where the system cannot allocate without writing.
func writeZeros(w io.WriterAt, from, to int64) error {
	zeros := make([]byte, min(to-from, 1<<20))
	for off := from; off < to; off += int64(len(zeros)) {
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), to-off)], off); err != nil {
			return err
		}
	}
	return nil
}
