package statefile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
)

// verify reads every page that the file's last transaction refers to, without bbolt, and checks what bbolt relies on,
// and the content against the checksums. It reports whether a meta page was unreadable.
func verify(f *os.File, name string) (fellBack bool, err error) {
	var found error
	err = mapped(f, func(data []byte) { fellBack, found = scanFile(data) })
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err) // the file is unread, so it is not called damaged
	case found == nil:
		return fellBack, nil
	case errors.Is(found, ErrFormat):
		return false, fmt.Errorf("%s: %w; start the version that wrote it, or use an empty data_dir", name, found)
	}
	return false, damage(name, "%v", found)
}

// mapped calls fn with a file's content, which is valid until fn returns. If part of it is unreadable, because of a
// disk error or because the file was truncated meanwhile, fn ends and mapped returns an error.
func mapped(f *os.File, fn func(data []byte)) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		fn(nil)
		return nil
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED) //nolint:gosec // a descriptor is small
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { err = errors.Join(err, syscall.Munmap(data)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if _, fault := p.(interface{ Addr() uintptr }); fault {
			err = errUnread
		} else if p != nil {
			panic(p)
		}
	}()
	fn(data)
	return nil
}

var errUnread = errors.New("a part of it cannot be read: check the disk")

func scanFile(data []byte) (fellBack bool, err error) {
	m, fellBack, err := readMeta(data)
	if err != nil {
		return false, err
	}
	switch {
	case m.freelist != noFreelist:
		return false, fmt.Errorf("%w: it keeps a list of free pages, which no released version does", ErrFormat)
	case m.pages > uint64(len(data))/pageSize:
		return false, fmt.Errorf("it has %d bytes of the %d pages in use", len(data), m.pages)
	}
	s := newScan(data, m)
	if err := s.outermost(m.root); err != nil {
		return false, err
	}
	return fellBack, s.compare()
}

// scan is one pass over the file.
type scan struct {
	data  []byte
	pages uint64   // in use, free ones included
	seen  []uint64 // a bit for each referenced page
	found map[string]digest
	kept  map[string]digest // the file's own digests of found
	known bool              // the format was read
}

func newScan(data []byte, m meta) *scan {
	pages := min(m.pages, uint64(len(data))/pageSize)
	return &scan{data: data, pages: pages, seen: make([]uint64, pages/64+1), found: map[string]digest{}, kept: map[string]digest{}}
}

// page is a page with its continuation pages.
type page struct {
	id    uint64
	data  []byte
	flags uint16
	count int
}

func (s *scan) read(id uint64) (page, error) {
	if id < firstPage || id >= s.pages {
		return page{}, fmt.Errorf("page %d is referenced, but there are %d", id, s.pages)
	}
	data := s.data[id*pageSize:]
	n := 1 + uint64(binary.NativeEndian.Uint32(data[12:]))
	switch {
	case binary.NativeEndian.Uint64(data) != id:
		return page{}, fmt.Errorf("page %d has the number of another page", id)
	case n > s.pages-id:
		return page{}, fmt.Errorf("page %d spans %d pages, of %d", id, n, s.pages)
	}
	for i := id; i < id+n; i++ {
		if s.seen[i/64]&(1<<(i%64)) != 0 {
			return page{}, fmt.Errorf("page %d is referenced twice", i)
		}
		s.seen[i/64] |= 1 << (i % 64)
	}
	return asPage(id, data[:n*pageSize]), nil
}

// asPage parses the header of a page.
func asPage(id uint64, data []byte) page {
	ne := binary.NativeEndian
	return page{id: id, data: data, flags: ne.Uint16(data[8:]), count: int(ne.Uint16(data[10:]))}
}

// cut returns size bytes at an offset from an element.
func (p *page) cut(element int, at, size uint64) ([]byte, error) {
	from := uint64(element) + at //nolint:gosec // within a page
	if from < uint64(pageHeader+p.count*elementSize) || from+size > uint64(len(p.data)) {
		return nil, fmt.Errorf("page %d: an element is outside of it", p.id)
	}
	return p.data[from : from+size : from+size], nil
}

// check verifies what branches and leaves have in common.
func (p *page) check(flags uint16) error {
	if p.flags != flags {
		return fmt.Errorf("page %d: flags %#x, expected %#x", p.id, p.flags, flags)
	}
	if pageHeader+p.count*elementSize > len(p.data) {
		return fmt.Errorf("page %d: %d elements do not fit", p.id, p.count)
	}
	return nil
}

// walk reads one bucket.
type walk struct {
	s    *scan
	path string
	seed uint32
	last []byte // the previous key
	sum  digest
	leaf func(flags uint32, key, value []byte) error
}

// tree reads a page and its subtree, and returns its first key, nil if empty.
func (w *walk) tree(id uint64) ([]byte, error) {
	p, err := w.s.read(id)
	if err != nil {
		return nil, err
	}
	if p.flags == flagLeaf {
		return w.elements(p)
	}
	return w.children(p)
}

