package sink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"testing"
)

// asVersion2 turns a segment into one of version 2, which has the highest sequence in front of it where the epoch is.
func asVersion2(t *testing.T, path string, last uint64) {
	t.Helper()
	b, err := os.ReadFile(path) //nolint:gosec // a path of the test's
	if err != nil {
		t.Fatal(err)
	}
	copy(b, logMagic2)
	binary.LittleEndian.PutUint64(b[32:], last)
	binary.LittleEndian.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	if err := os.WriteFile(path, b, 0o600); err != nil { //nolint:gosec // a path of the test's
		t.Fatal(err)
	}
}

// TestDecisionLogOfVersion2 opens what the version before wrote, with the sequences of a journal that is no longer there in
// its headers, and goes on behind it.
func TestDecisionLogOfVersion2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir, position{}, position{})
	want := fill(t, l, 1, 200)
	if err := l.sync(); err != nil {
		t.Fatal(err)
	}
	start, end := l.start(), l.end()
	for _, s := range l.segments {
		asVersion2(t, l.path(s.number), 1<<40)
	}
	l.close()
	for range 2 {
		l = openLog(t, dir, start, end)
		same(t, readAll(t, l, l.start()), want)
		want = append(want, fill(t, l, len(want)+1, 50)...)
		if err := l.sync(); err != nil {
			t.Fatal(err)
		}
		end = l.end()
		l.close()
	}
}

// TestDecisionLogOfAnotherJournal puts a segment of another journal's log in the place of one.
func TestDecisionLogOfAnotherJournal(t *testing.T) {
	t.Parallel()
	d := newDamagedLog(t)
	for name, good := range d.files {
		if d.needed(name) == 0 {
			continue
		}
		other := bytes.Clone(good)
		binary.LittleEndian.PutUint64(other[32:], 8)
		binary.LittleEndian.PutUint32(other[40:], crc32.Checksum(other[:40], castagnoli))
		if _, err := d.open(t, name, other); !errors.Is(err, ErrDecisionLog) {
			t.Fatalf("%s: %v", name, err)
		}
	}
}
