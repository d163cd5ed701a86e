package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
)

// Journal is an open journal. Its methods are safe for concurrent use.
type Journal struct {
	fs      wal.FS
	dir     string
	log     *slog.Logger
	metrics *Metrics
	onFatal func(error)
	epoch   uint64
	files   holding

	buffer    *buffer
	onStep    func(clock.Step)
	table     *table
	keeper    *keeper
	notify    *notifier
	damage    damageList
	durable   atomic.Uint64
	fatal     atomic.Pointer[error]
	abort     chan struct{} // closed by Close when its context ends first
	committed chan struct{} // closed when the committer has ended
	result    error         // of the committer; read after committed is closed

	closeOnce sync.Once
	closeErr  error
}

// Open opens the journal in o.Dir, or creates one, and recovers it after a crash. It fails only when the file system
// does, when another process has the journal open (wal.ErrLocked), or when a later version of the program wrote it
// (ErrVersion). Damage is reported in Recovery and in the log, and the rest is kept.
//
// Recovered records are durable before Open returns.
func Open(o Options) (*Journal, Recovery, error) {
	began := time.Now()
	if err := o.check(); err != nil {
		return nil, Recovery{}, err
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, Recovery{}, fmt.Errorf("journal directory: %w", err)
	}
	lock, err := o.FS.Lock(filepath.Join(o.Dir, lockName))
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("journal %s: %w", o.Dir, err)
	}
	held, err := o.FS.OpenDir(o.Dir)
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("journal %s: %w", o.Dir, errors.Join(err, lock.Close()))
	}
	files := holding{lock, held}
	r := recovery{fs: o.FS, dir: o.Dir, knownEpoch: o.KnownEpoch, knownLast: o.KnownLast}
	if err = r.run(); err == nil && r.out.Epoch == 0 {
		wall, _ := o.Clock()
		r.out.Epoch, err = newEpoch(wall, o.Random)
	}
	if err != nil {
		return nil, r.out, fmt.Errorf("journal %s: %w", o.Dir, errors.Join(err, files.close()))
	}
	j, err := start(&o, &r, files)
	if err != nil {
		return nil, r.out, fmt.Errorf("journal %s: %w", o.Dir, errors.Join(err, files.close()))
	}
	r.out.Took = time.Since(began)
	j.report(&r.out)
	return j, r.out, nil
}

// holding has the journal directory's lock and the open directory.
type holding struct {
	lock io.Closer
	dir  wal.Dir
}

func (h holding) close() error { return errors.Join(h.dir.Close(), h.lock.Close()) }

// start assembles the parts and starts their goroutines.
func start(o *Options, r *recovery, files holding) (*Journal, error) {
	j := &Journal{
		fs: o.FS, dir: o.Dir, log: o.Log, metrics: o.Metrics, onFatal: o.OnFatal, epoch: r.out.Epoch, files: files,
		buffer: newBuffer(o, r.out.Last, r.lastTime), onStep: o.OnStep, table: &r.table, notify: newNotifier(r.out.Last),
		abort: make(chan struct{}), committed: make(chan struct{}),
	}
	j.durable.Store(r.out.Last)
	j.keeper = newKeeper(o, files.dir, j.table, j.epoch)
	if err := j.keeper.adopt(); err != nil {
		return nil, err
	}
	c := &committer{
		fs: o.FS, held: files.dir, dir: o.Dir, epoch: j.epoch, random: o.Random, interval: o.CommitInterval, age: o.SegmentAge,
		metrics: o.Metrics, buffer: j.buffer, table: j.table, keeper: j.keeper, notify: j.notify,
		durable: &j.durable, abort: j.abort, room: j.setRoom,
	}
	o.Metrics.oldestOf(func() int64 { return j.table.oldest(j.durable.Load()) })
	go j.keeper.run()
	go j.notify.run()
	go func() {
		defer close(j.committed)
		if j.result = c.run(); j.result != nil && !errors.Is(j.result, errAborted) {
			j.fail(j.result)
		}
	}()
	return j, nil
}

func (j *Journal) report(r *Recovery) {
	for _, c := range r.Corruptions {
		j.corrupt(c)
	}
	j.log.Info("journal: open", slog.String("dir", j.dir), slog.Uint64("first", r.First), slog.Uint64("last", r.Last),
		slog.Int("segments", r.Segments), slog.Int64("torn_bytes", r.TornBytes), slog.Int("corruptions", len(r.Corruptions)),
		slog.Bool("created", r.Created), slog.Duration("took", r.Took))
}

// corrupt reports a corruption, each only once.
func (j *Journal) corrupt(c wal.Corruption) {
	if j.damage.add(c) {
		j.metrics.corruptions.Inc()
		j.log.Error("journal: corruption", slog.String("file", c.File), slog.Int64("offset", c.Offset), slog.Int64("length", c.Length),
			slog.Uint64("first_lost", c.First), slog.Uint64("last_lost", c.Last), slog.String("reason", c.Reason))
	}
}

