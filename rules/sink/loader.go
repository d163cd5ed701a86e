package sink

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/engine"
)

// loader feeds a sink from its decision log while the pipeline is logging.
type loader struct {
	p         *pipeline
	src       recordSource
	form      form
	decisions []engine.Decision
	lost      lostRecords
}

func (l *loader) run(ctx context.Context) {
	defer l.src.close()
	defer func() { l.lost.report(l.p.log) }()
	for ctx.Err() == nil {
		again, err := l.step(ctx)
		if err != nil && ctx.Err() == nil {
			l.p.loadFailed(err)
			remote.Pause(ctx, time.Second)
			continue
		}
		if again {
			continue
		}
		l.lost.report(l.p.log)
		select {
		case <-l.p.wake:
		case <-ctx.Done():
		}
	}
}

// loadFailed records that the loader cannot continue; the backlog waits.
func (p *pipeline) loadFailed(err error) {
	p.mu.Lock()
	first := p.damage == nil
	p.damage = err
	p.mu.Unlock()
	if first {
		p.log.Error("backlog cannot be loaded, trying again", "err", err)
	}
}

// step loads one chunk or switches the pipeline to live, and reports whether there may be more to do now.
func (l *loader) step(ctx context.Context) (bool, error) {
	p := l.p
	p.mu.Lock()
	if p.mode == live {
		p.mu.Unlock()
		l.src.close()
		return false, nil
	}
	if p.backlog == 0 && p.ampleLocked() {
		p.mode = live
		p.mu.Unlock()
		p.env.metrics.modeChanges.WithLabelValues(p.name, "live").Inc()
		l.src.close()
		return false, nil
	}
	p.window.starved.Store(p.backlog == 0)
	ready, pos := p.readable && p.backlog > 0, p.readPos
	p.mu.Unlock()
	if !ready {
		return false, nil
	}
	data, next, ok, err := p.dlog.Read(pos)
	if err != nil || !ok {
		return false, err
	}
	if err := l.chunk(ctx, data); err != nil {
		return false, err
	}
	p.mu.Lock()
	p.readPos, p.damage = next, nil
	p.mu.Unlock()
	return true, nil
}

// chunk delivers the messages of a chunk.
func (l *loader) chunk(ctx context.Context, data []byte) error {
	c, err := readChunk(data)
	if err != nil {
		return err
	}
	var set *ruleSet
	for {
		l.p.notify()
		var seq uint64
		var ok bool
		seq, l.decisions, ok, err = c.next(l.decisions[:0])
		if err != nil || !ok {
			return err
		}
		if l.passed(seq) {
			continue
		}
		if set == nil {
			if set, err = l.p.env.sets.get(c.set); err != nil {
				return err
			}
		}
		if err := l.record(ctx, set, c.set, seq); err != nil {
			return err
		}
	}
}

// passed reports whether a record is done: delivered before, or skipped by age_out, which is counted here.
func (l *loader) passed(seq uint64) bool {
	p := l.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq <= p.loaded {
		return true
	}
	if !p.abandoned(seq) {
		return false
	}
	if p.env.trace.On() {
		for i := range l.decisions {
			p.traceSettled(seq, l.decisions[i].Rule, l.decisions[i].Target, dropped, Retention)
		}
	}
	slot := p.takeLocked(seq, 0, 1)
	p.settleLocked(slot, dropped, Retention)
	p.advanceLocked()
	return true
}

// takeLocked moves a record from the backlog to the tracker.
func (p *pipeline) takeLocked(seq uint64, at int64, n int) uint64 {
	p.backlog--
	p.loaded = seq
	if at > 0 {
		p.waitingAt = at
	}
	return p.beginLocked(seq, at, n)
}

