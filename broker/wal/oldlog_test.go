package wal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// oldLog returns a log of the old format, 40 records in four segments, and its recorded end. No version writes such
// files any more, and every version must read them.
func oldLog(t testing.TB, name string) (files map[string][]byte, want [][]byte, end wal.Position) {
	t.Helper()
	dir := filepath.Join("testdata", "old", name)
	entries, err := os.ReadDir(dir)
	check.OK(t, err)
	files = map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 40; i++ {
		want = append(want, bytes.Repeat([]byte{byte(i)}, 50+i%100))
	}
	return files, want, wal.Position{Segment: 4, Offset: 142}
}

var oldLogs = map[string]wal.Identity{"v2": own, "v3": own, "v3-operators": {Name: "operators"}}

// TestOldLogs opens logs of earlier versions, with an end that does not name its log, and appends to them.
func TestOldLogs(t *testing.T) {
	t.Parallel()
	for name, id := range oldLogs {
		files, want, end := oldLog(t, name)
		m := waltest.With("/log", files)
		m.Before = func(o waltest.Op, name string) error {
			if base := filepath.Base(name); o == waltest.Write && base < wal.SegmentName(5) {
				t.Errorf("%s is written to", base)
			}
			return nil
		}
		start := wal.Position{Segment: 1, Offset: 44}
		for range 2 {
			l, err := wal.OpenLog(m, "/log", id, start, end, 1<<10)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			same(t, readAll(t, l, l.Start()), want)
			same(t, readAll(t, l, start), want) // which an earlier checkpoint has
			want = append(want, fill(t, l, len(want)+1, 50)...)
			check.OK(t, l.Sync())
			start, end = l.Start(), l.End()
			l.Close()
		}
		var got [][]byte
		check.OK(t, wal.Salvage(m, "/log", id, func(data []byte) error { got = append(got, bytes.Clone(data)); return nil }))
		same(t, got, want)
	}
}

// TestOldLogDetectsEveryDamage flips a bit in each byte of a segment in turn.
func TestOldLogDetectsEveryDamage(t *testing.T) {
	t.Parallel()
	files, want, end := oldLog(t, "v3")
	for _, name := range []string{wal.SegmentName(1), wal.SegmentName(4)} {
		for at := range files[name] {
			m := waltest.With("/log", files)
			damaged := m.Files("/log")
			damaged[name][at] ^= 1 << (at % 8)
			got, err := readTo(waltest.With("/log", damaged), own, wal.Position{Segment: 1}, end)
			if !errors.Is(err, wal.ErrDamaged) {
				t.Fatalf("bit flip at %d of %s: %v after %d records", at, name, err, len(got))
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("bit flip at %d of %s gave a wrong record", at, name)
				}
			}
		}
	}
}

// TestNothingOfAnotherLogIsRead replaces a segment by one of another journal's or another sink's log, with and without
// a header that claims its place: it is never opened as a segment of this log.
func TestNothingOfAnotherLogIsRead(t *testing.T) {
	t.Parallel()
	d := newDamagedLog(t)
	for what, other := range map[string]wal.Identity{
		"another journal's": {Name: own.Name, Epoch: own.Epoch + 1},
		"another sink's":    {Name: "decisions/redis", Epoch: own.Epoch},
	} {
		m := waltest.New()
		l, err := wal.OpenLog(m, "/log", other, wal.Position{}, wal.Position{}, 4<<10)
		check.OK(t, err)
		fill(t, l, 1, 120)
		check.OK(t, l.Sync())
		for name, strange := range m.Files("/log") {
			if _, err := d.open(name, strange); !errors.Is(err, wal.ErrDamaged) {
				t.Fatalf("%s: %s: %v", what, name, err)
			}
			disguised := append(bytes.Clone(d.files[name][:wal.HeaderLen]), strange[wal.HeaderLen:]...)
			if _, err := d.open(name, disguised); !errors.Is(err, wal.ErrDamaged) {
				t.Fatalf("%s under a header of ours: %s: %v", what, name, err)
			}
		}
		if _, err := wal.OpenLog(m, "/log", own, l.Start(), l.End(), 4<<10); !errors.Is(err, wal.ErrDamaged) {
			t.Fatalf("%s positions are taken: %v", what, err)
		}
		mine, err := wal.OpenLog(waltest.New(), "/log", own, wal.Position{}, wal.Position{}, 4<<10)
		check.OK(t, err)
		if _, _, _, err := mine.Read(l.Start()); !errors.Is(err, wal.ErrDamaged) {
			t.Fatalf("%s position is read at: %v", what, err)
		}
		if err := wal.Salvage(m, "/log", own, func([]byte) error { return errors.New("salvaged") }); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// TestOldLogOfAnotherJournal opens a log of the old format with the epoch of another journal.
func TestOldLogOfAnotherJournal(t *testing.T) {
	t.Parallel()
	files, _, end := oldLog(t, "v3")
	for _, id := range []wal.Identity{{Name: own.Name, Epoch: 8}, {Name: own.Name}} {
		if _, err := readTo(waltest.With("/log", files), id, wal.Position{Segment: 1}, end); !errors.Is(err, wal.ErrDamaged) {
			t.Fatal(err)
		}
	}
}