// fail makes err the journal's sticky error.
func (j *Journal) fail(err error) {
	err = fmt.Errorf("journal failed: %w", err)
	if !j.fatal.CompareAndSwap(nil, &err) {
		return
	}
	j.log.Error("journal: failed; no more messages are acknowledged", slog.Any("err", err))
	j.buffer.close(err)
	j.notify.end(err)
	if j.onFatal != nil {
		go j.onFatal(err)
	}
}

// setRoom is called by the committer with the reason why there is no room, and with nil when there is again.
func (j *Journal) setRoom(lack error) {
	if !j.buffer.setFull(lack) {
		return
	}
	if lack != nil {
		j.metrics.full.Set(1)
		j.log.Error("journal: disk full; acknowledgements wait for space", slog.Any("reason", lack))
		return
	}
	j.metrics.full.Set(0)
	j.log.Info("journal: space available again; acknowledgements continue")
}

// Epoch identifies this journal among all that the node ever had. It is chosen when the directory is created and is
// part of every message's identity.
func (j *Journal) Epoch() uint64 { return j.epoch }

// Append appends recs, all or none, and sets their Seq and ReceivedAt. It copies everything that they refer to before
// it returns. It does not wait for the disk: the records are durable once Durable has reached last. w, unless nil, is
// notified then.
//
// When the wall clock has stepped, a KindClockStep record goes before them.
//
// It blocks while the buffer of uncommitted records is full. Errors: ErrFull, ErrTooLarge, ErrClosed, or the sticky
// error; after any of them nothing was appended. It does not allocate in steady state.
func (j *Journal) Append(recs []message.Record, w Waiter) (last uint64, err error) {
	last, step, err := j.buffer.append(recs, w)
	if step != (clock.Step{}) {
		j.stepped(step)
	}
	return last, err
}

// LookAtClock records a step of the wall clock even if no record comes. Call it each second: what NTP slews between two
// calls must stay far below a step. It does not block.
func (j *Journal) LookAtClock() {
	if step := j.buffer.look(); step != (clock.Step{}) {
		j.stepped(step)
	}
}

func (j *Journal) stepped(s clock.Step) {
	direction := "forward"
	if s.By() < 0 {
		direction = "back"
	}
	j.metrics.steps.WithLabelValues(direction).Inc()
	j.log.Warn("journal: the wall clock has stepped", slog.Duration("by", s.By()),
		slog.Time("from", time.UnixMilli(s.From).UTC()), slog.Time("to", time.UnixMilli(s.To).UTC()))
	j.onStep(s)
}

// Durable returns the highest sequence that is on disk together with all before it; 0 means none.
func (j *Journal) Durable() uint64 { return j.durable.Load() }

// Last returns the highest sequence appended; 0 means none.
func (j *Journal) Last() uint64 { return j.buffer.lastAppended() }

// Appended returns Last, and how many of the records up to it were appended as PUBLISH since Open.
func (j *Journal) Appended() (last, messages uint64) { return j.buffer.appended() }

// First returns the lowest sequence that is kept, or would be; it starts at 1.
func (j *Journal) First() uint64 { return j.table.first(j.durable.Load()) }

// WaitDurable returns nil once seq is durable. It returns the sticky error or ErrClosed if seq never will be, and ctx's
// error if that ends first.
func (j *Journal) WaitDurable(ctx context.Context, seq uint64) error {
	if j.durable.Load() >= seq {
		return nil
	}
	return j.notify.wait(ctx, seq)
}

// WaitRoom returns nil once Append would neither block nor return ErrFull. Its errors are those of WaitDurable.
func (j *Journal) WaitRoom(ctx context.Context) error { return j.buffer.waitRoom(ctx) }

// Retain sets that the consumer name still needs the records from seq on. Records below the minimum of all consumers
// may be recycled at any time, a whole segment at once. Nothing is recycled before the first call, so every consumer
// must call Retain before the first one advances. It is not durable: consumers store their own cursors.
func (j *Journal) Retain(name string, seq uint64) {
	if j.table.retain(name, seq) {
		j.keeper.kick()
	}
}

// Missing reports a loss if a consumer needs the records from seq on and the journal no longer has the first of them. The
// journal itself cannot know that its oldest segments were not recycled.
func (j *Journal) Missing(seq uint64) {
	if first := j.First(); seq < first {
		j.corrupt(wal.Corruption{File: j.table.oldestName(), First: seq, Last: first - 1, Reason: "the segment before this one is missing, and was needed"})
	}
}

// Forget removes a consumer that Retain named.
func (j *Journal) Forget(name string) {
	if j.table.forget(name) {
		j.keeper.kick()
	}
}

