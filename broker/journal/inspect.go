package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
)

// Report is the result of Inspect and Verify for a journal directory.
type Report struct {
	Dir   string
	Epoch uint64
	First uint64 // oldest sequence kept
	Last  uint64 // highest sequence found; on a live journal, at the time of reading
	Bytes int64  // of all files
	// Spares are the files without records.
	Spares   int
	Segments []SegmentInfo
	// TornBytes is the length of an incomplete batch at the very end: a crash stopped it, or a live journal is writing
	// it.
	TornBytes   int64
	Corruptions []wal.Corruption
	// Steps are the steps of the wall clock in the batches that were read, the first 1,000 of StepsInAll.
	Steps      []Step
	StepsInAll int
}

const maxSteps = 1000

// Step is a step of the wall clock and the record that contains it.
type Step struct {
	Seq uint64
	message.ClockStep
}

// SegmentInfo describes one segment. Batches and Records are 0 where its batches were not read.
type SegmentInfo struct {
	Name    string
	Index   uint64
	First   uint64
	Last    uint64 // First-1 when it holds no record
	Bytes   int64  // of the file
	Used    int64  // up to the end of the last batch
	Created time.Time
	Batches int
	Records uint64
}

// Inspect describes the journal in dir from the segments' headers and the batches of the newest segment. It only reads,
// takes no lock, and works while the journal is open elsewhere.
func Inspect(dir string) (Report, error) { return inspect(wal.OS{}, dir, false) }

// Verify is like Inspect, but checks every batch of every segment.
func Verify(dir string) (Report, error) { return inspect(wal.OS{}, dir, true) }

// Dump calls fn with every readable record from the sequence from on, in order, and stops at fn's error. The record is
// valid until fn returns. Unreadable records show as a gap in Seq: Verify reports why. On a live journal the last
// records may not be durable yet.
func Dump(dir string, from uint64, fn func(*message.Record) error) error {
	return dump(wal.OS{}, dir, from, fn)
}

// looks bounds how often a live journal is read again because it changed meanwhile.
const looks = 20

// errMoved means that a live journal has changed its files since they were listed.
var errMoved = errors.New("the journal keeps changing its files")

// inspection reads a directory that may change at any time.
type inspection struct {
	fs  wal.FS
	dir string
	out Report
}

func inspect(fsys wal.FS, dir string, all bool) (Report, error) {
	for range looks {
		in := inspection{fs: fsys, dir: dir, out: Report{Dir: dir}}
		segs, err := in.list()
		if err != nil {
			return in.out, err
		}
		gone := false
		for i := range segs {
			if gone, err = in.segment(segs, i, all); err != nil {
				return in.out, fmt.Errorf("journal %s: segment %s: %w", dir, segs[i].name, err)
			}
		}
		if !gone { // about the newest segment; others disappear normally in a live journal
			in.summary()
			return in.out, nil
		}
	}
	return Report{Dir: dir}, fmt.Errorf("journal %s: %w", dir, errMoved)
}

// list reads every header. If a file vanishes meanwhile, it starts again.
func (in *inspection) list() ([]loaded, error) {
	for range looks {
		l, err := list(in.fs, in.dir)
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w", in.dir, err)
		}
		segs, err := in.headers(l)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w", in.dir, err)
		}
		in.out.Spares = len(l.spares)
		if len(l.used)+len(l.spares) == 0 {
			return nil, fmt.Errorf("journal %s: %w", in.dir, fs.ErrNotExist)
		}
		return segs, nil
	}
	return nil, fmt.Errorf("journal %s: %w", in.dir, errMoved)
}

func (in *inspection) headers(l listing) ([]loaded, error) {
	var segs []loaded
	in.out.Corruptions, in.out.Bytes = nil, 0
	for _, index := range l.used {
		seg, bad, err := in.header(index)
		if err == nil && len(bad) > 0 {
			seg, bad, err = in.header(index) // it may have been read while it was written
		}
		if err != nil {
			return nil, err
		}
		in.out.Bytes += seg.bytes
		if seg.State == wal.StateFree {
			continue
		}
		segs = append(segs, seg)
		in.out.Corruptions = append(in.out.Corruptions, bad...)
	}
	for _, n := range l.spares {
		f, err := in.fs.Open(filepath.Join(in.dir, spareName(n)))
		if err != nil {
			return nil, err
		}
		size, err := f.Size()
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		in.out.Bytes += size
	}
	return segs, nil
}

