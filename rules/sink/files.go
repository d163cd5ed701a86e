package sink

import (
	"errors"
	"io"
	"os"
)

// fileSystem is what a decision log needs of a file system. Tests put one under it that forgets what was not
// synced.
type fileSystem interface {
	// Mkdir makes a directory in one that is there; os.ErrExist if the name is taken.
	Mkdir(dir string) error
	// List returns the names in dir, in any order.
	List(dir string) ([]string, error)
	// Create makes an empty file for reading and writing, also of one that is there.
	Create(name string) (file, error)
	// Open opens a file for reading.
	Open(name string) (file, error)
	// OpenWrite opens a file that is there for writing.
	OpenWrite(name string) (file, error)
	Remove(name string) error
	// SyncDir makes the entries of dir durable.
	SyncDir(dir string) error
}

// file is one open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length in bytes.
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes content and length durable.
	Sync() error
}

// osFS is the real thing.
type osFS struct{}

func (osFS) Mkdir(dir string) error { return os.Mkdir(dir, 0o750) }

func (osFS) List(dir string) ([]string, error) {
	d, err := os.Open(dir) //nolint:gosec // the configured directory
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

func (osFS) Create(name string) (file, error) { return openOS(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC) }

func (osFS) Open(name string) (file, error) { return openOS(name, os.O_RDONLY) }

func (osFS) OpenWrite(name string) (file, error) { return openOS(name, os.O_WRONLY) }

func openOS(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, 0o600) //nolint:gosec // below the configured directory
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the configured directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
