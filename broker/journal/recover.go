package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/wal"
)

// Recovery tells what Open found.
type Recovery struct {
	// Created says that the directory held no journal, and that a new epoch began.
	Created  bool
	Epoch    uint64
	First    uint64 // oldest sequence kept
	Last     uint64 // highest sequence recovered; the next record gets the one behind it
	Segments int
	// TornBytes is the length of a batch that was being written when the process or the machine
	// stopped. It was never durable, and nobody was told that it was.
	TornBytes int64
	// Corruptions were found in headers and in the last segment; the others are checked when read.
	Corruptions []Corruption
	// ScannedBytes is how much of the last segment was read.
	ScannedBytes int64
	Took         time.Duration
}

const (
	lockName    = "LOCK"
	usedSuffix  = ".log"
	sparePrefix = "free-"
	spareSuffix = ".log"
	scanAhead   = 1 << 20
)

func usedName(index uint64) string { return fmt.Sprintf("%016x%s", index, usedSuffix) }

func spareName(n uint64) string { return fmt.Sprintf("%s%016x%s", sparePrefix, n, spareSuffix) }

// parseName returns the number in a name of the journal, and whether the file is a spare one.
func parseName(name string) (n uint64, spare, ok bool) {
	hex, spare := strings.CutPrefix(name, sparePrefix)
	hex, ok = strings.CutSuffix(hex, usedSuffix)
	if !ok || len(hex) != 16 {
		return 0, false, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, spare, err == nil
}

// listing is what a journal directory holds.
type listing struct {
	used   []uint64 // indexes, ascending
	spares []uint64
}

func list(fs wal.FS, dir string) (listing, error) {
	names, err := fs.List(dir)
	if err != nil {
		return listing{}, err
	}
	var l listing
	for _, name := range names {
		switch n, spare, ok := parseName(name); {
		case !ok:
		case spare:
			l.spares = append(l.spares, n)
		default:
			l.used = append(l.used, n)
		}
	}
	slices.Sort(l.used)
	slices.Sort(l.spares)
	return l, nil
}

// loaded is a segment as its header describes it.
type loaded struct {
	segmentHeader
	name    string // base name
	bytes   int64  // of the file as it is
	damaged bool
}

// loadHeader reads both copies of a segment's header. A file that cannot be understood comes back
// damaged; an error is one of reading, or ErrVersion.
func loadHeader(f wal.File, index uint64) (loaded, []Corruption, error) {
	l := loaded{segmentHeader: segmentHeader{index: index}, name: usedName(index)}
	var err error
	if l.bytes, err = f.Size(); err != nil {
		return l, nil, err
	}
	b := make([]byte, segmentStart)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return l, nil, err
	}
	var bad []Corruption
	copies := 0
	for page := 0; page < segmentStart; page += pageLen {
		h, err := decodeSegmentHeader(b[page:])
		switch {
		case errors.Is(err, ErrVersion):
			return l, nil, fmt.Errorf("%s: %w", l.name, err)
		case err != nil || h.index != index:
			bad = append(bad, Corruption{File: l.name, Offset: int64(page), Length: segmentHeaderLen, Reason: "header copy does not check"})
		case copies == 0 || h.state == stateFree: // half marked free is free
			l.segmentHeader = h
			copies++
		}
	}
	l.damaged = len(bad)*pageLen == segmentStart
	if l.damaged {
		l.size = max(l.bytes, minSegmentBytes)
		bad = []Corruption{{File: l.name, Length: l.bytes, Reason: "neither header copy checks; its records cannot be found"}}
	} else if l.bytes < l.size {
		bad = append(bad, Corruption{File: l.name, Offset: l.bytes, Length: l.size - l.bytes, Reason: "file is cut short"})
	}
	return l, bad, nil
}

// recovery is Open's work on a directory that may hold a journal.
type recovery struct {
	fs   wal.FS
	dir  string
	segs []loaded
	out  Recovery

	knownEpoch, knownLast uint64 // see Options

	table    table
	lastTime int64 // of the last record, as far as headers and scans tell; 0: none
}

