package sink

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/rules"
)

func openLog(t *testing.T, dir string, start, end position) *decisionLog {
	t.Helper()
	l, err := openDecisionLog(wal.OS{Perm: filePerm}, dir, 7, start, end, 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// fill appends n chunks with the records from first on and returns them.
func fill(t *testing.T, l *decisionLog, first, n int) [][]byte {
	t.Helper()
	var out [][]byte
	for i := first; i < first+n; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 50+i%100)
		if err := l.append(data, uint64(i)); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

func readAll(t *testing.T, l *decisionLog, pos position) [][]byte {
	t.Helper()
	var out [][]byte
	for {
		data, next, ok, err := l.read(pos)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, bytes.Clone(data))
		pos = next
	}
}

func same(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d chunks, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("chunk %d differs", i)
		}
	}
}

func TestDecisionLogReadsWhatWasAppended(t *testing.T) {
	t.Parallel()
	l := openLog(t, t.TempDir(), position{}, position{})
	want := fill(t, l, 1, 500)
	same(t, readAll(t, l, l.start()), want)
	if l.bytes() < 500*50 {
		t.Fatalf("%d bytes", l.bytes())
	}
}

func TestDecisionLogKeepsWhatACheckpointNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, position{}, position{})
	want := fill(t, l, 1, 200)
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	start, end := l.start(), l.end()
	fill(t, l, 201, 300) // behind the checkpoint: gone after a crash
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	l.close()
	l = openLog(t, dir, start, end)
	same(t, readAll(t, l, l.start()), want)
	want = append(want, fill(t, l, 201, 50)...)
	same(t, readAll(t, l, l.start()), want)
}

func TestDecisionLogTrims(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, position{}, position{})
	all := fill(t, l, 1, 500)
	if err := l.trim(100, l.end()); err != nil {
		t.Fatal(err)
	}
	left := readAll(t, l, l.start())
	if len(left) < 400 || len(left) == 500 {
		t.Fatalf("%d chunks left", len(left))
	}
	same(t, left, all[500-len(left):])
	if err := l.trim(1<<40, l.start()); err != nil { // the reader stands at the beginning
		t.Fatal(err)
	}
	same(t, readAll(t, l, l.start()), left)
	if err := l.trim(1<<40, l.end()); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Fatalf("%d segments left", len(files))
	}
}

// A power loss may keep some removals of a trim and undo others.
func TestDecisionLogBeginsBehindATrimThatWasUndone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, position{}, position{})
	fill(t, l, 1, 200)
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	start, end := l.start(), l.end()
	if len(l.segments) < 4 {
		t.Fatalf("%d segments", len(l.segments))
	}
	if err := os.Remove(l.path(l.segments[1].number)); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, l, position{Segment: l.segments[2].number, Offset: int64(segmentHeader)})
	l.close()
	l = openLog(t, dir, start, end)
	same(t, readAll(t, l, l.start()), want)
}

func TestDecisionLogDetectsEveryDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, position{}, position{})
	want := fill(t, l, 1, 20)
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	start, end := l.start(), l.end()
	l.close()
	path := filepath.Join(dir, fmt.Sprintf("%016x.log", end.Segment))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := len(logMagic); at < len(good); at += 7 {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := openDecisionLog(wal.OS{Perm: filePerm}, dir, 7, start, end, 4<<10)
		if errors.Is(err, ErrDecisionLog) {
			continue // in the header
		}
		if err != nil {
			t.Fatal(err)
		}
		n, pos := 0, l.start()
		for {
			data, next, ok, rerr := l.read(pos)
			if err = rerr; rerr != nil || !ok {
				break
			}
			if !bytes.Equal(data, want[n]) {
				t.Fatalf("bit flip at %d gave a wrong chunk", at)
			}
			n, pos = n+1, next
		}
		l.close()
		if !errors.Is(err, ErrDecisionLog) {
			t.Fatalf("bit flip at %d: %v after %d chunks", at, err, n)
		}
	}
	if err := os.Truncate(path, end.Offset-1); err != nil {
		t.Fatal(err)
	}
	if _, err := openDecisionLog(wal.OS{Perm: filePerm}, dir, 7, start, end, 4<<10); !errors.Is(err, ErrDecisionLog) {
		t.Fatalf("a log that ends before its checkpoint: %v", err)
	}
}

