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
	// clusterParts is how many workers a cluster has, each for as many slots. They are parked one by one, whichever shards the slots
	// are at: a log of what waits for them must not depend on what the cluster looks like at the time.
	clusterParts = 16
	// parkAfter is how long a worker takes nothing before what it has is parked, parkWaiting how many messages wait for it
	// then at the latest once it has failed, so that no worker has the window to itself.
	parkAfter   = 2 * time.Second
	parkWaiting = 256
)

var errNoAnswer = errors.New("redis does not answer")

// slotsOf names the slots of a worker as a part of the cluster: what cannot be parked for it waits in the window.
func slotsOf(part int) string {
	const each = remote.RedisSlots / clusterParts
	return fmt.Sprintf("slots/%d-%d", part*each, (part+1)*each-1)
}

func partOf(key string) int { return remote.RedisSlot(key) / (remote.RedisSlots / clusterParts) }

// parking is what a worker knows of its slots.
type parking struct {
	waiting int // messages, in the queue or on their way
	shut    bool
	given   bool               // shut, and nothing is left that could be parked: what comes is given back at once
	failing atomic.Bool        // the last pipeline failed
	why     error              // it failed
	since   time.Time          // when the first began since one that was taken; zero: none is under way
	stop    context.CancelFunc // ends the one under way
}

func (p *parking) reason() error {
	if p.why == nil {
		return errNoAnswer
	}
	return p.why
}

// close has what waits given back. A pipeline without an answer is broken off: it may have come through, and is sent again.
func (p *parking) close() {
	p.shut = true
	p.stop()
}

// tries is told of a pipeline that begins.
func (w *worker) tries(stop context.CancelFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.park.stop = stop; w.park.since.IsZero() {
		w.park.since = time.Now()
	}
}

// tried is told what became of it.
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
	return (time.Since(p.since) >= parkAfter || p.why != nil && p.waiting >= parkWaiting) && w.s.othersTake(w)
}

// othersTake reports whether there is a worker that does not fail: else it is an outage, in which messages wait in the window.
func (s *Sink) othersTake(than *worker) bool {
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

// give gives back the batch and the queue when the worker is to be parked, and returns what stays: messages that were parked before.
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

// Open implements sink.Parker. What was parked for slots that are not divided so any more is sent like any other.
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

// worker is the one that a destination belongs to.
func (s *Sink) worker(dest string) *worker {
	for _, w := range s.workers {
		if w.slots != "" && w.slots == dest {
			return w
		}
	}
	return nil
}