func (r *recovery) run() error {
	l, err := list(r.fs, r.dir)
	if err != nil {
		return err
	}
	for _, index := range l.used {
		if err := r.load(index); err != nil {
			return err
		}
	}
	r.checkEpochs()
	for i := range r.segs {
		if err := r.place(i); err != nil {
			return err
		}
	}
	r.checkKnown()
	r.out.Segments = len(r.segs)
	r.out.Created = len(l.used) == 0
	r.out.First = r.table.first(r.out.Last)
	return nil
}

// load reads one segment's header. Files whose recycling was interrupted are removed.
func (r *recovery) load(index uint64) error {
	path := filepath.Join(r.dir, usedName(index))
	f, err := r.fs.Open(path)
	if err != nil {
		return err
	}
	seg, bad, err := loadHeader(f, index)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("segment %s: %w", seg.name, err)
	}
	if seg.state == stateFree {
		return r.fs.Remove(path)
	}
	r.segs = append(r.segs, seg)
	r.out.Corruptions = append(r.out.Corruptions, bad...)
	return nil
}

// checkEpochs takes the newest segment's epoch as the journal's.
func (r *recovery) checkEpochs() {
	for i := len(r.segs) - 1; i >= 0; i-- {
		s := &r.segs[i]
		if s.damaged {
			continue
		}
		if r.out.Epoch == 0 {
			r.out.Epoch = s.epoch
		}
		if s.epoch != r.out.Epoch {
			s.damaged = true
			r.corrupt(Corruption{File: s.name, Length: s.bytes, Reason: "belongs to another journal"})
		}
	}
}

// checkOrder takes a segment for damaged whose header contradicts its neighbours' although it checks.
func (r *recovery) checkOrder(i int, expected uint64) {
	s := &r.segs[i]
	bad := s.base < expected
	if i+1 < len(r.segs) && !r.segs[i+1].damaged {
		next := &r.segs[i+1]
		bad = bad || next.base < s.base ||
			(next.prevIndex == s.index && (next.prevEnd < segmentStart || next.prevEnd > s.size))
	}
	if bad && !s.damaged {
		s.damaged = true
		r.corrupt(Corruption{File: s.name, Length: s.bytes, Reason: "its header contradicts those of its neighbours"})
	}
}

// place puts segment i into the table: its end is in the next segment's header, or has to be looked for.
func (r *recovery) place(i int) error {
	expected := r.out.Last + 1
	r.checkOrder(i, expected)
	s := &r.segs[i]
	if !s.damaged {
		r.lastTime = s.time
	}
	seg := &segment{index: s.index, base: s.base, salt: s.salt, time: s.time, size: s.size, damaged: s.damaged, sealed: true, name: filepath.Join(r.dir, s.name)}
	switch {
	case s.damaged:
		r.placeDamaged(seg, i, expected)
	case i+1 < len(r.segs) && r.segs[i+1].prevIndex == s.index && !r.segs[i+1].damaged:
		seg.end.Store(r.segs[i+1].prevEnd)
		seg.last = r.segs[i+1].base - 1
	default:
		if err := r.scan(s, seg, i+1 == len(r.segs)); err != nil {
			return fmt.Errorf("segment %s: %w", s.name, err)
		}
	}
	if i > 0 && !s.damaged && s.base > expected {
		r.corrupt(Corruption{File: s.name, First: expected, Last: s.base - 1, Reason: "what came before this segment is missing"})
	}
	r.out.Last = max(r.out.Last, seg.last)
	r.table.list = append(r.table.list, seg)
	return nil
}

