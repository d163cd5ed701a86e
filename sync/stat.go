package syncer

import (
	"context"
	"maps"
	"sync"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// LaneStat is a lane's progress, over this gateway's partitions.
type LaneStat struct {
	Lane string
	// Messages is the number of outbox records that are not forwarded, Bytes their approximate size before compression,
	// Age the age of the oldest. They are valid only if Known: 0 means that nothing waits.
	Messages, Bytes int64
	Age             time.Duration
	Known           bool
	// Headroom is the time until retention removes the oldest waiting record. It is valid only if Kept: the topic's
	// retention is known and by time.
	Headroom time.Duration
	Kept     bool
	// Drain is the time until nothing waits at the current rates; valid only if Drains.
	Drain  time.Duration
	Drains bool
	// InFlight is the number of records read and not acknowledged by the centre, Memory their bytes, and MaxMemory the
	// bound.
	InFlight          int
	Memory, MaxMemory int
	// Raw is the uncompressed bytes forwarded, Wire the bytes sent for them, requests included.
	Raw, Wire uint64
	// Retries counts repeated requests by reason.
	Retries map[string]uint64
	// Rate is the number of records forwarded per second.
	Rate   float64
	Paused bool
}

// passed counts forwarded records and their rate.
type passed struct {
	mu         sync.Mutex
	records    uint64
	bytes      uint64
	rate, came float64 // records per second over about ten seconds: forwarded, and new in the outbox
	at         time.Time
	was        uint64 // records at that time
	end        int64  // sum of the ends of the outbox partitions
}

func (p *passed) add(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records++
	p.bytes += uint64(max(0, bytes))
}

// note updates the rates; end is the sum of the ends of the lane's partitions.
func (p *passed) note(end int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const smooth = 10 * time.Second
	if took := now.Sub(p.at); !p.at.IsZero() && took > 0 && end >= p.end {
		part := min(1, float64(took)/float64(smooth))
		p.rate += part * (float64(p.records-p.was)/took.Seconds() - p.rate)
		p.came += part * (float64(end-p.end)/took.Seconds() - p.came)
	}
	p.at, p.was, p.end = now, p.records, end
}

// retentionInterval is how often the outbox topics' retention is queried.
const retentionInterval = time.Minute

// pace updates the lanes' rates, and periodically the outbox's retention.
func (s *Syncer) pace(ctx context.Context, all []kafkaclient.Position, now time.Time) {
	var ends [lanes]int64
	for i := range all {
		s.mu.Lock()
		f := s.parts[partition{all[i].Topic, all[i].ID}]
		s.mu.Unlock()
		if f != nil && f.isAssigned() {
			ends[f.lane.priority] += all[i].End
		}
	}
	for i, l := range s.lanes {
		l.passed.note(ends[i], now)
	}
	s.mu.Lock()
	due := now.Sub(s.asked) >= retentionInterval
	s.mu.Unlock()
	if !due {
		return
	}
	kept, err := s.consumer.Retention(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.o.Log.Debug("retention of the outbox is unknown", "err", err)
	}
	s.mu.Lock()
	s.asked, s.kept = now, kept
	s.mu.Unlock()
}

// Lanes returns the progress of each lane.
func (s *Syncer) Lanes() []LaneStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.flow.Sent()
	out := make([]LaneStat, lanes)
	for i, l := range s.lanes {
		kept, ok := s.kept[kafkaclient.OutboxTopics()[i]]
		out[i] = LaneStat{
			Lane: l.name, Known: s.found && s.seen != nil, Headroom: kept, Kept: ok, Wire: sent[i], MaxMemory: l.memory,
		}
	}
	for i, l := range s.lanes {
		l.mu.Lock()
		out[i].Paused, out[i].Retries = l.paused, maps.Clone(l.retries)
		l.mu.Unlock()
	}
	for name, f := range s.parts {
		v, seen := s.seen[name]
		l := &out[f.lane.priority]
		f.mu.Lock()
		l.InFlight += f.count
		l.Memory += f.bytes
		f.mu.Unlock()
		if f.isAssigned() {
			l.add(f.waiting(v, seen))
		}
	}
	for i, l := range s.lanes {
		out[i].derive(&l.passed)
	}
	return out
}

func (l *LaneStat) add(w waiting) {
	l.Messages += w.records
	l.Known = l.Known && w.known
	if w.records > 0 && !w.oldest.IsZero() {
		l.Age = max(l.Age, time.Since(w.oldest))
	}
}

// derive derives Headroom and Drain from the lag.
func (l *LaneStat) derive(p *passed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.Raw, l.Rate = p.bytes, p.rate
	if p.records > 0 {
		l.Bytes = int64(float64(l.Messages) * float64(p.bytes) / float64(p.records))
	}
	l.Kept = l.Kept && l.Known
	l.Headroom -= l.Age
	switch gain := p.rate - p.came; {
	case !l.Known:
	case l.Messages == 0:
		l.Drains = true
	case gain > 0:
		l.Drain, l.Drains = time.Duration(float64(l.Messages)/gain*float64(time.Second)), true
	}
}
