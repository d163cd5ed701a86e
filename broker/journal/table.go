package journal

import (
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

type segment struct {
	index uint64
	base  uint64
	salt  uint32
	time  int64
	size  int64
	name  string // path of the file
	// damaged means that neither header copy is readable, so the batches cannot be found.
	damaged bool

	// end is the offset after the last durable batch. Only the committer moves it, until the next segment is in the
	// table.
	end atomic.Int64

	// Guarded by table.mu.
	last     uint64 // highest sequence; valid once sealed
	sealed   bool   // nothing more is appended
	readers  int
	recycled bool // no longer readable: its file is being made a spare
}

// table lists the segments in use, oldest first, and the sequences that consumers still need.
type table struct {
	mu     sync.RWMutex
	list   []*segment
	needed map[string]uint64 // by consumer: the lowest sequence still needed
}

// seal ends s, whose highest sequence is last, and appends next. s is nil for the first segment.
func (t *table) seal(s *segment, last uint64, next *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s != nil && !s.sealed {
		s.last, s.sealed = last, true
	}
	t.list = append(t.list, next)
}

// tail returns the newest segment, or nil.
func (t *table) tail() *segment {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.list) == 0 {
		return nil
	}
	return t.list[len(t.list)-1]
}

// first returns the lowest sequence that can still be read. last is the highest one appended.
func (t *table) first(last uint64) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.firstLocked(last)
}

func (t *table) firstLocked(last uint64) uint64 {
	for _, s := range t.list {
		if !s.recycled {
			return s.base
		}
	}
	return last + 1
}

// pin returns the segment that holds seq, or to which it will be appended, and keeps it from being recycled. It returns
// nil if there is no segment yet.
func (t *table) pin(seq, last uint64) (*segment, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seq < t.firstLocked(last) {
		return nil, ErrTrimmed
	}
	for i := len(t.list) - 1; i >= 0; i-- {
		if s := t.list[i]; s.base <= seq && !s.recycled {
			s.readers++
			return s, nil
		}
	}
	return nil, nil
}

// following returns the segment after s, pinned instead of s, or nil if there is none. last is then the highest
// sequence of s if s is sealed, else 0. Both are read under one lock, because s may be filled and sealed between two
// looks.
func (t *table) following(s *segment) (next *segment, last uint64) {
	t.mu.RLock()
	next, last = t.followingLocked(s)
	t.mu.RUnlock()
	if next == nil {
		return nil, last
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next.readers++
	s.readers--
	return next, 0
}

func (t *table) followingLocked(s *segment) (next *segment, last uint64) {
	if i := slices.Index(t.list, s); i >= 0 && i+1 < len(t.list) {
		return t.list[i+1], 0
	}
	if s.sealed {
		return nil, s.last
	}
	return nil, 0
}

func (t *table) unpin(s *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.readers--
}

// retain records that a consumer needs seq and everything after it, and reports whether a segment may
// be recycled now.
func (t *table) retain(name string, seq uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.needed == nil {
		t.needed = make(map[string]uint64)
	}
	t.needed[name] = seq
	return t.recyclableLocked() != nil
}

func (t *table) forget(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.needed, name)
	return t.recyclableLocked() != nil
}

// recyclableLocked returns the oldest segment if no reader needs it. The newest one always stays, because it tells the
// next start how far the journal had come.
func (t *table) recyclableLocked() *segment {
	if len(t.list) < 2 || len(t.needed) == 0 {
		return nil
	}
	s := t.list[0]
	if s.recycled {
		return s
	}
	if !s.sealed || s.readers > 0 {
		return nil
	}
	for _, seq := range t.needed {
		if seq <= s.last {
			return nil
		}
	}
	return s
}

// recycle takes the oldest segment from readers if none needs it. It stays in the table until remove, so that a
// failed attempt is repeated before any later segment is recycled.
func (t *table) recycle() *segment {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.recyclableLocked()
	if s != nil {
		s.recycled = true
	}
	return s
}

func (t *table) remove(s *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.list, s); i >= 0 {
		t.list = slices.Delete(t.list, i, i+1)
	}
}

// oldestName returns the base name of the oldest segment, "" without one.
func (t *table) oldestName() string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.list) == 0 {
		return ""
	}
	return filepath.Base(t.list[0].name)
}

func (t *table) bytes() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var n int64
	for _, s := range t.list {
		n += s.size
	}
	return n
}

// oldest returns the time of the oldest record kept, in ms, or 0 if there is none.
func (t *table) oldest(last uint64) int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.list {
		if !s.recycled && s.base <= last {
			return s.time
		}
	}
	return 0
}

// consumers returns a copy of the sequences that consumers need.
func (t *table) consumers() map[string]uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m := make(map[string]uint64, len(t.needed))
	for name, seq := range t.needed {
		m[name] = seq
	}
	return m
}

func (t *table) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.list)
}

// stepBack undoes following.
func (t *table) stepBack(s, next *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.readers++
	next.readers--
}

// isSealed reports whether nothing more is appended to s.
func (t *table) isSealed(s *segment) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return s.sealed
}
