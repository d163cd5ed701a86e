package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/rules/engine"
	"cellgate/rules/state"
)

// The bucket "dispatch". Only checkpoints write it, each in one transaction, except for sources, announced, applied and
// applying.
var (
	bucketDispatch = []byte("dispatch")

	bucketSinks   = []byte("sinks")   // by name: sinkState
	bucketSources = []byte("sources") // by hash: rule sets
	keyEvaluated  = []byte("evaluated")
	keyEpoch      = []byte("epoch")     // of the journal that the sequences belong to
	keyTable      = []byte("table")     // []setEntry
	keyAhead      = []byte("ahead")     // what is not evaluated
	keyOperators  = []byte("operators") // operatorRange, as of E
	keyRemoved    = []byte("removed")   // operators without rules, as of E
	keyLimits     = []byte("limits")    // engine.StoredLimits, as of E
	keyAnnounced  = []byte("announced")
	keyApplied    = []byte("applied")
	keyApplying   = []byte("applying") // a hash that may be in the journal after that of applied
)

// sinkState is a sink's part of a checkpoint. Received, Filtered and records lost before evaluation are as of E, the
// other counts as of Cursor; the decisions in between are in the decision log from LogStart to LogEnd.
type sinkState struct {
	Counts   counts       `json:"counts"`
	Cursor   uint64       `json:"cursor"`
	LogStart wal.Position `json:"log_start"`
	LogEnd   wal.Position `json:"log_end"`
	// Parked records are before Cursor and pending: their messages are in the logs of parked destinations.
	Parked uint64 `json:"parked,omitempty"`
}

// logged returns the number of pending records in the decision log.
func (s *sinkState) logged() uint64 { return s.Counts.unsettled() - s.Parked }

// snapshot is the state at one boundary.
type snapshot struct {
	evaluated   uint64
	table       []setEntry
	entered     []string // hashes of rule sets
	sinks       []sinkState
	operators   operatorState
	removed     []byte // state.State.AppendRemoved
	version     uint64 // of removed
	ahead       ahead
	limits      engine.StoredLimits
	parkedStore parkedSnapshot
}

// equal reports whether a checkpoint would write the same as the last one: an idle gateway does not write.
func (s *snapshot) equal(last *snapshot) bool {
	return last != nil && s.evaluated == last.evaluated && s.version == last.version && slices.Equal(s.table, last.table) &&
		slices.EqualFunc(s.sinks, last.sinks, func(a, b sinkState) bool {
			return a.Cursor == b.Cursor && a.LogStart == b.LogStart && a.LogEnd == b.LogEnd
		}) && s.parkedStore.equal(&last.parkedStore)
}

// firstCheckpoint is when the first checkpoint is due. The delay doubles until the interval is reached: otherwise a
// gateway that is repeatedly killed soon after its start would deliver the same messages each time and make no
// progress.
const firstCheckpoint = 50 * time.Millisecond

// checkpoints writes checkpoints until ctx ends.
func (d *Dispatcher) checkpoints(ctx context.Context) {
	failing := false
	for wait := firstCheckpoint; ; wait *= 2 {
		wait = min(wait, d.o.CheckpointInterval)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		err := d.Checkpoint()
		if err != nil {
			d.o.Log.Error("checkpoint failed, trying again", "err", err)
			d.setHealth(err)
		} else if failing {
			d.setHealth(nil)
		}
		failing = err != nil
	}
}

// Checkpoint makes progress durable: after a crash, only unsettled records before it are repeated.
func (d *Dispatcher) Checkpoint() error {
	d.saveMu.Lock()
	defer d.saveMu.Unlock()
	if d.unstored != nil { // first what the last one captured and could not store
		if err := d.save(d.unstored); err != nil {
			return err
		}
	}
	d.takeEarly()
	s, err := d.capture()
	if err != nil || s == nil || (len(s.operators.blocks) == 0 && s.equal(d.last)) {
		return err
	}
	return d.save(s)
}

// save stores a snapshot. If it fails, the snapshot is kept and stored before anything else.
func (d *Dispatcher) save(s *snapshot) error {
	began := time.Now()
	d.unstored = s
	for _, p := range d.pipelines {
		if err := p.dlog.Sync(); err != nil {
			return d.saveFailed(p.dlog, err)
		}
	}
	for _, t := range s.parkedStore.dests {
		if err := t.dlog.Sync(); err != nil {
			return d.saveFailed(t.dlog, err)
		}
	}
	operators, err := d.operators.save(&s.operators, s.evaluated)
	if err != nil {
		return d.saveFailed(d.operators.log, err)
	}
	if err := d.store(s, operators); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	d.sets.stored(len(s.entered))
	d.last, d.unstored = s, nil
	if err := d.operators.stored(operators); err != nil {
		d.o.Log.Warn("operator log not trimmed", "err", err)
	}
	d.release(s)
	d.o.Metrics.checkpoint.Observe(time.Since(began).Seconds())
	return nil
}

