package journal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/test/check"
)

func TestInspectVerifyDump(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	const n = 400
	waitDurable(t, j, appendN(t, j, 1, n))
	for name, look := range map[string]func(string) (Report, error){"inspect": Inspect, "verify": Verify} {
		r, err := look(o.Dir)
		if err != nil {
			t.Fatal(name, err)
		}
		if r.Epoch != j.Epoch() || r.First != 1 || r.Last != n || len(r.Corruptions) != 0 || len(r.Segments) < 3 || r.Bytes < int64(len(r.Segments))*testSegment {
			t.Fatalf("%s: %+v", name, r)
		}
		records := uint64(0)
		for _, s := range r.Segments {
			records += s.Records
			if s.Created.IsZero() || s.Used <= wal.SegmentStart || s.Last < s.First {
				t.Fatalf("%s: %+v", name, s)
			}
		}
		if name == "verify" && records != n {
			t.Fatalf("verify saw %d records", records)
		}
	}
	next := 300
	stop := errors.New("enough")
	err := Dump(o.Dir, 300, func(r *message.Record) error {
		if err := checkRecord(r, next); err != nil {
			return err
		}
		if next == 390 {
			return stop
		}
		next++
		return nil
	})
	if !errors.Is(err, stop) || next != 390 {
		t.Fatal(err, next)
	}
	closeJournal(t, j)
	name := filepath.Join(o.Dir, wal.SegmentName(2))
	b := check.Read(t, name)
	b[wal.SegmentStart+100] ^= 1
	check.OK(t, os.WriteFile(name, b, 0o600))
	r, err := Verify(o.Dir)
	if err != nil || len(r.Corruptions) != 1 || r.Corruptions[0].First == 0 || r.Corruptions[0].File != wal.SegmentName(2) {
		t.Fatalf("%v %+v", err, r.Corruptions)
	}
	seen := 0
	check.OK(t, Dump(o.Dir, 0, func(*message.Record) error { seen++; return nil }))
	if lost := int(r.Corruptions[0].Last - r.Corruptions[0].First + 1); seen+lost != n {
		t.Fatalf("dumped %d, lost %d of %d", seen, lost, n)
	}
}

func TestInspectNothing(t *testing.T) {
	t.Parallel()
	if _, err := Inspect(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := Verify(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestVerifyLive verifies a journal while it is written, rotated and recycled: there must be no false alarm.
func TestVerifyLive(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	j.Retain("c", 1)
	waitDurable(t, j, appendN(t, j, 1, 1))
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	wg.Go(func() {
		for n := 2; ctx.Err() == nil; n++ {
			r := record(n)
			last, err := j.Append(one(&r), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if n%10 == 0 {
				waitDurable(t, j, last)
				j.Retain("c", last-min(last-1, 50))
			}
		}
	})
	for i := 0; i < 100 || j.First() < 500; i++ {
		before := j.Durable()
		r, err := Verify(o.Dir)
		if err != nil || len(r.Corruptions) > 0 || r.Last < before {
			t.Errorf("durable %d: %v %+v", before, err, r)
			break
		}
		first, last := uint64(0), uint64(0)
		if err := Dump(o.Dir, 0, func(rec *message.Record) error {
			if first == 0 {
				first = rec.Seq
			}
			last = rec.Seq
			return checkRecord(rec, int(rec.Seq))
		}); err != nil || last < before {
			t.Errorf("dumped %d to %d, durable was %d: %v", first, last, before, err)
			break
		}
	}
	stop()
	wg.Wait()
}
