package broker

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"sync"

	"cellgate/broker/journal"
)

// faultDisk is a file system in memory that fails operations, and that knows what of it is on the disk: what is
// left when the power goes.
type faultDisk struct {
	mu      sync.Mutex
	files   map[string]*diskFile
	durable map[string]*diskFile // the names as of the last sync of the directory

	n    int // operations so far
	from int // the first one to fail, counted from 1; 0 is none
	many int // how many fail
	err  error
	hits []string
}

// diskFile is a file's content, and what of it was synced.
type diskFile struct{ data, synced []byte }

func newFaultDisk(from, many int, err error) *faultDisk {
	return &faultDisk{files: map[string]*diskFile{}, durable: map[string]*diskFile{}, from: from, many: many, err: err}
}

// beforeLocked counts an operation and fails it when it is its turn.
func (d *faultDisk) beforeLocked(what, name string) error {
	d.n++
	if d.from == 0 || d.n < d.from || d.n >= d.from+d.many {
		return nil
	}
	d.hits = append(d.hits, fmt.Sprintf("%s %s", what, filepath.Base(name)))
	return d.err
}

// survivor is a disk without faults as it is after a power loss, or, when all of it was written back in time,
// after a kill.
func (d *faultDisk) survivor(written bool) *faultDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := newFaultDisk(0, 0, nil)
	names := d.durable
	if written {
		names = d.files
	}
	for name, f := range names {
		content := f.synced
		if written {
			content = f.data
		}
		content = bytes.Clone(content)
		file := &diskFile{data: content, synced: bytes.Clone(content)}
		s.files[name], s.durable[name] = file, file
	}
	return s
}

func (d *faultDisk) MkdirAll(string) error { return nil }

func (d *faultDisk) List(string) (names []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.files {
		names = append(names, filepath.Base(name))
	}
	return names, nil
}

func (d *faultDisk) Create(name string) (journal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beforeLocked("create", name); err != nil {
		return nil, err
	}
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	d.files[name] = &diskFile{}
	return &diskHandle{d, d.files[name], name}, nil
}

func (d *faultDisk) Open(name string) (journal.File, error) { return d.OpenWrite(name) }

func (d *faultDisk) OpenWrite(name string) (journal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &diskHandle{d, d.files[name], name}, nil
}

func (d *faultDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beforeLocked("rename", from); err != nil {
		return err
	}
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d *faultDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beforeLocked("remove", name); err != nil {
		return err
	}
	delete(d.files, name)
	return nil
}

func (d *faultDisk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.beforeLocked("sync directory", dir); err != nil {
		return err
	}
	clear(d.durable)
	for name, f := range d.files {
		d.durable[name] = f
	}
	return nil
}

func (d *faultDisk) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (d *faultDisk) Free(string) (int64, error) { return math.MaxInt64, nil }

// diskHandle is one open file.
type diskHandle struct {
	d    *faultDisk
	f    *diskFile
	name string
}

func (h *diskHandle) ReadAt(b []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return bytes.NewReader(h.f.data).ReadAt(b, off)
}

// WriteAt writes half of what it should when it fails.
func (h *diskHandle) WriteAt(b []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	err := h.d.beforeLocked("write", h.name)
	if err != nil {
		b = b[:len(b)/2]
	}
	h.growLocked(off + int64(len(b)))
	return copy(h.f.data[off:], b), err
}

func (h *diskHandle) growLocked(size int64) {
	if more := size - int64(len(h.f.data)); more > 0 {
		h.f.data = append(h.f.data, make([]byte, more)...)
	}
}

func (h *diskHandle) Close() error { return nil }

func (h *diskHandle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *diskHandle) Preallocate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.beforeLocked("allocate", h.name); err != nil {
		return err
	}
	h.growLocked(size)
	return nil
}

// Sync leaves what was not synced for ever behind when it fails, as Linux does.
func (h *diskHandle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.beforeLocked("sync", h.name); err != nil {
		return err
	}
	h.f.synced = bytes.Clone(h.f.data)
	return nil
}

func (h *diskHandle) SyncData() error { return h.Sync() }