// saveFailed returns the error of a log that was not made durable. A failed fsync is fatal.
func (d *Dispatcher) saveFailed(l *wal.Log, err error) error {
	if l.Failed() {
		d.fail(err)
	}
	return err
}

// capture copies the state at a boundary and ensures that every decision between a sink's cursor and E is in its log.
// It returns nil if there are no boundaries any more.
func (d *Dispatcher) capture() (*snapshot, error) {
	d.evalMu.Lock()
	defer d.evalMu.Unlock()
	if d.torn {
		return nil, nil
	}
	for _, p := range d.pipelines {
		if err := p.logMem(); err != nil {
			return nil, err
		}
	}
	s := &snapshot{evaluated: d.evaluated, sinks: make([]sinkState, len(d.pipelines))}
	for i, p := range d.pipelines {
		// The log's end is taken here: what the evaluator appends later is after E.
		s.sinks[i].LogStart, s.sinks[i].LogEnd = p.dlog.Start(), p.dlog.End()
	}
	s.table, s.entered = d.sets.snapshot()
	d.captureSinks(s)
	s.limits = d.limits.Store()
	s.operators, s.ahead = d.operators.take(d.state), d.aheadOf()
	_, s.version = d.state.Removed()
	if d.last == nil || d.last.version != s.version {
		s.removed = d.state.AppendRemoved([]byte{})
	}
	return s, nil
}

func (p *pipeline) capture(s *sinkState, alarm func(msg string, args ...any), notes map[string][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked.store(p.name, notes)
	l := p.now.ledger(p.name, p.receivedLocked(), p.pendingLocked())
	if !l.Balanced {
		alarm("ledger does not balance", "sink", p.name, "ledger", l)
	}
	s.Counts, s.Cursor, s.Parked = p.settled.clone(), p.cursorLocked(), p.parked.records
	s.Counts.Received, s.Counts.Filtered = p.now.Received, p.now.Filtered
}

func (d *Dispatcher) store(s *snapshot, operators operatorRange) error {
	return d.o.DB.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketDispatch)
		sinks := b.Bucket(bucketSinks)
		for i, p := range d.pipelines {
			if err := putJSON(sinks, []byte(p.name), s.sinks[i]); err != nil {
				return err
			}
		}
		if s.removed != nil {
			if err := b.Put(keyRemoved, s.removed); err != nil {
				return err
			}
		}
		return errors.Join(
			s.parkedStore.store(b),
			putUint(b, keyEvaluated, s.evaluated),
			putUint(b, keyEpoch, d.o.Journal.Epoch()),
			putJSON(b, keyOperators, operators),
			putJSON(b, keyAhead, s.ahead),
			putJSON(b, keyLimits, s.limits),
			d.sets.save(b, s.table, s.entered, string(b.Get(keyApplied))),
		)
	})
}

// release removes what the stored checkpoint no longer needs.
func (d *Dispatcher) release(s *snapshot) {
	low := s.evaluated
	for i, p := range d.pipelines {
		c := s.sinks[i].Cursor
		low = min(low, c)
		p.mu.Lock()
		keep := s.sinks[i].LogEnd // the checkpoint names this segment
		if p.mode == logging && p.readPos.Segment < keep.Segment {
			keep = p.readPos
		}
		p.mu.Unlock()
		if err := p.dlog.Trim(c, keep); err != nil {
			d.o.Log.Warn("decision log not trimmed", "sink", p.name, "err", err)
		}
		d.ageOut(p, c)
	}
	d.env.parkedStore.release(&s.parkedStore)
	d.sets.forget(low, d.env.parkedStore.lowestSet())
	d.o.Journal.Retain("rules", low+1)
}

// ageOut moves an AgeOut sink's floor if the sink holds back too much of the journal.
func (d *Dispatcher) ageOut(p *pipeline, cursor uint64) {
	if p.policy != AgeOut {
		return
	}
	st := d.o.Journal.Stat()
	if st.Last < st.First || st.Last <= cursor {
		return
	}
	perRecord := float64(st.Bytes) / float64(st.Last-st.First+1)
	// The journal's bound shrinks with the free disk space.
	allowed := uint64(float64(min(p.ageOutBytes, st.MaxBytes/4)) / max(perRecord, 1))
	if held := st.Last - cursor; held > allowed {
		floor := st.Last - allowed
		p.window.floor.Store(floor)
		p.log.Warn("sink holds too much of the journal; its oldest records are dropped",
			"up_to", floor, "held", held)
		p.signal()
	}
}

