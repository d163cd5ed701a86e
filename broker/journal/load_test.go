package journal

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

func TestConcurrentProducersAndReaders(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.BufferBytes = 8 << 10
	o.MaxBytes = 12 * testSegment
	j, _ := open(t, o)
	const producers, each = 16, 300
	j.Retain("r", 1)
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for i := range each {
				recs := []message.Record{record(i), record(i + 1)}
				for {
					last, err := j.Append(recs, nil)
					if errors.Is(err, ErrFull) {
						_ = j.WaitRoom(context.Background())
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					if i%10 == 0 {
						waitDurable(t, j, last)
					}
					break
				}
			}
		})
	}
	r, err := j.NewReader(1)
	check.OK(t, err)
	defer func() { _ = r.Close() }()
	for next := uint64(1); next <= producers*each*2; {
		b, err := r.Next(context.Background(), 0)
		if err != nil || b.First != next || b.Missing != 0 {
			t.Fatalf("%v %+v", err, b)
		}
		if b.Last > j.Durable() {
			t.Fatalf("read up to %d, durable is %d", b.Last, j.Durable())
		}
		next = b.Last + 1
		j.Retain("r", next)
	}
	wg.Wait()
}

func TestAppendDoesNotAllocate(t *testing.T) {
	j, _ := open(t, Options{Dir: t.TempDir(), SegmentBytes: 64 << 20, CommitInterval: time.Hour})
	recs := []message.Record{record(1), record(2), record(3)}
	w := &countingWaiter{c: make(chan struct{}, 1<<16)}
	for range 5000 {
		_, err := j.Append(recs, w)
		check.OK(t, err)
	}
	closeJournal(t, j)
	b := j.buffer
	b.closed = nil
	if n := testing.AllocsPerRun(500, func() {
		if _, _, err := b.append(recs, w); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Fatalf("%v allocations per Append", n)
	}
}

func TestOldSegmentIsClosed(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.SegmentAge = time.Millisecond
	j, _ := open(t, o)
	n := 0
	check.Eventually(t, "a segment is closed for its age", func() bool {
		n++
		waitDurable(t, j, appendN(t, j, n, 1))
		return j.Stat().Segments >= 3
	})
	readAll(t, j, 1, uint64(n))
}

func TestIdleJournalWritesItsMark(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	waitDurable(t, j, appendN(t, j, 1, 1))
	check.Eventually(t, "an empty batch carries the mark", func() bool {
		r, err := Inspect(o.Dir)
		return err == nil && r.Last == 1 && r.Segments[0].Batches == 2 && r.Segments[0].Records == 1
	})
	// Damage to the last record can now be told from a torn end.
	waitDurable(t, j, appendN(t, j, 2, 1))
	readAll(t, j, 1, 2)
}

// TestReadersAtTheTailMissNothing reads as fast as segments are filled. A reader at the end of the newest segment must
// return a batch that is committed to it right before the next segment begins.
func TestReadersAtTheTailMissNothing(t *testing.T) {
	t.Parallel()
	o := testOptions("/journal")
	o.FS, o.MaxBytes = waltest.New(), 1<<30
	j, _ := open(t, o)
	const records = 6000
	j.Retain("r", 1)
	var readers sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		r, err := j.NewReader(1)
		check.OK(t, err)
		readers.Go(func() {
			defer func() { _ = r.Close() }()
			for next := uint64(1); next <= records; {
				b, ok, err := r.TryNext(0)
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					runtime.Gosched()
					continue
				}
				if b.First != next || b.Missing != 0 {
					t.Errorf("read from %d on, missing %d; want from %d on", b.First, b.Missing, next)
				}
				next = b.Last + 1
			}
		})
	}
	for i := range records {
		waitDurable(t, j, appendN(t, j, i+1, 1))
	}
	readers.Wait()
}
