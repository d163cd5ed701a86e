package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cellgate/test/check"
)

// TestSmallFileSystem fills a real file system of 2 MiB repeatedly: appends are withheld, nothing is lost, and the
// journal continues when there is space again. It needs permission to mount.
func TestSmallFileSystem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	o := Options{Dir: filepath.Join(dir, "journal"), SegmentBytes: 64 << 10, MaxBytes: 1 << 30}
	j, _ := open(t, o)
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	j.Retain("c", 1)
	n := 1
	for round := range rounds {
		// Another user of the disk takes all of the remaining space, or some of it.
		hog := filepath.Join(dir, "hog")
		if err := fill(hog, int64(round%4)*256<<10); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		for ; ; n++ {
			r := record(n)
			if _, err := j.Append(one(&r), nil); err != nil {
				if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				break
			}
		}
		check.OK(t, os.Remove(hog))
		keep := j.Durable() + 1
		j.Retain("c", keep)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := j.WaitRoom(ctx); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		cancel()
		waitDurable(t, j, uint64(n-1))
		if err := checkRange(j, keep, uint64(n-1)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	durable := j.Durable()
	closeJournal(t, j)
	j, rec := open(t, o)
	if rec.Last != durable || len(rec.Corruptions) > 0 {
		t.Fatalf("%+v, durable was %d", rec, durable)
	}
	check.OK(t, checkRange(j, j.First(), durable))
	closeJournal(t, j)
}

func fill(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, size))
	return errors.Join(err, f.Close())
}
