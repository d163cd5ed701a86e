package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cellgate/broker/wal"
)

// Recovery is the result of Open.
type Recovery struct {
	// Created reports that the directory held no journal, and a new epoch began.
	Created  bool
	Epoch    uint64
	First    uint64 // oldest sequence kept
	Last     uint64 // highest sequence recovered; the next record gets the one after it
	Segments int
	// TornBytes is the length of a batch that was being written when the process or the machine stopped. It was never
	// durable or reported as such.
	TornBytes int64
	// Corruptions were found in headers and in the last segment; other segments are checked when read.
	Corruptions []wal.Corruption
	// ScannedBytes is how much of the last segment was read.
	ScannedBytes int64
	Took         time.Duration
}

const (
	lockName    = "LOCK"
	sparePrefix = "free-"
	scanAhead   = 1 << 20
)

func spareName(n uint64) string { return sparePrefix + wal.SegmentName(n) }

// listing is the content of a journal directory.
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
		segment, spare := strings.CutPrefix(name, sparePrefix)
		switch n, ok := wal.ParseName(segment); {
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

// loaded is a segment as described by its header.
type loaded struct {
	wal.Header
	name    string // base name
	bytes   int64  // actual size of the file
	damaged bool
}

// loadHeader reads both copies of a segment's header. A file that cannot be understood is returned as damaged; an error
// is a read error or ErrVersion.
func loadHeader(f wal.File, index uint64) (loaded, []wal.Corruption, error) {
	l := loaded{Header: wal.Header{Index: index}, name: wal.SegmentName(index)}
	var err error
	if l.bytes, err = f.Size(); err != nil {
		return l, nil, err
	}
	b := make([]byte, wal.SegmentStart)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return l, nil, err
	}
	var bad []wal.Corruption
	copies := 0
	for page := 0; page < wal.SegmentStart; page += wal.PageLen {
		h, err := wal.DecodeHeader(b[page:])
		switch {
		case errors.Is(err, wal.ErrVersion):
			return l, nil, fmt.Errorf("%s: %w", l.name, err)
		case err != nil || h.Index != index:
			bad = append(bad, wal.Corruption{File: l.name, Offset: int64(page), Length: wal.HeaderLen, Reason: "header copy fails its checksum"})
		case copies == 0 || h.State == wal.StateFree: // a half-marked free segment is free
			l.Header = h
			copies++
		}
	}
	l.damaged = len(bad)*wal.PageLen == wal.SegmentStart
	if l.damaged {
		l.Size = max(l.bytes, wal.MinSegmentBytes)
		bad = []wal.Corruption{{File: l.name, Length: l.bytes, Reason: "both header copies are damaged; its records cannot be found"}}
	} else if l.bytes < l.Size {
		bad = append(bad, wal.Corruption{File: l.name, Offset: l.bytes, Length: l.Size - l.bytes, Reason: "file is truncated"})
	}
	return l, bad, nil
}

// recovery opens a directory that may hold a journal.
type recovery struct {
	fs   wal.FS
	dir  string
	segs []loaded
	out  Recovery

	knownEpoch, knownLast uint64 // see Options

	table    table
	lastTime int64 // of the last record, according to headers and scans; 0: none
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
	path := filepath.Join(r.dir, wal.SegmentName(index))
	f, err := r.fs.Open(path)
	if err != nil {
		return err
	}
	seg, bad, err := loadHeader(f, index)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("segment %s: %w", seg.name, err)
	}
	if seg.State == wal.StateFree {
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
			r.out.Epoch = s.Epoch
		}
		if s.Epoch != r.out.Epoch {
			s.damaged = true
			r.corrupt(wal.Corruption{File: s.name, Length: s.bytes, Reason: "belongs to another journal"})
		}
	}
}

// checkOrder marks a segment as damaged if its header is valid but contradicts its neighbours'.
func (r *recovery) checkOrder(i int, expected uint64) {
	s := &r.segs[i]
	bad := s.Base < expected
	if i+1 < len(r.segs) && !r.segs[i+1].damaged {
		next := &r.segs[i+1]
		bad = bad || next.Base < s.Base ||
			(next.PrevIndex == s.Index && (next.PrevEnd < wal.SegmentStart || next.PrevEnd > s.Size))
	}
	if bad && !s.damaged {
		s.damaged = true
		r.corrupt(wal.Corruption{File: s.name, Length: s.bytes, Reason: "its header contradicts the segments next to it"})
	}
}