func (in *inspection) header(index uint64) (loaded, []wal.Corruption, error) {
	f, err := in.fs.Open(filepath.Join(in.dir, wal.SegmentName(index)))
	if err != nil {
		return loaded{}, nil, err
	}
	seg, bad, err := loadHeader(f, index)
	return seg, bad, errors.Join(err, f.Close())
}

// sealedBy returns where segment i ends and its last sequence, if the next segment's header says so.
func sealedBy(segs []loaded, i int) (end int64, last uint64, ok bool) {
	if i+1 == len(segs) || segs[i].damaged || segs[i+1].damaged || segs[i+1].PrevIndex != segs[i].Index {
		return 0, 0, false
	}
	return segs[i+1].PrevEnd, segs[i+1].Base - 1, true
}

// segment adds segment i to the report, unless it was recycled meanwhile.
func (in *inspection) segment(segs []loaded, i int, all bool) (gone bool, err error) {
	s := &segs[i]
	info := SegmentInfo{
		Name: s.name, Index: s.Index, First: s.Base, Last: s.Base - 1, Bytes: s.bytes, Created: time.UnixMilli(s.Time),
	}
	if s.damaged {
		info.First, info.Last, info.Created = 0, 0, time.Time{}
		in.out.Segments = append(in.out.Segments, info)
		return false, nil
	}
	end, last, sealed := sealedBy(segs, i)
	if sealed {
		info.Used, info.Last = end, last
	}
	if all || !sealed {
		res, gone, err := in.scan(s, end, sealed, in.steps)
		if gone {
			in.drop(segs[:i+1])
		}
		if err != nil || gone {
			return gone, err
		}
		info.Batches, info.Records = res.Batches, res.Records
		if !sealed {
			info.Used, info.Last = res.End, max(res.Next-1, res.Mark)
		}
		if sealed && (res.End != end || res.Next != last+1) {
			res.Bad = append(res.Bad, wal.LostBetween(s.name, res.End, end, res.Next, last+1))
		}
		in.out.Corruptions = append(in.out.Corruptions, res.Bad...)
	}
	in.out.Segments = append(in.out.Segments, info)
	in.out.Epoch = s.Epoch
	return false, nil
}

// drop removes segments from the report: when one is recycled, those before it are, too.
func (in *inspection) drop(segs []loaded) {
	in.out.Segments, in.out.Steps, in.out.StepsInAll = nil, nil, 0
	in.out.Corruptions = slices.DeleteFunc(in.out.Corruptions, func(c wal.Corruption) bool {
		return slices.ContainsFunc(segs, func(s loaded) bool { return s.name == c.File })
	})
}

// visitor is called with the batches of a segment.
type visitor func(h *wal.BatchHeader, body []byte) error

