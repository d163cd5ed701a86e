// Package waltest is an in-memory file system for tests of logs: it fails, lies about syncs, and shows what a power
// loss may leave.
package waltest

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"sync"

	"cellgate/broker/wal"
)

// Op names a call that changes a file system.
type Op string

// The operations that Before and Forget see.
const (
	Mkdir    Op = "mkdir"
	Create   Op = "create"
	Write    Op = "write"
	Allocate Op = "allocate"
	Truncate Op = "truncate"
	Sync     Op = "sync"
	Rename   Op = "rename"
	Remove   Op = "remove"
	SyncDir  Op = "sync directory"
)

// FS is a file system in memory. After a crash it has what was synced, and any part of the rest: any sectors and either
// length of a file, any changes to a directory's entries, a later one without an earlier one.
type FS struct {
	// Before is called before every change; its error is the change's. A write that fails writes one half.
	Before func(o Op, name string) error
	// Opening is called before everything that takes a descriptor; its error is that call's.
	Opening func(name string) error
	// Forget selects syncs that lie: they succeed and do nothing.
	Forget func(o Op, name string) bool

	mu      sync.Mutex
	live    map[string]*node // by path
	durable map[string]*node
	pending []change // from durable to live
}

// node is a file, or a directory.
type node struct {
	name         string // its present path
	data, synced []byte // synced is replaced, never changed
	dirty        bool
}

// change is a change of one directory entry: created, removed (no node), or renamed.
type change struct {
	name string
	made *node
	to   string
}

const sector = 512

// New makes an empty file system.
func New() *FS {
	root := map[string]*node{"/": {}}
	return &FS{live: root, durable: maps.Clone(root)}
}

// With makes a file system with durable files in dir, by name.
func With(dir string, files map[string][]byte) *FS {
	m := New()
	for ; dir != "/"; dir = path.Dir(dir) {
		for name, data := range files {
			name = path.Join(dir, name)
			m.live[name] = &node{name: name, data: slices.Clone(data), synced: slices.Clone(data)}
		}
		m.live[dir], files = &node{}, nil
	}
	m.durable = maps.Clone(m.live)
	return m
}

// Files returns the contents of the files in dir, by name.
func (m *FS) Files(dir string) map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]byte{}
	for name, n := range m.live {
		if path.Dir(name) == dir {
			out[path.Base(name)] = slices.Clone(n.data)
		}
	}
	return out
}

func (c *change) apply(names map[string]*node) {
	switch n := names[c.name]; {
	case c.made != nil:
		names[c.name] = c.made
	case c.to != "" && n != nil:
		names[c.to] = n
		delete(names, c.name)
	default:
		delete(names, c.name)
	}
}

// chance is true keep times in a hundred; rng may be nil for 0 and 100.
func chance(rng *rand.Rand, keep int) bool { return keep >= 100 || (keep > 0 && rng.IntN(100) < keep) }

// Crash returns what a power loss may leave: about keep percent of what was not synced. 100 is a kill of the process.
func (m *FS) Crash(rng *rand.Rand, keep int) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := maps.Clone(m.durable)
	for i := range m.pending {
		if chance(rng, keep) {
			m.pending[i].apply(names)
		}
	}
	out := New()
	for _, name := range slices.Sorted(maps.Keys(names)) { // so that a seed gives one state
		if reachable(names, name) {
			out.live[name] = names[name].crash(rng, keep, name)
		}
	}
	out.durable = maps.Clone(out.live)
	return out
}

func reachable(names map[string]*node, name string) bool {
	return names[name] != nil && (name == "/" || reachable(names, path.Dir(name)))
}

func (n *node) crash(rng *rand.Rand, keep int, name string) *node {
	if !n.dirty {
		return &node{name: name, data: slices.Clone(n.synced), synced: n.synced}
	}
	data := slices.Clone(n.synced)
	if chance(rng, keep) { // the other length
		data = append(data, make([]byte, max(0, len(n.data)-len(data)))...)[:len(n.data)]
	}
	for at := 0; at < min(len(data), len(n.data)); at += sector {
		if chance(rng, keep) {
			copy(data[at:min(at+sector, len(data))], n.data[at:])
		}
	}
	return &node{name: name, data: data, synced: slices.Clone(data)}
}

func (m *FS) before(o Op, name string) error {
	if m.Before == nil {
		return nil
	}
	return m.Before(o, name)
}

func (m *FS) opening(name string) error {
	if m.Opening == nil {
		return nil
	}
	return m.Opening(name)
}