// JournalKnown returns the journal's epoch and a sequence that it had reached, from the last checkpoint in db; zeros
// without a checkpoint. It is called before the journal is opened, which may have lost its end.
func JournalKnown(db *statefile.DB) (epoch, last uint64, err error) {
	err = db.View(func(tx *statefile.Tx) error {
		if b := tx.Bucket(bucketDispatch); b != nil {
			epoch, last = getUint(b, keyEpoch), getUint(b, keyEvaluated)
		}
		return nil
	})
	return epoch, last, err
}

// restore reads the last checkpoint, or creates the buckets for the first one.
func (d *Dispatcher) restore() error {
	states := make([]sinkState, len(d.pipelines))
	var epoch uint64
	var operators operatorRange
	var removed []byte
	var known ahead
	var parked parkedStates
	var limits engine.StoredLimits
	err := d.o.DB.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketDispatch)
		if err != nil {
			return err
		}
		for _, name := range [][]byte{bucketSinks, bucketSources, bucketJoined} {
			if _, err := b.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		d.evaluated, epoch = getUint(b, keyEvaluated), getUint(b, keyEpoch)
		d.applied, d.unsure = string(b.Get(keyApplied)), b.Get(keyApplying) != nil
		for i, p := range d.pipelines {
			if err := d.restoreSink(b, p.name, &states[i]); err != nil {
				return err
			}
		}
		removed = slices.Clone(b.Get(keyRemoved))
		return errors.Join(d.sets.load(b), getJSON(b, keyLimits, &limits), getJSON(b, keyOperators, &operators), getJSON(b, keyAhead, &known), parked.load(b))
	})
	if err != nil {
		return fmt.Errorf("dispatch state: %w", err)
	}
	if err := d.state.LoadRemoved(removed); err != nil {
		d.o.Log.Error("removal times of rules cannot be read; their operator state is kept for a day from now", "err", err)
	}
	if err := d.openOperators(operators); err != nil {
		return err
	}
	d.vins.Store(int64(d.state.VINs()))
	foreign := epoch != d.o.Journal.Epoch()
	d.limits.Load(&limits, foreign)
	if foreign { // or there is no checkpoint: records removed from this journal were never received by this account
		d.evaluated = d.o.Journal.First() - 1
	}
	for i, p := range d.pipelines {
		if foreign {
			states[i].orphan(d.evaluated, known.Messages)
		}
		if err := p.restore(d, states[i]); err != nil {
			return err
		}
	}
	if foreign {
		parked.orphan()
	}
	if err := d.env.parkedStore.restore(&parked); err != nil {
		return err
	}
	for i, p := range d.pipelines {
		if found, told := p.parked.records, states[i].Parked; found != told {
			return fmt.Errorf("%w: %s has %d parked records of %s, the checkpoint tells of %d", wal.ErrDamaged, d.env.parkedStore.dir, found, p.name, told)
		}
	}
	if foreign && epoch != 0 {
		d.o.Log.Error("the journal is not the one of the last checkpoint; its pending records are lost",
			"was", epoch, "is", d.o.Journal.Epoch())
		d.applied = ""
		if err := d.Checkpoint(); err != nil {
			return err
		}
	}
	if foreign {
		known = ahead{}
	}
	if err := d.resume(); err != nil {
		return err
	}
	return d.countAhead(known)
}

// restoreSink reads a sink's state. A new sink begins at E: records evaluated before the sink existed are not counted.
func (d *Dispatcher) restoreSink(b *statefile.Bucket, name string, s *sinkState) error {
	s.Cursor = d.evaluated
	return getJSON(b.Bucket(bucketSinks), []byte(name), s)
}

