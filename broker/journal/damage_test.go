package journal

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

const imageDir = "/j"

// image is the contents of a journal directory by file name.
type image map[string][]byte

func imageOf(m *waltest.FS) image { return m.Files(imageDir) }

func (img image) fs() *waltest.FS { return waltest.With(imageDir, img) }

// segments returns the names of the used segments in order.
func (img image) segments() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(img)) {
		if _, ok := wal.ParseName(name); ok {
			names = append(names, name)
		}
	}
	return names
}

func imageOptions(m *waltest.FS) Options {
	return completed(Options{Dir: imageDir, Machine: Machine{FS: m}, SegmentBytes: powerSegment, MaxBytes: 64 * powerSegment})
}

// makeImage returns a properly closed journal of several segments and its range of sequences. Some segments were
// recycled before and hold stale batches.
func makeImage(t testing.TB) (img image, first, last uint64) {
	t.Helper()
	m := waltest.New()
	j, _ := open(t, imageOptions(m))
	for i := 1; i <= 240; i++ {
		last = appendN(t, j, i, 1)
		if i%3 == 0 {
			waitDurable(t, j, last)
		}
		if i == 120 {
			waitDurable(t, j, last)
			j.Retain("c", 121)
			check.Eventually(t, "recycled", func() bool { return j.First() > 60 })
			j.Retain("c", j.First())
		}
	}
	first = j.First()
	closeJournal(t, j)
	img = imageOf(m)
	if n := len(img.segments()); n < 4 {
		t.Fatalf("only %d segments", n)
	}
	return img, first, last
}

// outcome is the result of opening one damaged journal.
type outcome struct {
	read    map[uint64]bool
	reports []wal.Corruption // by Open and by reading
	verify  []wal.Corruption
}

// examine opens a damaged journal, reads all of it and verifies it. It fails for any record that differs from what was
// written.
func examine(t testing.TB, img image, last uint64) (outcome, error) {
	t.Helper()
	m := img.fs()
	out := outcome{read: map[uint64]bool{}}
	rep, err := inspect(m, imageDir, true)
	if err != nil {
		return out, fmt.Errorf("verify: %w", err)
	}
	out.verify = rep.Corruptions
	j, rec, err := Open(imageOptions(m))
	if err != nil {
		return out, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = j.Close(context.Background()) }()
	r, err := j.NewReader(0)
	if err != nil {
		return out, fmt.Errorf("reader: %w", err)
	}
	defer func() { _ = r.Close() }()
	for before := uint64(0); ; {
		b, ok, err := r.TryNext(0)
		if err != nil {
			return out, fmt.Errorf("read: %w", err)
		}
		if !ok {
			break
		}
		for i := range b.Records {
			seq := b.Records[i].Seq
			if err := checkRecord(&b.Records[i], int(seq)); err != nil || seq <= before || seq > last {
				return out, fmt.Errorf("record %d after %d: %w", seq, before, err)
			}
			out.read[seq], before = true, seq
		}
	}
	out.reports = j.Stat().Corruptions
	if len(rec.Corruptions) > len(out.reports) {
		return out, fmt.Errorf("%d corruptions on opening, %d in all", len(rec.Corruptions), len(out.reports))
	}
	next := record(int(rec.Last) + 1)
	seq, err := j.Append(one(&next), nil)
	if err != nil || seq <= last && len(out.reports) == 0 {
		return out, fmt.Errorf("append after damage: sequence %d: %w", seq, err)
	}
	return out, j.WaitDurable(context.Background(), seq)
}

func checkDamage(t testing.TB, what string, img image, first, last uint64) outcome {
	t.Helper()
	out, err := examine(t, img, last)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return out
	}
	lost := 0
	for seq := first; seq <= last; seq++ {
		if !out.read[seq] {
			lost++
		}
	}
	if lost > 0 && (len(out.reports) == 0 || len(out.verify) == 0) {
		t.Errorf("%s: %d records lost, reported %v, by verify %v", what, lost, out.reports, out.verify)
	}
	return out
}