// Limits bound the journal's files: see Options.
type Limits struct {
	MaxBytes     int64
	ReserveBytes int64
	// Disk means that MaxBytes follows from the disk, which has less room than was configured.
	Disk bool
}

// SetLimits changes the limits for new segments; existing ones stay.
func (j *Journal) SetLimits(l Limits) {
	bound, reserve, disk := j.keeper.maxBytes.Swap(l.MaxBytes), j.keeper.reserve.Swap(l.ReserveBytes), j.keeper.byDisk.Swap(l.Disk)
	if bound != l.MaxBytes || reserve != l.ReserveBytes || disk != l.Disk {
		j.keeper.kick()
	}
}

// Err returns the sticky error, or nil.
func (j *Journal) Err() error {
	if err := j.fatal.Load(); err != nil {
		return *err
	}
	return nil
}

// closeWithoutRoom is how long Close waits for room: its consumers have ended, and nothing frees any.
const closeWithoutRoom = 500 * time.Millisecond

// Close commits what was appended, notifies the waiters, and closes the files. If ctx ends first, or the journal has no
// room, Close discards uncommitted records, which were never acknowledged, and returns why. Readers and waits end with
// ErrClosed. A second call returns the result of the first.
func (j *Journal) Close(ctx context.Context) error {
	j.closeOnce.Do(func() { j.closeErr = j.close(ctx) })
	return j.closeErr
}

func (j *Journal) close(ctx context.Context) error {
	j.buffer.close(ErrClosed)
	why := j.finish(ctx)
	err := j.result
	if errors.Is(err, errAborted) {
		err = errors.Join(why, err)
	}
	j.notify.end(ErrClosed)
	<-j.notify.done
	err = errors.Join(err, j.keeper.close(), j.files.close())
	if err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// finish waits until the committer has ended, and ends it when ctx does or there is no room. It then returns why.
func (j *Journal) finish(ctx context.Context) error {
	look := time.NewTicker(closeWithoutRoom)
	defer look.Stop()
	var why error
	for why == nil {
		select {
		case <-j.committed:
			return nil
		case <-ctx.Done():
			why = ctx.Err()
		case <-look.C:
			_, why = j.buffer.state()
		}
	}
	close(j.abort)
	<-j.committed
	return why
}

// Stat is the state of a journal at one time.
type Stat struct {
	Epoch    uint64
	First    uint64
	Last     uint64
	Durable  uint64
	Segments int
	// Bytes is the size of all files. Unused is the part of it that can still be written: the rest of the active
	// segment, and spare files. MaxBytes is the bound of Bytes. Room is Unused plus what the bound and the disk (less
	// its reserve) still allow.
	Bytes    int64
	Unused   int64
	MaxBytes int64
	Room     int64
	// Oldest is the time of the oldest record kept; zero if there is none.
	Oldest time.Time
	// Full wraps ErrFull while there is no room.
	Full error
	// Needed is the lowest sequence that each consumer still needs.
	Needed map[string]uint64
	// Corruptions are those found since Open, the first 1,000.
	Corruptions []wal.Corruption
}

// Stat returns the journal's state.
func (j *Journal) Stat() Stat {
	last, full := j.buffer.state()
	s := Stat{
		Epoch: j.epoch, First: j.First(), Last: last, Durable: j.Durable(), Segments: j.table.len(),
		Bytes: j.keeper.total(), MaxBytes: j.keeper.maxBytes.Load(), Full: full,
		Needed: j.table.consumers(), Corruptions: j.damage.all(),
	}
	s.Room = max(s.MaxBytes-s.Bytes, 0)
	if free, err := j.fs.Free(j.dir); err == nil {
		s.Room = min(s.Room, max(free-max(j.keeper.reserve.Load(), 0), 0))
	}
	s.Unused = j.keeper.spareBytes()
	if t := j.table.tail(); t != nil {
		if !j.table.isSealed(t) {
			s.Unused += t.size - t.end.Load()
		}
	}
	s.Room += s.Unused
	if at := j.table.oldest(s.Durable); at != 0 {
		s.Oldest = time.UnixMilli(at)
	}
	return s
}

// maxDamage bounds the corruptions kept in memory; the log and the counter have all of them.
const maxDamage = 1000

// damageList records corruptions, each once however many readers find it.
type damageList struct {
	mu   sync.Mutex
	list []wal.Corruption
}

func (d *damageList) add(c wal.Corruption) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := func(o wal.Corruption) bool { return o.File == c.File && o.Offset == c.Offset && o.Length == c.Length }
	if len(d.list) >= maxDamage {
		return !slices.ContainsFunc(d.list, same)
	}
	if slices.ContainsFunc(d.list, same) {
		return false
	}
	d.list = append(d.list, c)
	return true
}

func (d *damageList) all() []wal.Corruption {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}