// record waits for room and delivers the messages of one record, in bursts.
func (l *loader) record(ctx context.Context, set *ruleSet, index uint32, seq uint64) error {
	p := l.p
	if err := l.room(ctx); err != nil {
		return err
	}
	rec, err := l.src.find(ctx, p.env.journal, seq)
	if err != nil && !errors.Is(err, errRecordLost) {
		return err
	}
	var at int64
	if rec != nil {
		at = rec.ReceivedAt
	}
	n := len(l.decisions)
	p.mu.Lock()
	slot := p.takeLocked(seq, at, n)
	p.mu.Unlock()
	if rec == nil {
		p.window.messages.Add(int64(n))
		l.lost.add(seq)
		for i := range n {
			p.settle(Ticket{slot: slot, seq: seq, rule: l.decisions[i].Rule, target: l.decisions[i].Target}, dropped, JournalLost)
		}
		return nil
	}
	if l.lost.due() {
		l.lost.report(p.log)
	}
	for rest := l.decisions; ; {
		part := rest[:min(burst, len(rest))]
		p.window.messages.Add(int64(len(part)))
		p.handOver(set, index, slot, rec, part, n > 1, nil, &l.form)
		if rest = rest[len(part):]; len(rest) == 0 {
			return nil
		}
		if err := l.room(ctx); err != nil {
			return err
		}
	}
}

func (l *loader) room(ctx context.Context) error {
	p := l.p
	for {
		p.mu.Lock()
		ok := p.roomLocked()
		p.mu.Unlock()
		if ok {
			return nil
		}
		p.window.starved.Store(true)
		p.mu.Lock()
		ok = p.roomLocked() // settling in between did not see starved
		p.mu.Unlock()
		if !ok {
			select {
			case <-p.wake:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.window.starved.Store(false)
	}
}

// lostInterval is the shortest time between two lines of the log about lost records of one sink.
const lostInterval = 10 * time.Second

// lostRecords collects the records that the journal no longer has: a missing segment has thousands, and is one line.
type lostRecords struct {
	first, last, n uint64
	logged         time.Time
}

func (l *lostRecords) add(seq uint64) {
	if l.n++; l.n == 1 {
		l.first = seq
	}
	l.last = seq
}

func (l *lostRecords) due() bool { return l.n > 0 && time.Since(l.logged) >= lostInterval }

// report logs what was collected, if anything.
func (l *lostRecords) report(log *slog.Logger) {
	if l.n > 0 {
		log.Error("pending records are no longer readable in the journal; they are dropped (journal_lost)", "count", l.n, "from", l.first, "to", l.last)
		*l = lostRecords{logged: time.Now()}
	}
}

// errRecordLost means that the journal no longer has the record.
var errRecordLost = errors.New("record is not in the journal")

// reopenBeyond is the distance in records from which a lookup is cheaper than reading on.
const reopenBeyond = 100_000

// recordSource finds records by sequence; ascending lookups are cheap.
type recordSource struct {
	r *journal.Reader
	b *journal.Batch
}

// find returns the record, valid until the next find, or errRecordLost if the journal does not have it.
func (s *recordSource) find(ctx context.Context, j Journal, seq uint64) (*message.Record, error) {
	if s.b != nil && len(s.b.Records) > 0 && seq >= s.b.Records[0].Seq && seq <= s.b.Last {
		return s.inBatch(seq)
	}
	if s.r == nil || seq <= s.r.Position() || seq > s.r.Position()+reopenBeyond {
		s.close()
		r, err := j.NewReader(seq)
		if errors.Is(err, journal.ErrTrimmed) || errors.Is(err, journal.ErrBeyond) {
			return nil, errRecordLost
		}
		if err != nil {
			return nil, err
		}
		s.r = r
	}
	for {
		b, err := s.r.Next(ctx, 0)
		if err != nil {
			s.b = nil
			return nil, err
		}
		s.b = b
		if b.Last >= seq {
			return s.inBatch(seq)
		}
	}
}

func (s *recordSource) inBatch(seq uint64) (*message.Record, error) {
	recs := s.b.Records
	if len(recs) == 0 || seq < recs[0].Seq {
		return nil, errRecordLost
	}
	i := seq - recs[0].Seq
	if i >= uint64(len(recs)) || recs[i].Seq != seq {
		return nil, errRecordLost
	}
	return &recs[i], nil
}

// close releases the reader, which would keep its segment from being recycled.
func (s *recordSource) close() {
	if s.r != nil {
		_ = s.r.Close()
	}
	s.r, s.b = nil, nil
}