// scan reads the batches of a segment. gone reports that it was recycled meanwhile. A range counts as bad only if it is
// bad twice, since a live journal may be writing it; visit may then see the rest twice.
func (in *inspection) scan(s *loaded, end int64, sealed bool, visit visitor) (res wal.Scanned, gone bool, err error) {
	f, err := in.fs.Open(filepath.Join(in.dir, s.name))
	if errors.Is(err, fs.ErrNotExist) {
		return res, true, nil
	}
	if err != nil {
		return res, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	limit := s.Size
	if sealed {
		limit = end
	}
	var before []wal.Corruption
	for range 2 {
		w := &wal.Window{File: f, Size: s.bytes, Limit: limit, Ahead: scanAhead}
		steps, inAll := len(in.out.Steps), in.out.StepsInAll
		if res, err = wal.Scan(w, wal.SegmentStart, s.name, s.Salt, s.Base, visit); err != nil {
			return res, false, err
		}
		if before == nil && len(res.Bad) > 0 { // read it again
			in.out.Steps, in.out.StepsInAll = in.out.Steps[:steps], inAll
		}
		if !sealed {
			if in.out.TornBytes, err = w.Torn(res.End, s.Salt); err != nil {
				return res, false, err
			}
		}
		if len(res.Bad) == 0 {
			break
		}
		if before != nil {
			res.Bad = slices.DeleteFunc(res.Bad, func(c wal.Corruption) bool { return !slices.Contains(before, c) })
		}
		before = res.Bad
	}
	return res, recycledSince(f, s), nil
}

func (in *inspection) steps(h *wal.BatchHeader, body []byte) error {
	if message.Flags(h.Flags)&message.FlagControl == 0 {
		return nil
	}
	var dec message.Decoder
	var rec message.Record
	return h.EachRecord(body, func(i int, b []byte) error {
		if len(b) == 0 || message.Kind(b[0]) != message.KindClockStep {
			return nil
		}
		seq := h.First + uint64(i) //nolint:gosec // an index
		if err := dec.Decode(b, h.Time, &rec); err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		step, err := rec.ClockStep()
		if err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		if in.out.StepsInAll++; len(in.out.Steps) < maxSteps {
			in.out.Steps = append(in.out.Steps, Step{Seq: seq, ClockStep: step})
		}
		return nil
	})
}

func (in *inspection) summary() {
	segs := in.out.Segments
	for i := range segs {
		if segs[i].First != 0 && in.out.First == 0 {
			in.out.First = segs[i].First
		}
		if in.out.Last != 0 && segs[i].First > in.out.Last+1 {
			in.out.Corruptions = append(in.out.Corruptions, wal.Corruption{
				File: segs[i].Name, First: in.out.Last + 1, Last: segs[i].First - 1, Reason: "the segment before this one is missing",
			})
		}
		in.out.Last = max(in.out.Last, segs[i].Last)
	}
}

// dump is Dump on any file system. When a segment is recycled meanwhile, it starts again with what is left.
func dump(fsys wal.FS, dir string, from uint64, fn func(*message.Record) error) error {
	d := dumper{from: from, fn: fn}
	for range looks {
		in := inspection{fs: fsys, dir: dir}
		segs, err := in.list()
		if err != nil {
			return err
		}
		gone := false
		for i := 0; i < len(segs) && !gone; i++ {
			end, last, sealed := sealedBy(segs, i)
			if segs[i].damaged || (sealed && last < d.from) {
				continue
			}
			if _, gone, err = in.scan(&segs[i], end, sealed, d.batch); err != nil {
				return fmt.Errorf("journal %s: segment %s: %w", dir, segs[i].name, err)
			}
		}
		if !gone {
			return nil
		}
	}
	return fmt.Errorf("journal %s: %w", dir, errMoved)
}

// dumper passes records on, each once.
type dumper struct {
	from uint64
	fn   func(*message.Record) error
	dec  message.Decoder
	rec  message.Record
}

func (d *dumper) batch(h *wal.BatchHeader, body []byte) error {
	return h.EachRecord(body, func(i int, b []byte) error {
		seq := h.First + uint64(i) //nolint:gosec // an index
		if seq < d.from {
			return nil
		}
		if err := d.dec.Decode(b, h.Time, &d.rec); err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		d.rec.Seq, d.from = seq, seq+1
		return d.fn(&d.rec)
	})
}

// recycledSince reports whether an open segment has been recycled since its header was read.
func recycledSince(f wal.File, s *loaded) bool {
	now, _, err := readHeader(f)
	return err == nil && (now.Salt != s.Salt || now.State == wal.StateFree)
}

// Lock keeps others from opening the journal in dir until the result is closed. It returns wal.ErrLocked while the
// journal is open elsewhere.
func Lock(dir string) (io.Closer, error) {
	name := filepath.Join(dir, lockName)
	if f, err := os.Open(name); err != nil { //nolint:gosec // the journal directory
		return nil, err
	} else if err := f.Close(); err != nil {
		return nil, err
	}
	return wal.OS{Perm: filePerm}.Lock(name)
}