func (w *walk) children(p page) ([]byte, error) {
	if err := p.check(flagBranch); err != nil {
		return nil, err
	}
	var first []byte
	for i := range p.count {
		at := pageHeader + i*elementSize
		e := p.data[at : at+elementSize]
		key, err := p.cut(at, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
		if err != nil {
			return nil, err
		}
		below, err := w.tree(binary.NativeEndian.Uint64(e[8:]))
		if err != nil {
			return nil, err
		}
		if len(below) == 0 || !bytes.Equal(below, key) {
			return nil, fmt.Errorf("page %d: a child does not begin with its key in the branch", p.id)
		}
		if i == 0 {
			first = key
		}
	}
	if first == nil {
		return nil, fmt.Errorf("page %d: a branch without children", p.id)
	}
	return first, nil
}

func (w *walk) elements(p page) (first []byte, err error) {
	if err := p.check(flagLeaf); err != nil {
		return nil, err
	}
	for i := range p.count {
		at := pageHeader + i*elementSize
		ne, e := binary.NativeEndian, p.data[at:at+elementSize]
		place, keySize, valueSize := uint64(ne.Uint32(e[4:])), uint64(ne.Uint32(e[8:])), uint64(ne.Uint32(e[12:]))
		key, err := p.cut(at, place, keySize)
		if err != nil {
			return nil, err
		}
		value, err := p.cut(at, place+keySize, valueSize)
		if err != nil {
			return nil, err
		}
		if len(key) == 0 || len(key) > MaxKeySize || (w.last != nil && bytes.Compare(w.last, key) >= 0) {
			return nil, fmt.Errorf("page %d: its keys are not in order", p.id)
		}
		w.last = key
		if i == 0 {
			first = key
		}
		if err := w.leaf(ne.Uint32(e), key, value); err != nil {
			return nil, err
		}
	}
	return first, nil
}

// whole reads the bucket from its root page; that of an inline bucket is in its value.
func (w *walk) whole(value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("bucket %s: its header is truncated", showPath(w.path))
	}
	w.sum.sequence = binary.NativeEndian.Uint64(value[8:])
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		_, err := w.tree(root)
		return err
	}
	if len(value) < bucketHeader+pageHeader {
		return fmt.Errorf("bucket %s: its page is truncated", showPath(w.path))
	}
	data := value[bucketHeader:]
	// When an inline bucket outgrows its parent, bbolt uses the page's number and frees the page of that number.
	if binary.NativeEndian.Uint64(data) != 0 || binary.NativeEndian.Uint32(data[12:]) != 0 {
		return fmt.Errorf("bucket %s: its inline page has a number or an overflow", showPath(w.path))
	}
	_, err := w.elements(asPage(0, data))
	return err
}

// outermost reads the root bucket, which contains only buckets.
func (s *scan) outermost(root uint64) error {
	reserved := false
	w := &walk{s: s}
	w.leaf = func(flags uint32, key, value []byte) error {
		if flags != leafBucketFlag {
			return fmt.Errorf("a value is among the buckets: key %s", hex.EncodeToString(key))
		}
		if string(key) == reservedName {
			reserved = true
			return s.checksums(value)
		}
		return s.bucket("", key, value)
	}
	if _, err := w.tree(root); err != nil {
		return err
	}
	if !reserved {
		return fmt.Errorf("%w: it has no checksums: a version before the first release wrote it, or their bucket is damaged", ErrFormat)
	}
	return nil
}

// bucket reads a bucket and its nested ones.
func (s *scan) bucket(parent string, name, header []byte) error {
	path := appendPath(parent, name)
	w := &walk{s: s, path: path, seed: seed(path)}
	w.leaf = func(flags uint32, key, value []byte) error {
		if flags == leafBucketFlag {
			return s.bucket(path, key, value)
		}
		if err := w.value(flags, key, value); err != nil {
			return err
		}
		w.sum.add(entry(key, value))
		return nil
	}
	if err := w.whole(header); err != nil {
		return err
	}
	s.found[path] = w.sum
	return nil
}

// value checks a value that is not a bucket.
func (w *walk) value(flags uint32, key, sealed []byte) error {
	if _, ok := unseal(w.seed, key, sealed); !ok || flags != 0 {
		return fmt.Errorf("the value of key %s in bucket %s fails its checksum", hex.EncodeToString(key), showPath(w.path))
	}
	return nil
}

func (s *scan) checksums(header []byte) error {
	path := appendPath("", []byte(reservedName))
	w := &walk{s: s, path: path, seed: seed(path)}
	w.leaf = func(flags uint32, key, sealed []byte) error {
		if err := w.value(flags, key, sealed); err != nil {
			return err
		}
		value := sealed[:len(sealed)-sealSize]
		if bytes.Equal(key, formatKey()) {
			s.known = true
			return checkFormat(value)
		}
		d, ok := decodeDigest(value)
		if !ok {
			return fmt.Errorf("the digest of bucket %s has %d bytes", showPath(string(key)), len(value))
		}
		s.kept[string(key)] = d
		return nil
	}
	return w.whole(header)
}

func checkFormat(value []byte) error {
	if !slices.Equal(value, []byte{format}) {
		return fmt.Errorf("%w: its format is %x, this version reads %d", ErrFormat, value, format)
	}
	return nil
}

// compare checks the computed digests against the stored ones.
func (s *scan) compare() error {
	if !s.known {
		return errors.New("the format is missing")
	}
	for path, found := range s.found {
		kept, ok := s.kept[path]
		switch {
		case !ok:
			return fmt.Errorf("bucket %s has no digest", showPath(path))
		case kept.keys != found.keys:
			return fmt.Errorf("bucket %s has %d keys, its digest says %d", showPath(path), found.keys, kept.keys)
		case kept != found:
			return fmt.Errorf("bucket %s does not match its digest", showPath(path))
		}
	}
	for path := range s.kept {
		if _, ok := s.found[path]; !ok {
			return fmt.Errorf("bucket %s is missing", showPath(path))
		}
	}
	return nil
}
