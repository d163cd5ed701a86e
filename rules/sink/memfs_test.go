package sink_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"sync"

	"cellgate/broker/journal"
	"cellgate/rules/sink"
)

// op names a call that changes a file system.
type op string

const (
	opMkdir    op = "mkdir"
	opCreate   op = "create"
	opWrite    op = "write"
	opTruncate op = "truncate"
	opSync     op = "sync"
	opRemove   op = "remove"
	opSyncDir  op = "sync directory"
)

// memFS is a file system in memory. After a crash it has what was synced, and of what was not any part: of a file
// any of the sectors and either length, of a directory any of the changes to its entries. Unlike vfs.MemFS of
// Pebble it can truncate, and a crash may keep one removal and undo the one before it.
type memFS struct {
	// before is called ahead of every change.
	before func(o op, name string)
	// forget chooses syncs that lie: they succeed and do nothing.
	forget func(o op, name string) bool

	mu      sync.Mutex
	live    map[string]*node // by path
	durable map[string]*node
	pending []change // from durable to live
}

// node is a file, or a directory.
type node struct {
	data, synced []byte
	dirty        bool
}

// change is one of a directory's entries: it is made, removed (no node), or renamed.
type change struct {
	name string
	made *node
	to   string
}

const sector = 512

func newMemFS() *memFS {
	root := map[string]*node{"/": {}}
	return &memFS{live: root, durable: maps.Clone(root)}
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

// crash returns what a power loss may leave. Of everything that was not synced about keep percent are there.
func (m *memFS) crash(rng *rand.Rand, keep int) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := maps.Clone(m.durable)
	for i := range m.pending {
		if rng.IntN(100) < keep {
			m.pending[i].apply(names)
		}
	}
	out := newMemFS()
	for name, n := range names {
		if reachable(names, name) {
			out.live[name] = n.crash(rng, keep)
		}
	}
	out.durable = maps.Clone(out.live)
	return out
}

func reachable(names map[string]*node, name string) bool {
	return names[name] != nil && (name == "/" || reachable(names, path.Dir(name)))
}

func (n *node) crash(rng *rand.Rand, keep int) *node {
	data := slices.Clone(n.synced)
	if n.dirty && rng.IntN(100) < keep { // the other length
		data = append(data, make([]byte, max(0, len(n.data)-len(data)))...)[:len(n.data)]
	}
	for at := 0; n.dirty && at < min(len(data), len(n.data)); at += sector {
		if rng.IntN(100) < keep {
			copy(data[at:min(at+sector, len(data))], n.data[at:])
		}
	}
	return &node{data: data, synced: slices.Clone(data)}
}

func (m *memFS) ahead(o op, name string) {
	if m.before != nil {
		m.before(o, name)
	}
}

// entry changes an entry of a directory.
func (m *memFS) entry(o op, c change) error {
	m.ahead(o, c.name)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.live[path.Dir(c.name)] == nil, c.made == nil && m.live[c.name] == nil:
		return fs.ErrNotExist
	case o == opMkdir && m.live[c.name] != nil:
		return fs.ErrExist
	}
	c.apply(m.live)
	m.pending = append(m.pending, c)
	return nil
}

func (m *memFS) Mkdir(dir string) error { return m.entry(opMkdir, change{name: dir, made: &node{}}) }

func (m *memFS) Remove(name string) error { return m.entry(opRemove, change{name: name}) }

func (m *memFS) Rename(from, to string) error { return m.entry("rename", change{name: from, to: to}) }

func (m *memFS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name := range m.live {
		if path.Dir(name) == dir && name != dir {
			out = append(out, path.Base(name))
		}
	}
	return out, nil
}

func (m *memFS) create(name string) (*memFile, error) {
	n := &node{}
	return &memFile{m: m, name: name, n: n}, m.entry(opCreate, change{name: name, made: n})
}

func (m *memFS) open(name string) (*memFile, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &memFile{m: m, name: name, n: m.live[name]}, nil
}

func (m *memFS) Create(name string) (sink.File, error)    { return m.create(name) }
func (m *memFS) Open(name string) (sink.File, error)      { return m.open(name) }
func (m *memFS) OpenWrite(name string) (sink.File, error) { return m.open(name) }

func (m *memFS) SyncDir(dir string) error {
	m.ahead(opSyncDir, dir)
	if m.forget != nil && m.forget(opSyncDir, dir) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = slices.DeleteFunc(m.pending, func(c change) bool {
		if path.Dir(c.name) != dir {
			return false
		}
		c.apply(m.durable)
		return true
	})
	return nil
}

// memFile is an open file.
type memFile struct {
	m    *memFS
	name string // as it was opened
	n    *node
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.m.ahead(opWrite, f.name)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.resize(max(int64(len(f.n.data)), off+int64(len(b))))
	return copy(f.n.data[off:], b), nil
}

func (f *memFile) resize(size int64) {
	f.n.dirty = true
	f.n.data = append(f.n.data, make([]byte, max(0, size-int64(len(f.n.data))))...)[:size]
}

func (f *memFile) Truncate(size int64) error {
	f.m.ahead(opTruncate, f.name)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.resize(size)
	return nil
}

func (f *memFile) Sync() error {
	f.m.ahead(opSync, f.name)
	if f.m.forget != nil && f.m.forget(opSync, f.name) {
		return nil
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.synced, f.n.dirty = slices.Clone(f.n.data), false
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error                 { return nil }
func (f *memFile) SyncData() error              { return f.Sync() }
func (f *memFile) Preallocate(size int64) error { return f.Truncate(size) }

// journalFS is the same for the journal.
type journalFS struct{ *memFS }

func (m journalFS) MkdirAll(dir string) error {
	err := m.Mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := m.MkdirAll(path.Dir(dir)); err != nil {
			return err
		}
		err = m.Mkdir(dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, m.SyncDir(path.Dir(dir)))
}

func (m journalFS) Create(name string) (journal.File, error) {
	if _, err := m.open(name); err == nil {
		return nil, fs.ErrExist
	}
	return m.create(name)
}

func (m journalFS) Open(name string) (journal.File, error)      { return m.open(name) }
func (m journalFS) OpenWrite(name string) (journal.File, error) { return m.open(name) }
func (m journalFS) Lock(string) (io.Closer, error)              { return io.NopCloser(nil), nil }
func (m journalFS) Free(string) (int64, error)                  { return math.MaxInt64, nil }
