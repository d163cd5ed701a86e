package syncer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/remote"
)

// How far the centre's topics are read to recognise existing records: backwards in growing steps, until a record from
// before the committed offset is seen for each outbox partition with possible duplicates, and at most lookBack before
// its first uncommitted record.
const (
	firstStep = 1000
	lookBack  = 10 * time.Minute
	lookers   = 8 // concurrent readers of central partitions
)

var errIncomplete = errors.New("not every partition of the outbox can be queried")

// once is a lane's knowledge of the records that the centre had when the lane began, by central topic.
type once struct {
	mu     sync.Mutex
	topics map[string]*there
	err    error // why the centre cannot be queried, and since when
	since  time.Time
}

// there is the centre's part of the outbox that the group has not committed.
type there struct {
	mu      sync.Mutex
	looked  bool
	offsets map[partition]bitmap
}

// bitmap is a set of offsets.
type bitmap map[int64]uint64

func (b bitmap) add(o int64)      { b[o>>6] |= 1 << (o & 63) }
func (b bitmap) has(o int64) bool { return b[o>>6]&(1<<(o&63)) != 0 }

// wasForwarded reports whether the centre had a record before this worker began. It queries the centre at the first
// record of a topic, however long that takes; the error is ctx's.
func (f *forwarder) wasForwarded(ctx context.Context, topic string, offset int64) (bool, error) {
	o := &f.lane.once
	o.mu.Lock()
	t := o.topics[topic]
	if t == nil {
		t = &there{offsets: map[partition]bitmap{}}
		o.topics[topic] = t
	}
	o.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for try := 1; !t.looked; try++ {
		err := f.lane.look(ctx, f.s, topic, t)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		o.failed(err)
		if err == nil {
			t.looked = true
			break
		}
		if !remote.Pause(ctx, remote.Backoff(try, 50*time.Millisecond, 2*time.Second)) {
			return false, ctx.Err()
		}
	}
	return t.offsets[f.partition].has(offset), nil
}

func (o *once) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil && o.err == nil {
		o.since = time.Now()
	}
	o.err = err
}

// waitsFor returns why the lane waits for the centre's answer.
func (o *once) waitsFor() (time.Time, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.since, o.err
}

// look fences previous writers of the topic, and reads its existing records.
func (l *lane) look(ctx context.Context, s *Syncer, topic string, t *there) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	n, err := l.central.Fence(ctx, topic)
	if err != nil || n == 0 {
		return err
	}
	open, parts, since, err := s.uncommitted(ctx, l)
	if err != nil || len(open) == 0 {
		return err
	}
	tail, err := kafkaclient.NewTail(s.o.Central.Config, topic, s.o.Log, s.o.Central.Metrics)
	if err != nil {
		return err
	}
	defer tail.Close()
	var mu sync.Mutex
	found := map[partition]bitmap{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lookers)
	for id := range n {
		g.Go(func() error {
			r := &recognition{cell: s.o.CellID, open: open, missing: map[partition]bool{}, found: found, mu: &mu}
			for p := range open {
				if (p.id-id)%gcd(parts, n) == 0 { // else its keys are in other partitions
					r.missing[p] = true
				}
			}
			return r.read(gctx, tail, id, since)
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("the records of %s are not known: %w", topic, err)
	}
	t.offsets = found
	return nil
}

// lookTimeout bounds one query of the centre.
const lookTimeout = 5 * time.Minute

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// uncommitted returns for the lane's partitions with uncommitted records where these begin, the number of partitions,
// and since when the first record waits.
func (s *Syncer) uncommitted(ctx context.Context, l *lane) (open map[partition]int64, parts int, since time.Time, err error) {
	all, err := s.consumer.Positions(ctx)
	if err != nil {
		return nil, 0, since, err
	}
	open, asked, topic := map[partition]int64{}, map[partition]bool{}, kafkaclient.OutboxTopics()[l.priority]
	for i := range all {
		p := &all[i]
		if p.Topic != topic {
			continue
		}
		name := partition{p.Topic, p.ID}
		asked[name] = true
		parts = max(parts, p.ID+1)
		from := max(s.from(name, p.Committed), p.First)
		if from >= p.End {
			continue
		}
		at, err := s.consumer.TimeAt(ctx, p.Topic, p.ID, from)
		if err != nil {
			return nil, 0, since, err
		}
		if open[name] = from; since.IsZero() || at.Before(since) {
			since = at
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.parts {
		if name.topic == topic && f.isAssigned() && !asked[name] {
			return nil, 0, since, errIncomplete
		}
	}
	return open, parts, since, nil
}

// from returns where a partition's forwarder began; the group's position if it has not begun, or if that is earlier.
func (s *Syncer) from(name partition, committed int64) int64 {
	s.mu.Lock()
	f := s.parts[name]
	s.mu.Unlock()
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.began >= 0 {
			return min(committed, f.began)
		}
	}
	return committed
}

// recognition reads a central partition.
type recognition struct {
	cell    string
	open    map[partition]int64
	missing map[partition]bool // partitions of which no record from before open is seen yet
	mu      *sync.Mutex        // guards found
	found   map[partition]bitmap
}

func (r *recognition) read(ctx context.Context, tail *kafkaclient.Tail, id int, since time.Time) error {
	if len(r.missing) == 0 {
		return nil
	}
	from, end, err := tail.Ends(ctx, id, since.Add(-lookBack))
	if err != nil {
		return err
	}
	for step := int64(firstStep); end > from && len(r.missing) > 0; step *= 4 {
		begin := max(from, end-step)
		if err := tail.Read(ctx, id, begin, end, r.take); err != nil {
			return err
		}
		end = begin
	}
	return nil
}

func (r *recognition) take(f *kafkaclient.Fetched) {
	cell, from, offset := sourceOf(f)
	if cell != r.cell {
		return
	}
	first, open := r.open[from]
	switch {
	case !open:
	case offset < first:
		delete(r.missing, from)
	default:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.found[from] == nil {
			r.found[from] = bitmap{}
		}
		r.found[from].add(offset)
	}
}

// sourceOf returns a central record's source: from the last headers of each name, because earlier ones are from earlier
// cells.
func sourceOf(f *kafkaclient.Fetched) (cell string, from partition, offset int64) {
	offset, from.id = -1, -1
	for i := range f.Headers {
		value := string(f.Headers[i].Value)
		switch f.Headers[i].Key {
		case headerSrcCell:
			cell = value
		case headerSrcTopic:
			from.topic = value
		case headerSrcPartition:
			if n, err := strconv.Atoi(value); err == nil {
				from.id = n
			}
		case headerSrcOffset:
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				offset = n
			}
		}
	}
	return cell, from, offset
}
