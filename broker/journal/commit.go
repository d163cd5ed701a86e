package journal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"time"

	"cellgate/broker/wal"
)

const (
	// callPause and waiterPause add up, for each call of Append that waits and for each Waiter among
	// them, to the pause between the starts of two commits, up to CommitInterval. A Waiter is a
	// connection that will be woken to write its acknowledgements.
	callPause   = 4 * time.Microsecond
	waiterPause = 16 * time.Microsecond
	// crowd is how many waiters make it worthwhile to look whether more are coming, and how many must have come
	// since the last look to look again: with as many, a commit and the wakeups around it cost more than their
	// share of one. At 2,000 messages a second a look of a millisecond finds two.
	crowd = 4
	// maxLooks is how often at most it is looked within CommitInterval.
	maxLooks = 4
	// maxFutile bounds how many commits are made without looking after looks were in vain.
	maxFutile = 64
	// idleAfter is how long the journal rests before it writes down that its last batch is durable.
	idleAfter = 250 * time.Millisecond
)

// errGone says that what was synced is on a disk where no start finds it.
var errGone = errors.New("the segment was deleted or replaced under the running gateway; put the journal back from a copy if there " +
	"is one: the next start counts what is missing")

var errAborted = errors.New("closed before everything was committed")

// committer is the one goroutine that writes batches: batch N is synced before batch N+1 is written.
type committer struct {
	fs       wal.FS
	held     wal.Dir // dir
	dir      string
	epoch    uint64
	random   io.Reader
	interval time.Duration
	age      time.Duration
	metrics  *Metrics

	buffer  *buffer
	table   *table
	keeper  *keeper
	notify  *notifier
	durable *atomic.Uint64
	abort   chan struct{} // closed to give up waiting for room
	room    func(lack error)

	// The goroutine's own.
	active  *segment // nil until the first record after Open
	file    wal.File
	off     int64     // where the next batch goes
	opened  time.Time // of the active segment
	started time.Time // of the last commit
	ended   time.Time // of the last commit
	calls   int       // of Append in the last commit
	marked  uint64    // the mark last written
	gather  gathering
	company company
	timer   *time.Timer
}

// run commits until the buffer is closed and empty, or until something fails.
func (c *committer) run() error {
	c.timer = time.NewTimer(time.Hour)
	defer c.timer.Stop()
	for {
		b, closed := c.next()
		var err error
		switch {
		case b != nil:
			err = c.commit(b)
		default:
			err = c.writeMark()
		}
		if err == nil && !closed {
			continue
		}
		if c.file != nil {
			err = errors.Join(err, c.file.Close())
		}
		return err
	}
}

// next waits for the next batch and returns it; nil when it is time to write the mark down. closed says
// that there is nothing left to come.
func (c *committer) next() (b *batch, closed bool) {
	now := time.Now()
	company := c.company.every(companyPace, now)
	few := company && !c.company.every(c.interval/maxLooks/crowd, now) // a look would find no crowd
	if company {
		c.rest(companyPace - now.Sub(c.started)) // nobody need wake the committer meanwhile
	}
	for {
		calls, waiters, grown, closed := c.buffer.pending(c.calls)
		now := time.Now()
		since := now.Sub(c.started)
		var wait time.Duration
		switch {
		case calls > 0:
			wait = c.pause(calls, waiters) - since
			if calls < c.calls {
				wait = max(wait, c.pause(c.calls, 0)-now.Sub(c.ended))
			}
			if wait <= 0 && !few {
				wait = c.gather.more(calls, waiters, since, c.interval)
			}
			if grown || closed || wait <= 0 {
				c.gather.end()
				return c.buffer.take(), false
			}
		case closed:
			return nil, true
		case c.active != nil && c.marked < c.durable.Load():
			if wait = idleAfter - since; wait <= 0 {
				return nil, false
			}
		default:
			wait = time.Hour
		}
		c.timer.Reset(wait)
		select {
		case <-c.buffer.wake:
		case <-c.timer.C:
		}
	}
}

// rest waits for d.
func (c *committer) rest(d time.Duration) {
	if d > 0 {
		c.timer.Reset(d)
		<-c.timer.C
	}
}

// pause is the least time between the starts of two commits. With few callers a sync costs less than
// their waiting, with many it is the other way round. It is also the longest time for which a commit is
// put off until as many callers have come as the last one has let go: producers that wait for each of
// their records come back together, and should not be split over two commits.
func (c *committer) pause(calls, waiters int) time.Duration {
	return min(c.interval, time.Duration(calls)*callPause+time.Duration(waiters)*waiterPause)
}

// gathering puts commits off while connections keep coming, up to the whole interval: thousands that each send
// now and then would otherwise have a commit for every few of them. Connections that wait for their
// acknowledgement before they send again do not keep coming, and it is in vain to wait for them; that is
// found out by looking, seldom. So are a few that come, for which the others would wait longer than a sync takes.
type gathering struct {
	looking bool
	calls   int           // when it last looked
	next    time.Duration // since the last commit: when it looks again
	futile  int           // looks in vain, one after the other, as a power of two
	skip    int           // commits that are still to be made without looking
}