// place puts segment i into the table. Its end comes from the next segment's header or from a scan.
func (r *recovery) place(i int) error {
	expected := r.out.Last + 1
	r.checkOrder(i, expected)
	s := &r.segs[i]
	if !s.damaged {
		r.lastTime = s.Time
	}
	seg := &segment{index: s.Index, base: s.Base, salt: s.Salt, time: s.Time, size: s.Size, damaged: s.damaged, sealed: true, name: filepath.Join(r.dir, s.name)}
	switch {
	case s.damaged:
		r.placeDamaged(seg, i, expected)
	case i+1 < len(r.segs) && r.segs[i+1].PrevIndex == s.Index && !r.segs[i+1].damaged:
		seg.end.Store(r.segs[i+1].PrevEnd)
		seg.last = r.segs[i+1].Base - 1
	default:
		if err := r.scan(s, seg, i+1 == len(r.segs)); err != nil {
			return fmt.Errorf("segment %s: %w", s.name, err)
		}
	}
	if i > 0 && !s.damaged && s.Base > expected {
		r.corrupt(wal.Corruption{File: s.name, First: expected, Last: s.Base - 1, Reason: "the segment before this one is missing"})
	}
	r.out.Last = max(r.out.Last, seg.last)
	r.table.list = append(r.table.list, seg)
	return nil
}

// checkKnown compares the recovered end with what consumers have seen.
func (r *recovery) checkKnown() {
	if r.out.Epoch == 0 || r.out.Epoch != r.knownEpoch || r.out.Last >= r.knownLast {
		return
	}
	tail := r.table.list[len(r.table.list)-1]
	r.corrupt(wal.Corruption{
		File: filepath.Base(tail.name), Offset: tail.end.Load(), First: r.out.Last + 1, Last: r.knownLast,
		Reason: "consumers have seen records that are missing",
	})
	r.out.Last, tail.last = r.knownLast, r.knownLast
}

// placeDamaged assigns the sequences between its neighbours to a segment without a readable header. If it is the newest
// one, as many sequences are skipped as it could have held, so that none is used twice.
func (r *recovery) placeDamaged(seg *segment, i int, expected uint64) {
	seg.base = expected
	seg.end.Store(wal.SegmentStart)
	if i+1 == len(r.segs) {
		seg.last = seg.base + uint64(max(seg.size, 0))/wal.RecordLenBytes //nolint:gosec // not negative
		return
	}
	if next := &r.segs[i+1]; !next.damaged {
		if i == 0 {
			seg.base = next.Base
		}
		seg.last = max(next.Base, seg.base) - 1
		return
	}
	seg.last = seg.base - 1
}

// scan finds the end of a segment. If it is the newest one, scan makes its content durable.
func (r *recovery) scan(s *loaded, seg *segment, newest bool) (err error) {
	f, err := r.fs.OpenWrite(seg.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &wal.Window{File: f, Size: s.bytes, Limit: s.Size, Ahead: scanAhead}
	res, err := wal.Scan(w, wal.SegmentStart, s.name, s.Salt, s.Base, nil)
	if err != nil {
		return err
	}
	r.out.Corruptions = append(r.out.Corruptions, res.Bad...)
	seg.end.Store(res.End)
	seg.last = max(res.Next-1, res.Mark)
	if res.Mark >= res.Next { // every mark is below the next sequence, unless records are missing
		r.corrupt(wal.Corruption{File: s.name, Offset: res.End, First: res.Next, Last: res.Mark, Reason: "durable records are missing"})
	}
	if res.Records > 0 {
		r.lastTime = res.LastTime
	}
	r.out.ScannedBytes += res.End
	if !newest {
		return nil
	}
	if r.out.TornBytes, err = w.Torn(res.End, s.Salt); err != nil {
		return err
	}
	return rewriteTail(f, &res)
}

// rewriteTail makes the recovered end of the newest segment durable. Its last batch may come from a process whose fsync
// failed: the kernel then holds clean pages that are not on disk, and another fsync would succeed without writing them.
// So the batch, which no mark covers, is written again first.
func rewriteTail(f wal.File, res *wal.Scanned) error {
	if res.TailLen > 0 && res.TailLast > res.Mark {
		b := make([]byte, res.TailLen)
		if _, err := f.ReadAt(b, res.TailOff); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, res.TailOff); err != nil {
			return fmt.Errorf("write the last batch again: %w", err)
		}
	}
	if err := f.SyncData(); err != nil {
		return fmt.Errorf("sync the recovered records: %w", err)
	}
	return nil
}

func (r *recovery) corrupt(c wal.Corruption) { r.out.Corruptions = append(r.out.Corruptions, c) }

// newEpoch returns an epoch that is unique on this node: the time in ms, then 12 random bits.
func newEpoch(now time.Time, random io.Reader) (uint64, error) {
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, err
	}
	return uint64(now.UnixMilli())<<12 | uint64(binary.LittleEndian.Uint16(b[:])&0xfff), nil //nolint:gosec // after 1970
}

// newSalt returns a salt that differs from the file's previous one.
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
