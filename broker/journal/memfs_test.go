package journal

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"path"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// op names one call that changes a file system.
type op string

const (
	opWrite    op = "write"
	opSync     op = "sync"
	opCreate   op = "create"
	opAllocate op = "allocate"
	opRename   op = "rename"
	opRemove   op = "remove"
	opSyncDir  op = "sync directory"
	opRead     op = "read"
)

// memFS is a crashable file system in memory. before is called ahead of every operation with what it is
// about to do; its error is the operation's.
type memFS struct {
	mem *vfs.MemFS
	// forget chooses syncs that lie: they succeed and do nothing.
	forget func(o op, name string) bool
	before func(o op, name string) error

	mu   sync.Mutex
	open map[*memFile]struct{} // so that handles follow renames
}

func newMemFS() *memFS { return &memFS{mem: vfs.NewCrashableMem()} }

func (m *memFS) check(o op, name string) error {
	if m.before == nil {
		return nil
	}
	return m.before(o, name)
}

func (m *memFS) MkdirAll(dir string) error {
	if err := m.mem.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for {
		if err := m.syncDir(path.Dir(dir)); err != nil {
			return err
		}
		if dir = path.Dir(dir); dir == "/" || dir == "." {
			return nil
		}
	}
}

func (m *memFS) List(dir string) ([]string, error) { return m.mem.List(dir) }

func (m *memFS) Create(name string) (File, error) {
	if err := m.check(opCreate, name); err != nil {
		return nil, err
	}
	if _, err := m.mem.Stat(name); err == nil {
		return nil, fs.ErrExist
	}
	f, err := m.mem.Create(name, vfs.WriteCategoryUnspecified)
	return m.file(f, name, err)
}

func (m *memFS) Open(name string) (File, error) {
	f, err := m.mem.Open(name)
	return m.file(f, name, err)
}

func (m *memFS) OpenWrite(name string) (File, error) {
	if _, err := m.mem.Stat(name); err != nil {
		return nil, err
	}
	f, err := m.mem.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	return m.file(f, name, err)
}

func (m *memFS) file(f vfs.File, name string, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	mf := &memFile{File: f, m: m, path: name}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == nil {
		m.open = make(map[*memFile]struct{})
	}
	m.open[mf] = struct{}{}
	return mf, nil
}

func (m *memFS) Rename(from, to string) error {
	if err := m.check(opRename, from+" to "+to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for f := range m.open {
		if f.path == from {
			f.path = to
		}
	}
	return m.mem.Rename(from, to)
}

func (m *memFS) Remove(name string) error {
	if err := m.check(opRemove, name); err != nil {
		return err
	}
	return m.mem.Remove(name)
}

func (m *memFS) SyncDir(dir string) error {
	if err := m.check(opSyncDir, dir); err != nil {
		return err
	}
	return m.syncDir(dir)
}

func (m *memFS) syncDir(dir string) error {
	if m.forget != nil && m.forget(opSyncDir, dir) {
		return nil
	}
	d, err := m.mem.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (m *memFS) Lock(name string) (io.Closer, error) {
	c, err := m.mem.Lock(name)
	if errors.Is(err, syscall.EAGAIN) {
		return nil, ErrLocked
	}
	return c, err
}

func (m *memFS) Free(string) (int64, error) { return math.MaxInt64, nil }

type memFile struct {
	vfs.File
	m    *memFS
	path string // guarded by memFS.mu
	// mu makes reads and writes of one handle exclude each other, as pebble's file demands.
	mu sync.Mutex
}

// name is the file's present path.
func (f *memFile) name() string {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.path
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	delete(f.m.open, f)
	f.m.mu.Unlock()
	return f.File.Close()
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.m.check(opWrite, f.name())
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil { // a failed write may have written some of it
		n, werr := f.File.WriteAt(b[:len(b)/2], off)
		return n, errors.Join(err, werr)
	}
	return f.File.WriteAt(b, off)
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.m.check(opRead, f.name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, off)
}

func (f *memFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *memFile) Preallocate(size int64) error {
	if err := f.m.check(opAllocate, f.name()); err != nil {
		return err
	}
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	if have == 0 {
		_, err = f.Write(make([]byte, size)) // much faster than WriteAt, which grows the file byte by byte
		return err
	}
	_, err = f.File.WriteAt(make([]byte, size-have), have)
	return err
}

func (f *memFile) Sync() error {
	if err := f.m.check(opSync, f.name()); err != nil {
		return err
	}
	if f.m.forget != nil && f.m.forget(opSync, f.name()) {
		return nil
	}
	return f.File.Sync()
}

func (f *memFile) SyncData() error { return f.Sync() }