// more is how long to wait for more calls before looking again; 0 commits. since is the time since the last commit.
func (g *gathering) more(calls, waiters int, since, interval time.Duration) time.Duration {
	if waiters < crowd || since >= interval || g.skip > 0 {
		return 0
	}
	look := interval / maxLooks
	switch {
	case !g.looking:
		g.looking, g.calls, g.next = true, calls, since+look
	case since >= g.next && calls-g.calls < crowd:
		g.futile = min(max(2*g.futile, 1), maxFutile)
		g.skip = g.futile + 1
		return 0
	case since >= g.next:
		g.futile = 0
		g.calls, g.next = calls, since+look
	}
	return min(g.next, interval) - since
}

// end is called when a commit begins.
func (g *gathering) end() {
	g.looking = false
	g.skip = max(0, g.skip-1)
}

// commit writes a batch, syncs it, and lets the world know.
func (c *committer) commit(b *batch) error {
	c.started = time.Now()
	body := b.body()
	if c.active == nil || c.off+wal.BatchSize(int64(body)) > c.active.size || c.aged() {
		if err := c.rotate(b); err != nil {
			return err
		}
	}
	if err := c.write(b.seal(c.durable.Load(), c.active.salt)); err != nil {
		return err
	}
	c.calls, c.ended = b.calls, time.Now()
	mark := b.first + uint64(b.count) - 1
	c.durable.Store(mark)
	c.active.end.Store(c.off)
	c.company.note(b.waiters, c.ended)
	c.notify.committed(mark, b.flags, b.waiters)
	c.metrics.batchRecords.Observe(float64(b.count))
	c.metrics.batchBytes.Observe(float64(body))
	c.buffer.release(b, body)
	return nil
}

// aged says that the active segment holds records and is old enough to be closed.
func (c *committer) aged() bool {
	return c.age > 0 && c.off > wal.SegmentStart && time.Since(c.opened) > c.age
}

// writeMark writes a batch without records that carries the durable mark, so that damage to the last
// batch with records is told from a torn end.
func (c *committer) writeMark() error {
	mark := c.durable.Load()
	if c.active == nil || c.marked >= mark || c.off+wal.BatchSize(0) > c.active.size {
		c.marked = mark
		return nil
	}
	var b batch
	b.reset(mark+1, c.active.time)
	if err := c.write(b.seal(mark, c.active.salt)); err != nil {
		return err
	}
	c.active.end.Store(c.off)
	c.marked = mark
	return nil
}

// write puts one batch at the end of the active segment and syncs it. Any error is final: a failed sync
// must not be tried again, because the kernel may have dropped the pages that it could not write.
func (c *committer) write(b []byte) error {
	if _, err := c.file.WriteAt(b, c.off); err != nil {
		return fmt.Errorf("write %d bytes at offset %d of %s: %w", len(b), c.off, c.active.name, err)
	}
	began := time.Now()
	if err := c.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", c.active.name, err)
	}
	if !c.file.InPlace(c.active.name) {
		return fmt.Errorf("%s: %w", c.active.name, errGone)
	}
	c.metrics.fsync.Observe(time.Since(began).Seconds())
	c.off += int64(len(b))
	return nil
}

// rotate ends the active segment and begins a new one, whose first batch will be b. It waits for room as
// long as it takes.
func (c *committer) rotate(b *batch) error {
	prev := c.table.tail()
	h := wal.Header{State: wal.StateUsed, Epoch: c.epoch, Index: 1, Base: b.first, Time: b.time}
	if prev != nil {
		h.Index = prev.index + 1
		if !prev.damaged {
			h.PrevIndex, h.PrevEnd = prev.index, prev.end.Load()
		}
	}
	s, err := c.prepared(&h)
	if err != nil {
		return err
	}
	seg := &segment{index: h.Index, base: h.Base, salt: h.Salt, time: h.Time, size: s.size, name: c.path(h.Index)}
	seg.end.Store(wal.SegmentStart)
	if err := c.held.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync the journal directory: %w", err), s.file.Close())
	}
	c.table.seal(prev, b.first-1, seg)
	if c.file != nil {
		if err := c.file.Close(); err != nil {
			return fmt.Errorf("close segment: %w", err)
		}
	}
	c.active, c.file, c.off, c.opened = seg, s.file, wal.SegmentStart, time.Now()
	c.keeper.settled(s)
	c.room(nil)
	return nil
}

func (c *committer) path(index uint64) string { return filepath.Join(c.dir, wal.SegmentName(index)) }

// prepared returns a spare file with h written and synced, under its new name. A disk that is full only
// now is lack of room like any other; any other error is final.
func (c *committer) prepared(h *wal.Header) (*spare, error) {
	for {
		s, err := c.spare()
		if err != nil {
			return nil, err
		}
		h.Size = s.size
		if h.Salt, err = newSalt(c.random, s.salt); err != nil {
			return nil, err
		}
		if err = writeHeader(s.file, h); err == nil {
			if err = c.fs.Rename(s.name, c.path(h.Index)); err == nil {
				return s, nil
			}
			err = fmt.Errorf("begin segment: %w", err)
		}
		if !wal.IsNoSpace(err) {
			return nil, errors.Join(err, s.file.Close())
		}
		c.keeper.discard(s, err)
	}
}

// spare waits for a spare file.
func (c *committer) spare() (*spare, error) {
	kicked := false
	for {
		s, lack := c.keeper.pop()
		if s != nil {
			return s, nil
		}
		if lack != nil {
			c.room(lack)
		}
		if !kicked {
			c.keeper.kick()
			kicked = true
		}
		select {
		case <-c.keeper.changed:
		case <-c.abort:
			return nil, errAborted
		}
	}
}
