package redis

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/remote"
)

const (
	// clusterParts is the number of workers for a cluster, each for the same number of slots. They are parked one by
	// one, independent of which shard has the slots: a log must not depend on the cluster's layout at the time.
	clusterParts = 16
	// parkAfter is how long a worker fails before its messages are parked; parkWaiting is the number of waiting
	// messages from which a failing one is parked at once, so that no worker fills the window.
	parkAfter   = 2 * time.Second
	parkWaiting = 256
)

var errNoAnswer = errors.New("redis does not answer")

// slotsOf returns the name of a worker's slots as a destination. It is a part of the cluster: messages that cannot be
// parked for it wait in the window.
func slotsOf(part int) string {
	const each = remote.RedisSlots / clusterParts
	return fmt.Sprintf("slots/%d-%d", part*each, (part+1)*each-1)
}

func partOf(key string) int { return remote.RedisSlot(key) / (remote.RedisSlots / clusterParts) }

// parking is a worker's parking state.
type parking struct {
	waiting int // messages queued or in flight
	shut    bool
	given   bool               // shut, and nothing is left to park: new messages are returned at once
	failing atomic.Bool        // the last pipeline failed
	why     error              // the error
	since   time.Time          // when the first pipeline since the last success began; zero: none is in flight
	stop    context.CancelFunc // cancels the one in flight
}

func (p *parking) reason() error {
	if p.why == nil {
		return errNoAnswer
	}
	return p.why
}

// close makes the worker return its waiting messages. It cancels an unanswered pipeline, which may have been executed
// and is sent again.
func (p *parking) close() {
	p.shut = true
	p.stop()
}

// tries records that a pipeline begins.
func (w *worker) tries(stop context.CancelFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.park.stop = stop; w.park.since.IsZero() {
		w.park.since = time.Now()
	}
}

// tried records a pipeline's result.
func (w *worker) tried(err error) {
	w.park.failing.Store(err != nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.park.why, w.park.since = nil, time.Time{}
		return
	}
	if !errors.Is(err, context.Canceled) {
		w.park.why = err
	}
	if w.stuckLocked() {
		w.park.close()
	}
}

// stuckLocked reports whether the worker's slots take nothing while others may.
func (w *worker) stuckLocked() bool {
	p := &w.park
	if w.slots == "" || p.shut || p.since.IsZero() {
		return false
	}
	return (time.Since(p.since) >= parkAfter || p.why != nil && p.waiting >= parkWaiting) && w.s.othersSucceed(w)
}

// othersSucceed reports whether another worker does not fail. Otherwise it is an outage, in which messages wait in the
// window.
func (s *Sink) othersSucceed(than *worker) bool {
	for _, w := range s.workers {
		if w != than && !w.park.failing.Load() {
			return true
		}
	}
	return false
}

// toGive reports whether give has something to do.
func (w *worker) toGive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.park.shut && !w.park.given
}

// give returns batch and queue to their tickets if the worker must be parked. Messages that were parked before stay;
// they are the result.
func (w *worker) give(batch []*job) []*job {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.park.shut || w.park.given {
		return batch
	}
	w.park.given = true
	batch = w.parkLocked(batch)
	w.queue = w.parkLocked(w.queue)
	return batch
}

func (w *worker) parkLocked(all []*job) []*job {
	kept := all[:0]
	for _, j := range all {
		if j.ticket.Park(w.slots, w.park.reason()) {
			w.s.jobs.put(j)
			continue
		}
		kept = append(kept, j)
	}
	w.park.waiting -= len(all) - len(kept)
	clear(all[len(kept):])
	return kept
}

// Park implements sink.Parker.
func (s *Sink) Park(dest string) {
	if w := s.worker(dest); w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.park.shut, w.park.given = true, true
	}
}

// Open implements sink.Parker. Messages parked under a former division of the slots are sent like any other.
func (s *Sink) Open(dest string, empty func() bool) {
	w := s.worker(dest)
	if w == nil {
		empty()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &w.park
	if p.shut && !p.given || p.why != nil && p.waiting > 0 || !empty() {
		return
	}
	p.shut, p.given, p.why, p.since = false, false, nil, time.Time{}
	p.failing.Store(false)
}

// worker returns a destination's worker.
func (s *Sink) worker(dest string) *worker {
	for _, w := range s.workers {
		if w.slots != "" && w.slots == dest {
			return w
		}
	}
	return nil
}
