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
	// callPause (for each waiting call of Append) and waiterPause (for each Waiter among them) add up to the pause
	// between the starts of two commits, up to CommitInterval. A Waiter is a connection that is woken to write its
	// acknowledgements.
	callPause   = 4 * time.Microsecond
	waiterPause = 16 * time.Microsecond
	// crowd is the number of waiters from which gathering looks whether more are coming, and the number that must have
	// come since the last look to look again. With fewer, a commit with its wakeups costs less than the wait: at 2,000
	// messages a second a look of a millisecond finds two.
	crowd = 4
	// maxLooks is the maximum number of looks within CommitInterval.
	maxLooks = 4
	// maxMisses bounds the commits made without looking after looks that found no waiter.
	maxMisses = 64
	// idleAfter is how long the journal must be idle before it writes a mark for its last batch.
	idleAfter = 250 * time.Millisecond
)

// errGone means that the synced data is in a file that no start will find.
var errGone = errors.New("the segment was deleted or replaced under the running gateway; restore the journal from a backup if there " +
	"is one: the next start counts what is missing")

var errAborted = errors.New("closed before everything was committed")

// committer is the only goroutine that writes batches. It syncs batch N before it writes batch N+1.
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
	abort   chan struct{} // closed to stop waiting for room
	room    func(lack error)

	// For the committer's goroutine only.
	active   *segment // nil until the first record after Open
	file     wal.File
	off      int64     // offset of the next batch
	opened   time.Time // when the active segment was begun
	started  time.Time // of the last commit
	ended    time.Time // of the last commit
	calls    int       // calls of Append in the last commit
	marked   uint64    // the last mark written
	gather   gathering
	arrivals arrivals
	timer    *time.Timer
}

// run commits until the buffer is closed and empty, or something fails.
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

// next waits for the next batch and returns it, or nil when the mark must be written. closed reports that nothing more
// will come.
func (c *committer) next() (b *batch, closed bool) {
	now := time.Now()
	busy := c.arrivals.every(arrivalPace, now)
	few := busy && !c.arrivals.every(c.interval/maxLooks/crowd, now) // a look would find no crowd
	if busy {
		c.rest(arrivalPace - now.Sub(c.started)) // wakeups are not needed meanwhile
	}
	for {
		calls, waiters, grown, closed := c.buffer.pending(c.calls)
		now := time.Now()
		var wait time.Duration
		switch {
		case calls > 0:
			wait = c.delay(calls, waiters, few, now)
			if grown || closed || wait <= 0 {
				c.gather.end()
				return c.buffer.take(), false
			}
		case closed:
			return nil, true
		case c.active != nil && c.marked < c.durable.Load():
			if wait = idleAfter - now.Sub(c.started); wait <= 0 {
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

func (c *committer) rest(d time.Duration) {
	if d > 0 {
		c.timer.Reset(d)
		<-c.timer.C
	}
}

// delay returns how long the next commit waits for more calls; 0 or less if it does not.
func (c *committer) delay(calls, waiters int, few bool, now time.Time) time.Duration {
	since := now.Sub(c.started)
	wait := c.pause(calls, waiters) - since
	if calls < c.calls {
		wait = max(wait, c.pause(c.calls, 0)-now.Sub(c.ended))
	}
	if wait <= 0 && !few {
		wait = c.gather.more(calls, waiters, since, c.interval)
	}
	return wait
}

// pause returns the least time between the starts of two commits. With few callers a sync costs less than their
// waiting, with many it costs more. It is also how long a commit is delayed, at most, until as many callers have come
// as the last one released: producers that wait for each of their records return together and should share a commit.
func (c *committer) pause(calls, waiters int) time.Duration {
	return min(c.interval, time.Duration(calls)*callPause+time.Duration(waiters)*waiterPause)
}

// gathering delays commits, up to the whole interval, while connections keep coming. Otherwise thousands of connections
// that each send now and then would cause a commit for every few of them. Connections that wait for their
// acknowledgement before they send again do not keep coming, so waiting for them gains nothing. Waiting for only a few
// takes longer than a sync. Both cases are found by looking, which becomes rare after misses.
type gathering struct {
	looking bool
	calls   int           // calls at the last look
	next    time.Duration // time of the next look, since the last commit
	misses  int           // a power of two that grows with consecutive misses
	skip    int           // commits still to be made without looking
}

// more returns how long to wait for more calls before looking again; 0 means commit. since is the time since the last
// commit.
func (g *gathering) more(calls, waiters int, since, interval time.Duration) time.Duration {
	if waiters < crowd || since >= interval || g.skip > 0 {
		return 0
	}
	look := interval / maxLooks
	switch {
	case !g.looking:
		g.looking, g.calls, g.next = true, calls, since+look
	case since >= g.next && calls-g.calls < crowd:
		g.misses = min(max(2*g.misses, 1), maxMisses)
		g.skip = g.misses + 1
		return 0
	case since >= g.next:
		g.misses = 0
		g.calls, g.next = calls, since+look
	}
	return min(g.next, interval) - since
}

// end is called when a commit begins.
func (g *gathering) end() {
	g.looking = false
	g.skip = max(0, g.skip-1)
}

// commit writes and syncs a batch, and moves the durable mark.
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
	c.active.end.Store(c.off) // before the mark: what Durable reports can be read, and step reads no more
	c.durable.Store(mark)
	c.arrivals.note(b.waiters, c.ended)
	c.notify.committed(mark, b.flags, b.waiters)
	c.metrics.batchRecords.Observe(float64(b.count))
	c.metrics.batchBytes.Observe(float64(body))
	c.buffer.release(b, body)
	return nil
}

// aged reports whether the active segment has records and is old enough to be closed.
func (c *committer) aged() bool {
	return c.age > 0 && c.off > wal.SegmentStart && time.Since(c.opened) > c.age
}

// writeMark writes a batch without records that carries the durable mark, so that damage to the last batch with records
// can be told from a torn end.
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

// write appends one batch to the active segment and syncs it. Any error is final: a failed sync must not be repeated,
// because the kernel may have dropped the pages that it could not write.
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

// rotate ends the active segment and begins a new one, whose first batch will be b. It waits as long as there is no
// room.
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
	c.keeper.becameSegment(s)
	c.room(nil)
	return nil
}

func (c *committer) path(index uint64) string { return filepath.Join(c.dir, wal.SegmentName(index)) }

// prepared returns a spare file with the header h written and synced, under its segment name. A full disk counts as
// lack of room; any other error is final.
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
