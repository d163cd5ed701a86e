package syncer

import (
	"context"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// watchInterval is how often the outbox's ends and the claims of its partitions are queried: a waiting lane fetches
// nothing.
const watchInterval = time.Second

// outboxEnd is the cell's Kafka's report of an outbox partition.
type outboxEnd struct {
	kafkaclient.Position
	// at is the time of the record at offset, the first one waiting; zero if there was none.
	offset int64
	at     time.Time
}

// watch updates Syncer.seen.
func (s *Syncer) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		s.applyLimits(time.Now())
		if all, err := s.consumer.Positions(ctx); err == nil {
			s.compareClaims(all)
			s.see(ctx, all)
			s.pace(ctx, all, time.Now())
		} else if ctx.Err() == nil {
			s.o.Log.Debug("size of the outbox is unknown", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// see updates what the partitions hold, and since when their first record waits. Partitions that could not be queried
// keep their values.
func (s *Syncer) see(ctx context.Context, all []kafkaclient.Position) {
	s.mu.Lock()
	was := s.seen
	s.mu.Unlock()
	seen := make(map[partition]outboxEnd, len(all))
	for name, v := range was {
		seen[name] = v
	}
	for _, p := range all {
		name := partition{p.Topic, p.ID}
		v := outboxEnd{Position: p, offset: s.waits(&p)}
		switch old := was[name]; {
		case v.offset < 0:
		case v.offset == old.offset && !old.at.IsZero():
			v.at = old.at
		default:
			v.at, _ = s.consumer.TimeAt(ctx, p.Topic, p.ID, v.offset) // else unknown
		}
		seen[name] = v
	}
	s.mu.Lock()
	s.seen = seen
	s.mu.Unlock()
}

// waits returns the partition's first record that no forwarder has in flight; negative if there is none, or the
// forwarder has newer data.
func (s *Syncer) waits(p *kafkaclient.Position) int64 {
	s.mu.Lock()
	f := s.parts[partition{p.Topic, p.ID}]
	s.mu.Unlock()
	next := p.Committed
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.assigned && (f.count > 0 || !f.inHand.IsZero()) {
			return -1
		}
		next = max(next, f.next)
	}
	if next < p.First || next > p.End {
		next = p.First // earlier records are removed
	}
	if next == p.End {
		return -1
	}
	return next
}

// waiting is the part of a partition that is not forwarded.
type waiting struct {
	records int64
	oldest  time.Time
	known   bool // completely
}

func (v *outboxEnd) waiting() waiting {
	from := v.Committed
	if from < v.First || from > v.End {
		from = v.First
	}
	return waiting{v.End - from, v.at, v.End == from || !v.at.IsZero()}
}

// waiting returns v, corrected by the forwarder's progress since.
func (f *forwarder) waiting(v outboxEnd, seen bool) waiting {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next < 0 { // before the first fetch
		w := v.waiting()
		w.known = w.known && seen
		return w
	}
	high, from := max(f.high, v.End), max(f.next, v.First)
	if g := f.gone; g != nil {
		high, from = max(g.End, v.End), max(g.To, v.First)
	}
	w := waiting{records: max(0, high-from), oldest: v.at}
	switch {
	case f.first != nil:
		w.oldest = time.UnixMilli(f.first.record.Time)
	case !f.inHand.IsZero():
		w.oldest = f.inHand
	}
	w.known = w.records == 0 || !w.oldest.IsZero()
	return w
}
