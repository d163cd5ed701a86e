package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// damagedLog is a decision log after a checkpoint: several segments, the last one with records after the checkpoint
// that a crash has kept.
type damagedLog struct {
	start, end wal.Position
	want       [][]byte // the chunks that the checkpoint names
	files      map[string][]byte
}

func newDamagedLog(t *testing.T) *damagedLog {
	t.Helper()
	m := waltest.New()
	l, err := wal.OpenLog(m, "/log", own, wal.Position{}, wal.Position{}, 4<<10)
	check.OK(t, err)
	d := &damagedLog{want: fill(t, l, 1, 120)}
	check.OK(t, l.Sync())
	d.start, d.end = l.Start(), l.End()
	fill(t, l, 121, 10)
	check.OK(t, l.Sync())
	l.Close()
	if d.files = m.Files("/log"); len(d.files) < 3 {
		t.Fatalf("%d segments", len(d.files))
	}
	return d
}

// needed returns how much of a file the checkpoint needs.
func (d *damagedLog) needed(name string) int {
	switch last := fmt.Sprintf("%016x.log", d.end.Segment); {
	case name == last:
		return int(d.end.Offset)
	case name > last:
		return 0
	}
	return len(d.files[name])
}

// open writes the files with one of them replaced (nil: missing), opens the log and reads it to its end. It returns the
// records and the error that ended it.
func (d *damagedLog) open(name string, content []byte) ([][]byte, error) {
	files := map[string][]byte{}
	for other, b := range d.files {
		if other == name {
			b = content
		}
		if b != nil {
			files[other] = b
		}
	}
	got, err := readTo(waltest.With("/log", files), own, d.start, d.end)
	if err == nil && len(got) != len(d.want) {
		return nil, fmt.Errorf("%w: %d chunks", wal.ErrDamaged, len(got)) // as the pipeline counts records
	}
	return got, err
}

// readTo opens a log and reads it to its end. It returns the records and the error that ended it.
func readTo(m *waltest.FS, id wal.Identity, start, end wal.Position) (got [][]byte, err error) {
	l, err := wal.OpenLog(m, "/log", id, start, end, 4<<10)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	for pos := l.Start(); ; {
		data, next, ok, err := l.Read(pos)
		if err != nil || !ok {
			return got, err
		}
		got, pos = append(got, bytes.Clone(data)), next
	}
}

// check compares what was read with what was written: damage is an error that names a place, and all records before it
// are right. Only harmless damage may go without an error.
func (d *damagedLog) check(t *testing.T, what string, harmless bool, got [][]byte, err error) {
	t.Helper()
	for i := range got {
		if i >= len(d.want) || !bytes.Equal(got[i], d.want[i]) {
			t.Fatalf("%s: chunk %d is another one", what, i)
		}
	}
	switch {
	case err == nil && len(got) == len(d.want) && harmless:
	case err == nil:
		t.Fatalf("%s: not noticed, %d chunks of %d", what, len(got), len(d.want))
	case !errors.Is(err, wal.ErrDamaged):
		t.Fatalf("%s: %v", what, err)
	case harmless:
		t.Fatalf("%s: after the checkpoint, and yet %v", what, err)
	}
}

// TestLogBitFlips flips bits in every part of every file: magic, header, lengths, checksums and records. Each flip
// before the checkpoint is found; those after it do not matter.
func TestLogBitFlips(t *testing.T) {
	t.Parallel()
	d := newDamagedLog(t)
	for name, good := range d.files {
		for at := 0; at < len(good); at++ {
			if at > 3*wal.HeaderLen { // header and first frames whole, the chunks by sample
				at += rand.IntN(40)
			}
			if at >= len(good) {
				break
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1 << rand.IntN(8)
			got, err := d.open(name, bad)
			d.check(t, fmt.Sprintf("bit flip at byte %d of %s", at, name), at >= d.needed(name), got, err)
		}
	}
}

// TestLogTruncations cuts every file at and within every frame, and removes whole files.
func TestLogTruncations(t *testing.T) {
	t.Parallel()
	d := newDamagedLog(t)
	for name, good := range d.files {
		for size := 0; size < len(good); size += 1 + rand.IntN(200) {
			got, err := d.open(name, good[:size:size])
			d.check(t, fmt.Sprintf("%s cut to %d bytes", name, size), size >= d.needed(name), got, err)
		}
		got, err := d.open(name, nil)
		d.check(t, name+" missing", d.needed(name) == 0, got, err)
	}
}

// TestLogLostPages zeroes 512 bytes anywhere, like a page that was never written, and swaps two files.
func TestLogLostPages(t *testing.T) {
	t.Parallel()
	d := newDamagedLog(t)
	names := make([]string, 0, len(d.files))
	for name, good := range d.files {
		names = append(names, name)
		for at := 0; at < len(good); at += 512 {
			bad := bytes.Clone(good)
			clear(bad[at:min(at+512, len(bad))])
			got, err := d.open(name, bad)
			d.check(t, fmt.Sprintf("zeroes from byte %d of %s", at, name), at >= d.needed(name), got, err)
		}
	}
	slices.Sort(names)
	got, err := d.open(names[0], d.files[names[1]])
	d.check(t, "a segment in the place of another", false, got, err)
}