// openOperators opens the operator log. Damage does not prevent the start, because no message is lost by it: the
// operators continue with what could be read and forget the rest.
func (d *Dispatcher) openOperators(r operatorRange) (err error) {
	d.state.SetShift(r.Shift)
	d.state.SetListening(r.Listening)
	d.operators, err = openOperatorLog(d.o.FS, d.o.OperatorDir, r, d.o.SegmentBytes, d.state)
	if !errors.Is(err, wal.ErrDamaged) {
		return err
	}
	d.o.Log.Error("operator state of vehicles is damaged; what cannot be read is lost, so thresholds, "+
		"dedupe, sample and the like may let a message pass once more", "err", err, "vins_read", d.state.VINs())
	d.o.Metrics.operatorsLost.Inc()
	if d.operators, err = openOperatorLog(d.o.FS, d.o.OperatorDir, operatorRange{}, d.o.SegmentBytes, d.state); err != nil {
		return err
	}
	for i := range state.Shards {
		d.state.MarkChanged(i)
	}
	return nil
}

// resume positions the evaluator at the checkpoint.
func (d *Dispatcher) resume() error {
	j := d.o.Journal
	if last := j.Last(); d.evaluated > last {
		return fmt.Errorf("dispatch stands at record %d, the journal ends at %d: it is not the journal that "+
			"the state belongs to, or it has lost its end", d.evaluated, last)
	}
	if first := j.First(); d.evaluated+1 < first {
		d.o.Log.Error("journal records lost before they were evaluated", "from", d.evaluated+1, "to", first-1)
		d.lost(first-1-d.evaluated, JournalLost)
		d.evaluated = first - 1
	}
	low := d.evaluated
	for _, p := range d.pipelines {
		low = min(low, p.cursor())
	}
	j.Retain("rules", low+1)
	return d.resumeRules()
}

func (d *Dispatcher) resumeRules() error {
	table, _ := d.sets.snapshot()
	if len(table) == 0 || d.evaluated == 0 {
		return nil
	}
	e := table[len(table)-1]
	set, err := d.sets.get(e.Index)
	if err != nil {
		d.o.Log.Error("the rule set in use cannot be restored; evaluation waits until rules are applied", "err", err)
		d.setHealth(err)
		d.applied = ""
		return nil
	}
	d.use(set, e.Index)
	return nil
}

// restore opens the decision log as of the checkpoint and counts its pending records.
func (p *pipeline) restore(d *Dispatcher, s sinkState) error {
	p.now, p.settled = s.Counts, s.Counts.clone()
	p.evaluated = d.evaluated
	p.mode, p.readable = logging, true
	if err := p.openLog(d.o.FS, d.logDir(p), d.o.Journal.Epoch(), s, d.o.SegmentBytes); err != nil {
		return err
	}
	p.waitingAt = receivedAt(d.o.Journal, p.oldest)
	return nil
}

// openLog opens the decision log and counts its pending records: every record between cursor and E with a message for
// the sink must be there. A log without pending records is recreated, whatever its state.
func (p *pipeline) openLog(fs wal.FS, dir string, epoch uint64, s sinkState, segmentBytes int64) (err error) {
	pending := s.logged()
	if pending == 0 {
		s.LogEnd.Offset = 0
	}
	if p.dlog, err = wal.OpenLog(fs, dir, decisionsOf(p.name, epoch), s.LogStart, s.LogEnd, segmentBytes); err != nil {
		return err
	}
	p.loaded, p.readPos = s.Cursor, p.dlog.Start()
	if p.oldest, err = p.recount(); err != nil {
		return err
	}
	if p.backlog != pending {
		return fmt.Errorf("%w: %s has the decisions of %d records, the checkpoint tells of %d", wal.ErrDamaged, dir, p.backlog, pending)
	}
	return nil
}

// recount counts the pending records, those after the cursor, in the decision log and returns the first of them.
func (p *pipeline) recount() (first uint64, err error) {
	pos := p.readPos
	var ds []engine.Decision
	for {
		data, next, ok, err := p.dlog.Read(pos)
		if err != nil {
			return 0, err
		}
		if !ok {
			return first, nil
		}
		c, err := readChunk(data)
		if err != nil {
			return 0, err
		}
		var last uint64
		for {
			seq, out, more, err := c.next(ds[:0])
			if err != nil {
				return 0, err
			}
			if ds = out; !more {
				break
			}
			if last = seq; seq > p.loaded {
				if p.backlog++; p.backlog == 1 {
					first = seq
				}
			}
		}
		p.dlog.Note(next.Segment, last)
		pos = next
	}
}

// orphan drops the pending records of a lost journal, among them ahead messages that were not evaluated, and begins
// again after evaluated.
func (s *sinkState) orphan(evaluated, ahead uint64) {
	s.Counts.Received += ahead
	if n := s.Counts.unsettled(); n > 0 {
		s.Counts.add(dropped, JournalLost, n)
	}
	s.Cursor, s.Parked = evaluated, 0
}
