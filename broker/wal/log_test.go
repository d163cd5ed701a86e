package wal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// own is the identity of the tests' log.
var own = wal.Identity{Name: "decisions/kafka", Epoch: 7}

func openLog(t *testing.T, dir string, start, end wal.Position) *wal.Log {
	t.Helper()
	l, err := wal.OpenLog(wal.OS{Perm: 0o600}, dir, own, start, end, 4<<10)
	check.OK(t, err)
	t.Cleanup(l.Close)
	return l
}

// fill appends n chunks with the records from first on and returns them.
func fill(t *testing.T, l *wal.Log, first, n int) [][]byte {
	t.Helper()
	var out [][]byte
	for i := first; i < first+n; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 50+i%100)
		if err := l.Append(data, uint64(i)); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

func readAll(t *testing.T, l *wal.Log, pos wal.Position) [][]byte {
	t.Helper()
	var out [][]byte
	for {
		data, next, ok, err := l.Read(pos)
		check.OK(t, err)
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

func TestLogReadsWhatWasAppended(t *testing.T) {
	t.Parallel()
	l := openLog(t, t.TempDir(), wal.Position{}, wal.Position{})
	want := fill(t, l, 1, 500)
	same(t, readAll(t, l, l.Start()), want)
	if l.Bytes() < 500*50 {
		t.Fatalf("%d bytes", l.Bytes())
	}
}

func TestLogKeepsWhatACheckpointNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, wal.Position{}, wal.Position{})
	want := fill(t, l, 1, 200)
	check.OK(t, l.Sync())
	start, end := l.Start(), l.End()
	fill(t, l, 201, 300) // after the checkpoint: gone after a crash
	check.OK(t, l.Sync())
	l.Close()
	l = openLog(t, dir, start, end)
	same(t, readAll(t, l, l.Start()), want)
	want = append(want, fill(t, l, 201, 50)...)
	same(t, readAll(t, l, l.Start()), want)
}

func TestLogTrims(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, wal.Position{}, wal.Position{})
	all := fill(t, l, 1, 500)
	check.OK(t, l.Trim(100, l.End()))
	left := readAll(t, l, l.Start())
	if len(left) < 400 || len(left) == 500 {
		t.Fatalf("%d chunks left", len(left))
	}
	same(t, left, all[500-len(left):])
	if err := l.Trim(1<<40, l.Start()); err != nil { // the reader is at the beginning
		t.Fatal(err)
	}
	same(t, readAll(t, l, l.Start()), left)
	check.OK(t, l.Trim(1<<40, l.End()))
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Fatalf("%d segments left", len(files))
	}
}

// A power loss may keep some removals of a trim and undo others.
func TestLogBeginsAfterATrimThatWasUndone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, wal.Position{}, wal.Position{})
	fill(t, l, 1, 200)
	check.OK(t, l.Sync())
	start, end := l.Start(), l.End()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 4 {
		t.Fatalf("%d segments: %v", len(files), err)
	}
	check.OK(t, os.Remove(filepath.Join(dir, files[1].Name())))
	want := readAll(t, l, wal.Position{Segment: start.Segment + 2, Offset: start.Offset})
	l.Close()
	l = openLog(t, dir, start, end)
	same(t, readAll(t, l, l.Start()), want)
}

func TestLogTriesAFullDiskAgain(t *testing.T) {
	t.Parallel()
	full := &waltest.Faults{Only: waltest.Write, Err: syscall.ENOSPC}
	disk := waltest.New()
	disk.Before = full.Before
	l, err := wal.OpenLog(disk, "/log", own, wal.Position{}, wal.Position{}, 4<<10)
	check.OK(t, err)
	want := fill(t, l, 1, 3)
	full.Fail(1)
	if err := l.Sync(); err == nil {
		t.Fatal("a full disk took the chunks")
	}
	check.OK(t, l.Sync())
	want = append(want, fill(t, l, 4, 3)...)
	same(t, readAll(t, l, l.Start()), want)
}

// TestLogWaitsForDescriptors takes all descriptors away before a sync and before a new segment: both succeed once there
// are descriptors again, and nothing is lost.
func TestLogWaitsForDescriptors(t *testing.T) {
	t.Parallel()
	disk := waltest.New()
	l, err := wal.OpenLog(disk, "/log", own, wal.Position{}, wal.Position{}, 4<<10)
	check.OK(t, err)
	want := fill(t, l, 1, 3)
	disk.Opening = func(name string) error { return &os.PathError{Op: "open", Path: name, Err: syscall.EMFILE} }
	if err := l.Sync(); !errors.Is(err, syscall.EMFILE) || l.Failed() {
		t.Fatalf("%v, final: %t", err, l.Failed())
	}
	for i := 4; err == nil; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 500)
		if err = l.Append(data, uint64(i)); err == nil { //nolint:gosec // small
			want = append(want, data)
		}
	}
	if !errors.Is(err, syscall.EMFILE) || l.Failed() {
		t.Fatalf("%v, final: %t", err, l.Failed())
	}
	disk.Opening = nil
	check.OK(t, l.Sync())
	want = append(want, fill(t, l, 200, 3)...)
	same(t, readAll(t, l, l.Start()), want)
}
