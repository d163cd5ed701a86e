package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// gapInterval is how often a partition that has stopped looks what it holds by now.
const gapInterval = 2 * time.Second

// ErrNoGap says that a lane does not stand at a gap on this gateway.
var ErrNoGap = errors.New("no gap")

// skip is an operator's word to skip a partition's gap.
type skip struct {
	ctx  context.Context
	done chan skipped // has room for the answer
}

type skipped struct {
	gap *kafkaclient.GapError
	err error
}

// Gaps are those at which this gateway's lanes stand: those of a lane, or of all with "".
func (s *Syncer) Gaps(lane string) []Gap {
	all := []Gap{}
	for _, l := range s.lanes {
		if lane == "" || lane == l.name {
			all = append(all, l.gapsNow()...)
		}
	}
	return all
}

// Skip goes on after a gap that Gaps has told of, and returns it as it was then: retention goes on meanwhile. When
// it returns, the group has the new position in its committed offsets, so that it holds over restarts and for every
// other gateway. Without error nothing before the gap is left to forward; ErrNoGap says that there is no gap any more.
func (s *Syncer) Skip(ctx context.Context, g *Gap) (Gap, error) {
	s.mu.Lock()
	f := s.parts[partition{g.Topic, g.Partition}]
	s.mu.Unlock()
	if f == nil || !slices.ContainsFunc(f.lane.gapsNow(), func(now Gap) bool { return now.Partition == g.Partition }) {
		return Gap{}, fmt.Errorf("%s/%d: %w", g.Topic, g.Partition, ErrNoGap)
	}
	r := f.ask(ctx)
	for errors.Is(r.err, context.Canceled) && ctx.Err() == nil { // the partition has gone and come back meanwhile
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

// ask has the goroutine that stands at the gap skip it.
func (f *forwarder) ask(ctx context.Context) skipped {
	request := &skip{ctx, make(chan skipped, 1)}
	select {
	case f.skips <- request:
		return <-request.done
	case <-ctx.Done():
		return skipped{err: fmt.Errorf("%s/%d: the partition changes hands; try again: %w", f.topic, f.id, context.Cause(ctx))}
	}
}

func (f *forwarder) gap(g *kafkaclient.GapError) Gap {
	return Gap{
		Centre: f.s.o.Centre, Lane: f.lane.name, Topic: g.Topic, Partition: g.ID, From: g.From, To: g.To, Anew: g.Anew, Since: time.Now(), Reason: g.Error(),
	}
}

// stopAt has the lane stand at a gap until an operator skips it, or for gapInterval, which the caller follows by
// looking again.
func (f *forwarder) stopAt(ctx context.Context, g *kafkaclient.GapError) {
	if f.lane.stop(f.partition, f.gap(g)) {
		f.s.o.Log.Error("records for the centre were deleted before they were read; the lane waits for `cellgate sync skip`",
			"lane", f.lane.name, "topic", g.Topic, "partition", g.ID, "from", g.From, "to", g.To-1, "anew", g.Anew)
	}
	f.mu.Lock()
	f.gone = g
	f.mu.Unlock()
	if g.Anew {
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

// goOn says that the partition has what is to be read next.
func (f *forwarder) goOn() {
	f.mu.Lock()
	f.gone = nil
	f.mu.Unlock()
	f.lane.pass(f.partition)
}

// markGap writes beside the committed offset that it counts in a log that is no more: the new one may grow beyond
// it, and nobody could tell then.
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

// skip goes on after the gap. What is still under way was read before it, and is waited for: the group cannot be told
// of what comes after the gap without it.
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
	f.s.o.Log.Warn("gap skipped by an operator", "lane", f.lane.name, "topic", g.Topic, "partition", g.ID, "from", g.From, "to", g.To-1, "anew", g.Anew)
	return g, nil
}

// settled waits until nothing is under way.
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
			return fmt.Errorf("%s/%d: %d records before the gap are under way to the centre; skip it when the centre has them: %w", f.topic, f.id, left, ctx.Err())
		}
	}
}
