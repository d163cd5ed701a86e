package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/rules/engine"
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
		if !remote.Pause(ctx, wait) {
			return
		}
		err := d.Checkpoint()
		d.env.refusals.report(d.o.Log, time.Now())
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