func TestDecisionLogTriesAFullDiskAgain(t *testing.T) {
	t.Parallel()
	full := &waltest.Faults{Only: waltest.Write, Err: syscall.ENOSPC}
	disk := waltest.New()
	disk.Before = full.Before
	l, err := openDecisionLog(disk, "/log", 7, position{}, position{}, 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	want := fill(t, l, 1, 3)
	full.Fail(1)
	if err := l.sync(); err == nil {
		t.Fatal("a full disk took the chunks")
	}
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	want = append(want, fill(t, l, 4, 3)...)
	same(t, readAll(t, l, l.start()), want)
}

func TestChunkRoundTrip(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's choices
	var w chunkWriter
	type record struct {
		seq uint64
		ds  []rules.Decision
	}
	var want []record
	seq := uint64(1 << 40)
	for range 300 {
		seq += 1 + rnd.Uint64N(1000)
		r := record{seq: seq}
		for range 1 + rnd.IntN(3) {
			d := rules.Decision{Rule: uint16(rnd.IntN(1 << 16)), Target: uint16(rnd.IntN(16))} //nolint:gosec // in range
			if rnd.IntN(4) == 0 {
				d.Values = []byte(`{"x":1}`)
			}
			if rnd.IntN(9) == 0 {
				d.Target, d.Err = rules.TargetError, "no such field"
			}
			r.ds = append(r.ds, d)
		}
		w.add(7, r.seq, r.ds)
		want = append(want, r)
	}
	c := w.take()
	if !w.empty() || c.last != seq {
		t.Fatalf("after take: empty %t, last %d", w.empty(), c.last)
	}
	r, err := readChunk(c.data)
	if err != nil || r.set != 7 {
		t.Fatalf("set %d: %v", r.set, err)
	}
	for _, x := range want {
		got, ds, ok, err := r.next(nil)
		if err != nil || !ok || got != x.seq || fmt.Sprint(ds) != fmt.Sprint(x.ds) {
			t.Fatalf("record %d %v: %d %v %t %v", x.seq, x.ds, got, ds, ok, err)
		}
	}
	if _, _, ok, err := r.next(nil); ok || err != nil {
		t.Fatalf("behind the end: %t %v", ok, err)
	}
}

func FuzzChunk(f *testing.F) {
	var w chunkWriter
	w.add(1, 5, []rules.Decision{{Rule: 1}, {Rule: 2, Values: []byte("{}")}})
	f.Add(w.take().data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		r, err := readChunk(data)
		if err != nil {
			return
		}
		for {
			if _, _, ok, err := r.next(nil); !ok || err != nil {
				return
			}
		}
	})
}

// TestDecisionLogWaitsForDescriptors takes the descriptors away in front of a sync and of a new segment: both are done when there are
// some again, and nothing is lost.
func TestDecisionLogWaitsForDescriptors(t *testing.T) {
	t.Parallel()
	disk := waltest.New()
	l, err := openDecisionLog(disk, "/log", 7, position{}, position{}, 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	want := fill(t, l, 1, 3)
	disk.Opening = func(name string) error { return &os.PathError{Op: "open", Path: name, Err: syscall.EMFILE} }
	if err := l.sync(); !errors.Is(err, syscall.EMFILE) || l.failed() {
		t.Fatalf("%v, final: %t", err, l.failed())
	}
	for i := 4; err == nil; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 500)
		if err = l.append(data, uint64(i)); err == nil { //nolint:gosec // small
			want = append(want, data)
		}
	}
	if !errors.Is(err, syscall.EMFILE) || l.failed() {
		t.Fatalf("%v, final: %t", err, l.failed())
	}
	disk.Opening = nil
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	want = append(want, fill(t, l, 200, 3)...)
	same(t, readAll(t, l, l.start()), want)
}
