package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

// promised is a Waiter that keeps the highest mark.
type promised struct{ mark atomic.Uint64 }

func (p *promised) Durable(mark uint64) { p.mark.Store(max(p.mark.Load(), mark)) }

// faultRun appends, rotates, recycles and closes with a fault injected. It stores what was promised in p and returns
// the sticky error.
func faultRun(m *waltest.FS, p *promised, patience time.Duration) error {
	o := powerOptions(m)
	fatal := make(chan error, 2)
	o.OnFatal = func(err error) { fatal <- err }
	j, _, err := Open(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	j.Retain("c", 1)
	err = func() error {
		for n := 1; n <= 90; n++ {
			r := record(n)
			last, err := j.Append(one(&r), p)
			for errors.Is(err, ErrFull) {
				if err = j.WaitRoom(ctx); err == nil {
					last, err = j.Append(one(&r), p)
				}
			}
			if err != nil {
				return err
			}
			if n%3 == 0 {
				if err := j.WaitDurable(ctx, last); err != nil {
					return err
				}
				j.Retain("c", last-min(last-1, 10))
			}
		}
		return nil
	}()
	closed := j.Close(ctx)
	if j.Err() == nil && closed == nil && err == nil && p.mark.Load() != 90 {
		return fmt.Errorf("promised %d of 90", p.mark.Load())
	}
	if sticky := j.Err(); sticky != nil {
		if err := <-fatal; !errors.Is(sticky, err) {
			return fmt.Errorf("told %w, but failed with %w", err, sticky)
		}
		r := record(1)
		if _, err := j.Append(one(&r), nil); !errors.Is(err, sticky) {
			return fmt.Errorf("append after a failure: %w", err)
		}
		return sticky
	}
	return errors.Join(err, closed)
}

// TestFaultAtEveryCallSite makes each operation of a run fail once, in turn, and then that one and all after it. Then
// the power goes: everything promised must be on disk.
func TestFaultAtEveryCallSite(t *testing.T) {
	t.Parallel()
	clean := &waltest.Faults{}
	m := waltest.New()
	m.Before = clean.Before
	check.OK(t, faultRun(m, &promised{}, 10*time.Second))
	total := clean.Count()
	for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, many := range []int{1, 3, 1 << 30} {
			t.Run(fmt.Sprint(err, many), func(t *testing.T) {
				t.Parallel()
				sites, sticky := map[string]int{}, 0
				for from := 1; from <= total; from++ {
					hits, failed := oneFault(t, from, many, err)
					for _, hit := range hits {
						sites[strings.TrimRight(strings.SplitN(hit, "/data", 2)[0], " ")]++
					}
					if failed != nil {
						sticky++
					}
				}
				t.Logf("%d operations, %d sticky, failed: %v", total, sticky, sites)
			})
		}
	}
}

func oneFault(t *testing.T, from, many int, err error) (hits []string, sticky error) {
	t.Helper()
	f := &waltest.Faults{From: from, Many: many, Err: err}
	m := waltest.New()
	m.Before = f.Before
	var p promised
	patience := check.Patience
	if many == 1<<30 {
		patience = 300 * time.Millisecond
	}
	sticky = faultRun(m, &p, patience)
	// A disk that stays full is no failure of the journal: it withholds until its caller stops waiting.
	if sticky != nil && !errors.Is(sticky, err) && (many < 1<<30 || !errors.Is(sticky, context.DeadlineExceeded)) {
		t.Errorf("fault at %d (%v): %v", from, f.Hits(), sticky)
	}
	c := crashed{mem: m.Crash(nil, 0), durable: p.mark.Load(), needed: p.mark.Load() - min(p.mark.Load(), 10)}
	if err := c.checkAndGoOn(); err != nil {
		t.Errorf("fault at %d (%v), promised %d: %v", from, f.Hits(), p.mark.Load(), err)
	}
	return f.Hits(), sticky
}

// TestBatchFaultsAreSticky checks that an error in writing or syncing a batch ends the journal.
func TestBatchFaultsAreSticky(t *testing.T) {
	t.Parallel()
	for _, o := range []waltest.Op{waltest.Write, waltest.Sync} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			f := &waltest.Faults{From: 5, Many: 1, Err: cause, Only: o, Where: "/0000"}
			m := waltest.New()
			m.Before = f.Before
			var p promised
			if err := faultRun(m, &p, 10*time.Second); !errors.Is(err, cause) {
				t.Errorf("%s, %v: %v", o, cause, err)
			}
		}
	}
}

// TestDiskFull checks that on a disk without room for another segment the journal withholds, loses nothing, and
// continues when there is space again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, o := range []waltest.Op{waltest.Create, waltest.Allocate, waltest.Write, waltest.Sync} {
		t.Run(string(o), func(t *testing.T) {
			t.Parallel()
			f := &waltest.Faults{Err: syscall.ENOSPC, Only: o, Where: sparePrefix}
			m := waltest.New()
			m.Before = f.Before
			opts := powerOptions(m)
			opts.BufferBytes = 4 << 10
			j, _ := open(t, opts)
			waitDurable(t, j, appendN(t, j, 1, 1))
			for round := range 3 {
				f.Fail(1 << 30)
				n := int(j.Last()) + 1
				for ; ; n++ {
					r := record(n)
					if _, err := j.Append(one(&r), nil); err != nil {
						if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
							t.Fatal(err)
						}
						break
					}
				}
				if s := j.Stat(); s.Full == nil || j.Err() != nil || j.Durable() >= uint64(n-1) {
					t.Fatalf("round %d: %+v, %v", round, s, j.Err())
				}
				f.Fail(0)
				waitDurable(t, j, uint64(n-1))
			}
			last := j.Last()
			closeJournal(t, j)
			c := crashed{mem: m.Crash(nil, 0), durable: last}
			check.OK(t, c.check())
		})
	}
}
