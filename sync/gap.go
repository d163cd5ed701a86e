package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// gapInterval is how often a stopped partition is checked again.
const gapInterval = 2 * time.Second

// ErrNoGap means that the lane is not stopped at a gap on this gateway.
var ErrNoGap = errors.New("no gap")

// skip is an operator's request to skip a partition's gap.
type skip struct {
	ctx  context.Context
	done chan skipped // buffered for the answer
}

type skipped struct {
	gap *kafkaclient.GapError
	err error
}

// Gaps returns the gaps at which a lane of this gateway is stopped, of all lanes with "".
func (s *Syncer) Gaps(lane string) []Gap {
	all := []Gap{}
	for _, l := range s.lanes {
		if lane == "" || lane == l.name {
			all = append(all, l.gapsNow()...)
		}
	}
	return all
}

// Skip continues after a gap that Gaps returned. It returns the gap as it is then, because retention may have removed
// more. When Skip returns, the group has committed the new position, so that it holds after restarts and for every
// other gateway. Without an error nothing before the gap is left to forward. ErrNoGap means that there is no gap any
// more.
func (s *Syncer) Skip(ctx context.Context, g *Gap) (Gap, error) {
	s.mu.Lock()
	f := s.parts[partition{g.Topic, g.Partition}]
	s.mu.Unlock()
	if f == nil || !slices.ContainsFunc(f.lane.gapsNow(), func(now Gap) bool { return now.Partition == g.Partition }) {
		return Gap{}, fmt.Errorf("%s/%d: %w", g.Topic, g.Partition, ErrNoGap)
	}
	r := f.ask(ctx)
	for errors.Is(r.err, context.Canceled) && ctx.Err() == nil { // the partition was reassigned meanwhile
		r = f.ask(ctx)
	}
	switch {
	case r.err != nil:
		return Gap{}, r.err
	case r.gap == nil:
		return Gap{}, fmt.Errorf("%s/%d: %w", g.Topic, g.Partition, ErrNoGap)
	}
	return f.gap(r.gap), nil
}

// ask passes the request to the goroutine that is stopped at the gap.
func (f *forwarder) ask(ctx context.Context) skipped {
	request := &skip{ctx, make(chan skipped, 1)}
	select {
	case f.skips <- request:
		return <-request.done
	case <-ctx.Done():
		return skipped{err: fmt.Errorf("%s/%d: the partition is being reassigned; try again: %w", f.topic, f.id, context.Cause(ctx))}
	}
}

func (f *forwarder) gap(g *kafkaclient.GapError) Gap {
	return Gap{
		Centre: f.s.o.Centre, Lane: f.lane.name, Topic: g.Topic, Partition: g.ID, From: g.From, To: g.To, Recreated: g.Recreated, Since: time.Now(), Reason: g.Error(),
	}
}

// stopAt stops the lane at a gap until an operator skips it, or for gapInterval; the caller then checks again.
func (f *forwarder) stopAt(ctx context.Context, g *kafkaclient.GapError) {
	if f.lane.stop(f.partition, f.gap(g)) {
		f.s.o.Log.Error("records for the centre were deleted before they were read; the lane waits for `cellgate sync skip`",
			"lane", f.lane.name, "topic", g.Topic, "partition", g.ID, "from", g.From, "to", g.To-1, "anew", g.Recreated)
	}
	f.mu.Lock()
	f.gone = g
	f.mu.Unlock()
	if g.Recreated {
		f.markGap()
	}
	again := time.NewTimer(gapInterval)
	defer again.Stop()
	select {
	case r := <-f.skips:
		rctx, cancel := context.WithCancel(r.ctx)
		defer context.AfterFunc(ctx, cancel)() // other gateways do not wait for an operator
		gap, err := f.skip(rctx)
		cancel()
		r.done <- skipped{gap, err}
	case <-again.C:
	case <-ctx.Done():
	}
}

// goOn records that the partition has the next record again.
func (f *forwarder) goOn() {
	f.mu.Lock()
	f.gone = nil
	f.mu.Unlock()
	f.lane.pass(f.partition)
}

// markGap marks the committed offset as belonging to a log that no longer exists: the new log may grow beyond the
// offset, and then the gap could not be detected.
func (f *forwarder) markGap() {
	f.committing.Lock()
	defer f.committing.Unlock()
	f.mu.Lock()
	next := f.next
	if next < 0 {
		next = f.part.Next()
	}
	f.mu.Unlock()
	if err := f.part.Commit(next); err != nil {
		f.s.o.Log.Warn("offset not committed, trying again", "err", err)
	}
}

// skip continues after the gap. It first waits for records in flight, which were read before the gap: the group cannot
// commit a position after the gap without them.
func (f *forwarder) skip(ctx context.Context) (*kafkaclient.GapError, error) {
	if err := f.settled(ctx); err != nil {
		return nil, err
	}
	f.committing.Lock()
	defer f.committing.Unlock()
	g, err := f.part.Skip(ctx)
	if err != nil || g == nil {
		return nil, err
	}
	f.mu.Lock()
	f.next, f.read, f.commit, f.high = g.To, g.To, g.To, g.End
	f.mu.Unlock()
	f.goOn()
	if n, known := g.Lost(); known {
		f.s.o.Metrics.skipped.WithLabelValues(f.s.o.Metrics.labels(f.s.o.Centre, f.lane.name)...).Add(float64(n))
	}
	f.s.o.Log.Warn("gap skipped by an operator", "lane", f.lane.name, "topic", g.Topic, "partition", g.ID, "from", g.From, "to", g.To-1, "anew", g.Recreated)
	return g, nil
}

// settled waits until nothing is in flight.
func (f *forwarder) settled(ctx context.Context) error {
	for {
		f.mu.Lock()
		left := f.count
		f.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-f.room:
		case <-ctx.Done():
			return fmt.Errorf("%s/%d: %d records before the gap are on their way to the centre; skip it when the centre has them: %w", f.topic, f.id, left, ctx.Err())
		}
	}
}
