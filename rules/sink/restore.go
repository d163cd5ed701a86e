package sink

import (
	"errors"
	"fmt"
	"slices"

	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/rules/engine"
	"cellgate/rules/state"
)

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

// checkpointed is a checkpoint as state.db has it.
type checkpointed struct {
	epoch     uint64
	sinks     []sinkState // in the order of the pipelines
	operators operatorRange
	removed   []byte
	known     ahead
	parked    parkedStates
	limits    engine.StoredLimits
}

// load reads the last checkpoint, or creates the buckets for the first one.
func (d *Dispatcher) load() (c checkpointed, err error) {
	c.sinks = make([]sinkState, len(d.pipelines))
	err = d.o.DB.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketDispatch)
		if err != nil {
			return err
		}
		for _, name := range [][]byte{bucketSinks, bucketSources, bucketJoined} {
			if _, err := b.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		d.evaluated, c.epoch = getUint(b, keyEvaluated), getUint(b, keyEpoch)
		d.applied, d.unsure = string(b.Get(keyApplied)), b.Get(keyApplying) != nil
		for i, p := range d.pipelines {
			if err := d.restoreSink(b, p.name, &c.sinks[i]); err != nil {
				return err
			}
		}
		c.removed = slices.Clone(b.Get(keyRemoved))
		return errors.Join(d.sets.load(b), getJSON(b, keyLimits, &c.limits), getJSON(b, keyOperators, &c.operators), getJSON(b, keyAhead, &c.known), c.parked.load(b))
	})
	if err != nil {
		return c, fmt.Errorf("dispatch state: %w", err)
	}
	return c, nil
}

// orphan drops what was pending in a lost journal, parked messages too. Everything begins again after evaluated.
func (c *checkpointed) orphan(evaluated uint64) {
	for i := range c.sinks {
		c.sinks[i].orphan(evaluated, c.known.Messages)
	}
	c.parked.dests = nil
	c.known = ahead{}
}

// restore continues from the last checkpoint.
func (d *Dispatcher) restore() error {
	c, err := d.load()
	if err != nil {
		return err
	}
	if err := d.state.LoadRemoved(c.removed); err != nil {
		d.o.Log.Error("removal times of rules cannot be read; their operator state is kept for a day from now", "err", err)
	}
	if err := d.openOperators(c.operators); err != nil {
		return err
	}
	d.vins.Store(int64(d.state.VINs()))
	foreign := c.epoch != d.o.Journal.Epoch()
	d.limits.Load(&c.limits, foreign)
	if foreign { // or there is no checkpoint: records removed from this journal were never received by this account
		d.evaluated = d.o.Journal.First() - 1
		c.orphan(d.evaluated)
	}
	if err := d.restoreSinks(&c); err != nil {
		return err
	}
	if foreign && c.epoch != 0 {
		d.o.Log.Error("the journal is not the one of the last checkpoint; its pending records are lost",
			"was", c.epoch, "is", d.o.Journal.Epoch())
		d.applied = ""
		if err := d.Checkpoint(); err != nil {
			return err
		}
	}
	if err := d.resume(); err != nil {
		return err
	}
	return d.countAhead(c.known)
}

// restoreSinks restores the sinks, and the logs of parked destinations, which must have what the checkpoint tells.
func (d *Dispatcher) restoreSinks(c *checkpointed) error {
	for i, p := range d.pipelines {
		if err := p.restore(d, c.sinks[i]); err != nil {
			return err
		}
	}
	if err := d.env.parkedStore.restore(&c.parked); err != nil {
		return err
	}
	for i, p := range d.pipelines {
		if found, recorded := p.parked.records, c.sinks[i].Parked; found != recorded {
			return fmt.Errorf("%w: %s has %d parked records of %s, the checkpoint says %d", wal.ErrDamaged, d.env.parkedStore.dir, found, p.name, recorded)
		}
	}
	return nil
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
	d.forgot = err
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
		return fmt.Errorf("dispatch is at record %d, the journal ends at %d: it is not the journal that "+
			"the state belongs to, or it has lost its end", d.evaluated, last)
	}
	needed := d.evaluated + 1
	if first := j.First(); d.evaluated+1 < first {
		d.o.Log.Error("journal records lost before they were evaluated", "from", d.evaluated+1, "to", first-1)
		d.lost(first-1-d.evaluated, JournalLost)
		d.evaluated = first - 1
	}
	low := d.evaluated
	for _, p := range d.pipelines {
		low = min(low, p.cursor())
		if p.oldest != 0 {
			needed = min(needed, p.oldest)
		}
	}
	j.Missing(needed)
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
		return fmt.Errorf("%w: %s has the decisions of %d records, the checkpoint says %d", wal.ErrDamaged, dir, p.backlog, pending)
	}
	return nil
}

// recount counts the pending records, those after the cursor, in the decision log and returns the first of them.
func (p *pipeline) recount() (first uint64, err error) {
	var seqs []uint64
	for pos := p.readPos; ; {
		data, next, ok, err := p.dlog.Read(pos)
		if !ok || err != nil {
			return first, err
		}
		if seqs, err = sequences(data, seqs[:0]); err != nil {
			return 0, err
		}
		last := uint64(0)
		for _, last = range seqs {
			if last > p.loaded {
				if p.backlog++; p.backlog == 1 {
					first = last
				}
			}
		}
		p.dlog.Note(next.Segment, last)
		pos = next
	}
}

// sequences appends the sequences of a chunk's records to seqs.
func sequences(chunk []byte, seqs []uint64) ([]uint64, error) {
	c, err := readChunk(chunk)
	if err != nil {
		return seqs, err
	}
	var ds []engine.Decision
	for {
		seq, out, more, err := c.next(ds[:0])
		if err != nil || !more {
			return seqs, err
		}
		ds, seqs = out, append(seqs, seq)
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