func (m *FS) forgets(o Op, name string) bool { return m.Forget != nil && m.Forget(o, name) }

// entry changes an entry of a directory.
func (m *FS) entry(o Op, c change) error {
	if err := m.before(o, c.name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.live[c.name]
	switch {
	case m.live[path.Dir(c.name)] == nil, c.made == nil && n == nil:
		return fs.ErrNotExist
	case c.made != nil && n != nil:
		return fs.ErrExist
	case c.to != "":
		n.name = c.to
	}
	c.apply(m.live)
	m.pending = append(m.pending, c)
	return nil
}

func (m *FS) mkdir(dir string) error { return m.entry(Mkdir, change{name: dir, made: &node{}}) }

// MkdirAll implements wal.FS.
func (m *FS) MkdirAll(dir string) error { return wal.MakeDirWith(dir, m.mkdir, m.syncDir) }

// Remove implements wal.FS.
func (m *FS) Remove(name string) error { return m.entry(Remove, change{name: name}) }

// Rename implements wal.FS.
func (m *FS) Rename(from, to string) error { return m.entry(Rename, change{name: from, to: to}) }

// List implements wal.FS.
func (m *FS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[dir] == nil {
		return nil, fs.ErrNotExist
	}
	var out []string
	for name := range m.live {
		if path.Dir(name) == dir && name != dir {
			out = append(out, path.Base(name))
		}
	}
	return out, nil
}

// Create implements wal.FS.
func (m *FS) Create(name string) (wal.File, error) {
	if err := m.opening(name); err != nil {
		return nil, err
	}
	n := &node{name: name}
	if err := m.entry(Create, change{name: name, made: n}); err != nil {
		return nil, err
	}
	return &file{m, n}, nil
}

// Open implements wal.FS.
func (m *FS) Open(name string) (wal.File, error) { return m.OpenWrite(name) }

// OpenWrite implements wal.FS.
func (m *FS) OpenWrite(name string) (wal.File, error) {
	if err := m.opening(name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &file{m, m.live[name]}, nil
}

// OpenDir implements wal.FS.
func (m *FS) OpenDir(name string) (wal.Dir, error) {
	if err := m.opening(name); err != nil {
		return nil, err
	}
	return dir{m, name}, nil
}

// Lock implements wal.FS. It locks nothing.
func (m *FS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Free implements wal.FS.
func (m *FS) Free(string) (int64, error) { return math.MaxInt64, nil }

func (m *FS) syncDir(name string) error {
	if err := m.before(SyncDir, name); err != nil || m.forgets(SyncDir, name) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = slices.DeleteFunc(m.pending, func(c change) bool {
		if path.Dir(c.name) != name {
			return false
		}
		c.apply(m.durable)
		return true
	})
	return nil
}

// dir is an open directory.
type dir struct {
	m    *FS
	name string
}

func (d dir) Sync() error { return d.m.syncDir(d.name) }
func (dir) Close() error  { return nil }

// file is an open file.
type file struct {
	m *FS
	n *node
}

func (f *file) name() string {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.n.name
}

func (f *file) InPlace(name string) bool {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.live[name] == f.n
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return bytes.NewReader(f.n.data).ReadAt(b, off)
}

func (f *file) WriteAt(b []byte, off int64) (int, error) {
	err := f.m.before(Write, f.name())
	if err != nil {
		b = b[:len(b)/2]
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.resize(max(int64(len(f.n.data)), off+int64(len(b))))
	return copy(f.n.data[off:], b), err
}

func (f *file) resize(size int64) {
	f.n.dirty = true
	f.n.data = append(f.n.data, make([]byte, max(0, size-int64(len(f.n.data))))...)[:size]
}

func (f *file) Truncate(size int64) error { return f.setSize(Truncate, size, true) }

func (f *file) Preallocate(size int64) error { return f.setSize(Allocate, size, false) }

// Zero changes nothing that can be read, so there is nothing to forget.
func (f *file) Zero(_, _ int64) error { return nil }

func (f *file) setSize(o Op, size int64, shrink bool) error {
	if err := f.m.before(o, f.name()); err != nil {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if shrink || size > int64(len(f.n.data)) {
		f.resize(size)
	}
	return nil
}

func (f *file) Sync() error {
	name := f.name()
	if err := f.m.before(Sync, name); err != nil || f.m.forgets(Sync, name) {
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.synced, f.n.dirty = slices.Clone(f.n.data), false
	return nil
}

func (f *file) SyncData() error { return f.Sync() }

func (f *file) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) Close() error { return nil }
