package session

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// fullDisk fails every update while it is on.
type fullDisk struct {
	*statefile.DB
	on atomic.Bool
}

func (d *fullDisk) Update(fn func(*statefile.Tx) error) error {
	if !d.on.Load() {
		return d.DB.Update(fn)
	}
	return d.DB.Update(func(tx *statefile.Tx) error { return errors.Join(fn(tx), syscall.ENOSPC) })
}

// newFullDiskEnv returns an environment whose disk can be made full.
func newFullDiskEnv(t *testing.T) (*env, *fullDisk) {
	t.Helper()
	e := newEnv(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check.OK(t, e.m.Close(ctx))
	disk := &fullDisk{DB: e.db}
	e.o.DB = disk
	var err error
	if e.m, err = Open(e.o); err != nil {
		t.Fatal(err)
	}
	return e, disk
}

// TestFullDisk checks that while the state file cannot be written nothing is promised and connected clients are served,
// and that everything is written when there is space again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, disk := newFullDiskEnv(t)
		c, _ := e.attach("svc", func(a *Attach) { a.ReceiveMaximum = 2 })
		c.subscribe(sub("t", 2))
		disk.on.Store(true)

		suback := false
		other, _ := e.attach("other", volatile)
		other.subscribe(sub("t", 2))
		resumed, _ := e.attach("svc")
		resumed.s.Subscribe([]Subscription{sub("u", 1)}, 0, func([]byte) { suback = true })
		e.say("t", 2, "a")
		if _, _, err := e.tryAttach(t.Context(), "new"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a new session was promised: %v", err)
		}
		synctest.Wait()
		if suback {
			t.Error("SUBACK without a durable subscription")
		}
		other.expect("t=a q2 #1") // it waits for nothing on disk
		resumed.quiet()
		if n := testutil.ToFloat64(e.m.metrics.commitErrors); n < 5 {
			t.Errorf("%v failed commits counted in %v", n, patience)
		}

		disk.on.Store(false)
		time.Sleep(2 * commitRetry)
		synctest.Wait()
		if !suback {
			t.Error("no SUBACK although there is room")
		}
		resumed.expect("t=a q2 #1")
		e.kill()
		if info, _ := e.m.Get("svc"); len(info.Subscriptions) != 2 || info.Queued != 1 {
			t.Errorf("%+v", info)
		}
		e.close()
	})
}

func TestCloseWithAFullDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, disk := newFullDiskEnv(t)
		e.attach("svc")
		disk.on.Store(true)
		e.m.Advance(5)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := e.m.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		e.m = nil
		if err := e.db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSubscribingAgainDoesNotWait blocks the disk: only a changed subscription waits for it.
func TestSubscribingAgainDoesNotWait(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc")
	c.subscribe(sub("t", 1))
	c.detach(false)
	release := hold(t, e.db)
	c, _ = e.attach("svc")
	c.subscribe(sub("t", 1))
	changed := make(chan struct{})
	c.s.Subscribe([]Subscription{sub("t", 2)}, 0, func([]byte) { close(changed) })
	select {
	case <-changed:
		t.Error("SUBACK for a subscription that is not durable")
	default:
	}
	release()
	<-changed
}