// places returns offsets to damage in one file: all of the headers, and some of everything else.
func places(name string, b []byte, rng *rand.Rand) []int {
	var at []int
	if strings.HasPrefix(name, sparePrefix) {
		for range 20 {
			at = append(at, rng.IntN(len(b)))
		}
		return at
	}
	for page := 0; page < wal.SegmentStart && page < len(b); page += wal.PageLen {
		for i := range wal.HeaderLen {
			at = append(at, page+i)
		}
		at = append(at, page+wal.HeaderLen+rng.IntN(wal.PageLen-wal.HeaderLen))
	}
	h, err := wal.DecodeHeader(b)
	if err != nil {
		return at
	}
	off := wal.SegmentStart
	for {
		bh, ok := wal.DecodeBatchHeader(b[off:], h.Salt)
		if !ok {
			break
		}
		for i := range wal.BatchHeaderLen {
			if rng.IntN(3) == 0 {
				at = append(at, off+i)
			}
		}
		for range 4 {
			at = append(at, off+rng.IntN(int(bh.Size())))
		}
		off += int(bh.Size())
		at = append(at, off-1)
	}
	if off == len(b) { // batches fill the segment
		return at
	}
	for range 20 {
		at = append(at, off+rng.IntN(len(b)-off))
	}
	return at
}

func TestBitFlips(t *testing.T) {
	t.Parallel()
	img, first, last := makeImage(t)
	rng := rand.New(rand.NewPCG(1, 2))
	cases := 0
	for name, b := range img {
		for _, at := range places(name, b, rng) {
			damaged := maps.Clone(img)
			damaged[name] = slices.Clone(b)
			damaged[name][at] ^= 1 << rng.IntN(8)
			checkDamage(t, fmt.Sprintf("bit flip in %s at %d", name, at), damaged, first, last)
			cases++
		}
	}
	if out, err := examine(t, img, last); err != nil || len(out.reports)+len(out.verify) > 0 || uint64(len(out.read)) != last-first+1 {
		t.Fatalf("undamaged: %v %+v", err, out)
	}
	t.Logf("%d bit flips", cases)
}

// TestLostPages keeps the last mark. Without it and all earlier ones the loss of the end leaves no trace; only
// consumers can know (TestLostEndIsKnownElsewhere).
func TestLostPages(t *testing.T) {
	t.Parallel()
	img, first, last := makeImage(t)
	newest, mark := lastBatch(t, img)
	rng := rand.New(rand.NewPCG(3, 4))
	for name, b := range img {
		for from := 0; from < len(b); from += 512 {
			for _, n := range []int{512, wal.PageLen, wal.SegmentStart} {
				if name == newest && from <= mark && mark < from+n {
					continue
				}
				damaged := maps.Clone(img)
				damaged[name] = slices.Clone(b)
				for i := from; i < min(from+n, len(b)); i++ {
					damaged[name][i] = byte(rng.Uint32() * uint32(n&512>>9)) // noise, or zeros
				}
				checkDamage(t, fmt.Sprintf("%d bytes overwritten in %s at %d", n, name, from), damaged, first, last)
			}
		}
	}
}

// lastBatch returns the newest segment and the offset of its last batch.
func lastBatch(t testing.TB, img image) (name string, off int) {
	t.Helper()
	name = img.segments()[len(img.segments())-1]
	h, err := wal.DecodeHeader(img[name])
	check.OK(t, err)
	for next := wal.SegmentStart; ; {
		bh, ok := wal.DecodeBatchHeader(img[name][next:], h.Salt)
		if !ok {
			return name, off
		}
		off, next = next, next+int(bh.Size())
	}
}

func TestLostEndIsKnownElsewhere(t *testing.T) {
	t.Parallel()
	img, first, last := makeImage(t)
	name, _ := lastBatch(t, img)
	h, err := wal.DecodeHeader(img[name])
	check.OK(t, err)
	clear(img[name][wal.SegmentStart+wal.BatchHeaderLen:])
	m := img.fs()
	o := imageOptions(m)
	o.KnownEpoch, o.KnownLast = h.Epoch, last
	j, rec := open(t, o)
	if len(rec.Corruptions) != 1 || rec.Last != last {
		t.Fatalf("%+v", rec)
	}
	waitDurable(t, j, appendN(t, j, int(last)+1, 1))
	r, err := j.NewReader(first)
	check.OK(t, err)
	for missing := uint64(0); ; {
		b, ok, err := r.TryNext(0)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if missing += b.Missing; b.Last == last+1 {
			if want := last - h.Base + 1; missing != want || b.First != b.Last {
				t.Fatalf("%d missing, want %d", missing, want)
			}
			break
		}
	}
	closeJournal(t, j)
	o.KnownEpoch++
	o.KnownLast += 1000
	if _, rec = open(t, o); rec.Last != last+1 || len(rec.Corruptions) > 0 {
		t.Fatalf("another epoch's sequence was taken: %+v", rec)
	}
}