// checkKnown compares what was recovered with what consumers know to have been there.
func (r *recovery) checkKnown() {
	if r.out.Epoch == 0 || r.out.Epoch != r.knownEpoch || r.out.Last >= r.knownLast {
		return
	}
	tail := r.table.list[len(r.table.list)-1]
	r.corrupt(Corruption{
		File: filepath.Base(tail.name), Offset: tail.end.Load(), First: r.out.Last + 1, Last: r.knownLast,
		Reason: "consumers have seen records that are missing",
	})
	r.out.Last, tail.last = r.knownLast, r.knownLast
}

// placeDamaged gives a segment without a readable header the sequences between its neighbours. Behind
// the newest one, as many sequences are skipped as it could have held, so that none is used twice.
func (r *recovery) placeDamaged(seg *segment, i int, expected uint64) {
	seg.base = expected
	seg.end.Store(segmentStart)
	if i+1 == len(r.segs) {
		seg.last = seg.base + uint64(max(seg.size, 0))/recordLenBytes //nolint:gosec // not negative
		return
	}
	if next := &r.segs[i+1]; !next.damaged {
		if i == 0 {
			seg.base = next.base
		}
		seg.last = max(next.base, seg.base) - 1
		return
	}
	seg.last = seg.base - 1
}

// scan looks for the end of a segment, and makes durable what it finds.
func (r *recovery) scan(s *loaded, seg *segment, newest bool) (err error) {
	f, err := r.fs.OpenWrite(seg.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &window{f: f, size: s.bytes, limit: s.size, ahead: scanAhead}
	res, err := scan(w, s.name, s.salt, s.base, nil)
	if err != nil {
		return err
	}
	r.out.Corruptions = append(r.out.Corruptions, res.bad...)
	seg.end.Store(res.end)
	seg.last = max(res.next-1, res.mark)
	if res.mark >= res.next { // cannot be: mark+1 = first
		r.corrupt(Corruption{File: s.name, Offset: res.end, First: res.next, Last: res.mark, Reason: "durable records are missing"})
	}
	if res.records > 0 {
		r.lastTime = res.lastTime
	}
	r.out.ScannedBytes += res.end
	if !newest {
		return nil
	}
	if r.out.TornBytes, err = torn(w, res.end, s.salt); err != nil {
		return err
	}
	return settle(f, &res)
}

// torn returns the length of the batch that was being written at off, as far as its header tells.
func torn(w *window, off int64, salt uint32) (int64, error) {
	b, err := w.at(off, batchHeaderLen)
	if err != nil {
		return 0, err
	}
	h, ok := decodeBatchHeader(b, salt)
	if !ok {
		return 0, nil
	}
	return min(h.size(), w.limit-off), nil
}

// settle makes the recovered end of the newest segment durable. Its last batch may have been written by a
// process whose fsync failed: the kernel then holds clean pages that are not on disk, and another fsync
// would succeed without writing them. So the batch, which no mark covers, is written again first.
func settle(f wal.File, res *scanned) error {
	if res.tailLen > 0 && res.tailLast > res.mark {
		b := make([]byte, res.tailLen)
		if _, err := f.ReadAt(b, res.tailOff); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, res.tailOff); err != nil {
			return fmt.Errorf("write the last batch again: %w", err)
		}
	}
	if err := f.SyncData(); err != nil {
		return fmt.Errorf("sync the recovered records: %w", err)
	}
	return nil
}

func (r *recovery) corrupt(c Corruption) { r.out.Corruptions = append(r.out.Corruptions, c) }

// newEpoch makes an epoch that no other journal of this node has: the time in ms, then 12 random bits.
func newEpoch(now time.Time, random io.Reader) (uint64, error) {
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, err
	}
	return uint64(now.UnixMilli())<<12 | uint64(binary.LittleEndian.Uint16(b[:])&0xfff), nil //nolint:gosec // after 1970
}

// newSalt makes a salt that differs from the one that the file had before.
func newSalt(random io.Reader, before uint32) (uint32, error) {
	for {
		var b [4]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, err
		}
		if salt := binary.LittleEndian.Uint32(b[:]); salt != before {
			return salt, nil
		}
	}
}
