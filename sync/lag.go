package syncer

import (
	"context"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// watchInterval is how often the cell's Kafka is asked what the outbox holds, as a lane that waits fetches nothing, and
// who has claimed its partitions.
const watchInterval = time.Second

// sight is what the cell's Kafka said of a partition of the outbox.
type sight struct {
	kafkaclient.Position
	// at is the time of the record at offset, which was waiting when it was looked at; zero: nothing was.
	offset int64
	at     time.Time
}

// watch keeps Syncer.seen.
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

// see notes what the partitions hold, and since when what waits first in them does. One that could not be asked is as
// it was.
func (s *Syncer) see(ctx context.Context, all []kafkaclient.Position) {
	s.mu.Lock()
	was := s.seen
	s.mu.Unlock()
	seen := make(map[partition]sight, len(all))
	for name, v := range was {
		seen[name] = v
	}
	for _, p := range all {
		name := partition{p.Topic, p.ID}
		v := sight{Position: p, offset: s.waits(&p)}
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

// waits is the first record of the partition that nobody has in hand; negative when there is none, or its forwarder
// knows better.
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
		next = p.First // what was before is gone
	}
	if next == p.End {
		return -1
	}
	return next
}

// waiting is what a partition holds that is not forwarded.
type waiting struct {
	records int64
	oldest  time.Time
	known   bool // all of it
}

func (v *sight) waiting() waiting {
	from := v.Committed
	if from < v.First || from > v.End {
		from = v.First
	}
	return waiting{v.End - from, v.at, v.End == from || !v.at.IsZero()}
}

// waiting is v, corrected by what the forwarder has done since.
func (f *forwarder) waiting(v sight, seen bool) waiting {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next < 0 { // it has not fetched yet
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