func TestTruncations(t *testing.T) {
	t.Parallel()
	img, first, last := makeImage(t)
	rng := rand.New(rand.NewPCG(5, 6))
	for name, b := range img {
		if name == lockName {
			continue
		}
		at := places(name, b, rng)
		rng.Shuffle(len(at), func(i, k int) { at[i], at[k] = at[k], at[i] })
		for _, n := range append(at[:len(at)/3], 0, 1, wal.PageLen, wal.SegmentStart, len(b)-1) {
			damaged := maps.Clone(img)
			damaged[name] = b[:n]
			what := fmt.Sprintf("%s cut to %d bytes", name, n)
			if out := checkDamage(t, what, damaged, first, last); !strings.HasPrefix(name, sparePrefix) && (len(out.reports) == 0 || len(out.verify) == 0) {
				t.Errorf("%s: not reported", what)
			}
		}
	}
}

func TestMissingSegments(t *testing.T) {
	t.Parallel()
	img, first, last := makeImage(t)
	names := img.segments()
	for i, name := range names[1 : len(names)-1] {
		damaged := maps.Clone(img)
		delete(damaged, name)
		checkDamage(t, "without "+name, damaged, first, last)
		for _, other := range names[1 : len(names)-1] {
			twice := maps.Clone(damaged)
			if len(twice[other]) > 0 {
				twice[other] = make([]byte, len(twice[other]))
				checkDamage(t, fmt.Sprint("without ", name, ", zeros in ", other, i), twice, first, last)
			}
		}
	}
}

// TestTornTail mixes the states before and after the last batch was written, sector by sector. Recovery must keep the
// whole batch or none of it, and must not report corruption.
func TestTornTail(t *testing.T) {
	t.Parallel()
	m := waltest.New()
	j, _ := open(t, imageOptions(m))
	waitDurable(t, j, appendN(t, j, 1, 10))
	before := imageOf(m)
	recs := make([]message.Record, 8)
	for i := range recs {
		recs[i] = record(11 + i)
	}
	last, err := j.Append(recs, nil)
	check.OK(t, err)
	waitDurable(t, j, last)
	after := imageOf(m)
	name := after.segments()[0]
	from, to := differs(before[name], after[name])
	rng := rand.New(rand.NewPCG(7, 8))
	whole := 0
	for i := range 400 {
		mixed := slices.Clone(before[name])
		sector := []int{16, 64, 512}[i%3]
		for at := from &^ (sector - 1); at < to; at += sector {
			if rng.IntN(6) < 1+i%6 {
				copy(mixed[at:], after[name][at:min(at+sector, len(mixed))])
			}
		}
		img := maps.Clone(after)
		img[name] = mixed
		o := imageOptions(img.fs())
		j, rec, err := Open(o)
		check.OK(t, err)
		if len(rec.Corruptions) > 0 || (rec.Last != 10 && rec.Last != last) {
			t.Fatalf("case %d: %+v", i, rec)
		}
		if rec.Last == last {
			whole++
		}
		if err := checkRange(j, 1, rec.Last); err != nil {
			t.Fatalf("case %d: %v", i, err)
		}
		closeJournal(t, j)
	}
	if whole == 0 || whole == 400 {
		t.Fatalf("%d of 400 tails were whole", whole)
	}
}

// differs returns the range in which two files of equal length differ.
func differs(a, b []byte) (from, to int) {
	for from = 0; a[from] == b[from]; from++ {
	}
	for to = len(a); a[to-1] == b[to-1]; to-- {
	}
	return from, to
}
