package redis

import (
	"context"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/broker/shared/remote"
	"cellgate/rules/sink"
)

// worker executes the commands of its share of the VINs, or of a cluster's slots, one pipeline at a time.
type worker struct {
	s     *Sink
	wake  chan struct{}
	slots string // of a cluster: the destination that is parked if its shard takes nothing

	mu    sync.Mutex // guards queue and park; Ticket.Park and empty are called under it
	queue []*job
	park  parking

	// Owned by run, reused for every pipeline.
	began time.Time // of the last one
	args  arguments
	cmds  []*goredis.Cmd
	errs  []error
	rest  []*job
}

func (w *worker) add(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.park.given && j.ticket.Park(w.slots, w.park.reason()) {
		w.s.jobs.put(j)
		return
	}
	w.queue = append(w.queue, j)
	w.park.waiting++
	if n := len(w.queue); n == 1 || n == maxBatch {
		w.signal()
	}
	if w.park.waiting >= parkWaiting && w.stuckLocked() {
		w.park.close()
		w.signal()
	}
}

func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) run() {
	var batch []*job
	tries := 0
	for {
		if batch = w.fill(w.give(batch)); len(batch) == 0 {
			return
		}
		var err error
		batch, err = w.exec(batch)
		w.s.health.Set(w, err)
		w.tried(err)
		if err == nil {
			tries = 0
			continue
		}
		tries++
		if !w.pause(tries) {
			return // the rest stays pending
		}
		if batch = w.give(w.drop(batch)); len(batch) == 0 {
			w.s.health.Set(w, nil) // no failing message is left
		}
	}
}

// linger is the minimum time between two pipelines of a worker that are not full. A message that comes later is sent at
// once; messages in quick succession share a round trip.
const linger = 10 * time.Millisecond

// fill tops the batch up from the queue. It waits while there is nothing, or until the linger time has passed. An empty batch
// means that the sink is closed and everything is done.
func (w *worker) fill(batch []*job) []*job {
	var over <-chan time.Time
	for closing := false; ; {
		waiting, wait := len(batch)+w.waiting(), linger-time.Since(w.began)
		switch {
		case closing, waiting >= maxBatch, waiting > 0 && wait <= 0:
			w.began = time.Now()
			return w.top(batch)
		case waiting > 0 && over == nil:
			over = time.After(wait)
		}
		select {
		case <-w.wake:
		case <-over:
		case <-w.s.closing:
			closing = true
		}
	}
}

func (w *worker) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

// top moves messages from the queue to the batch while there is room.
func (w *worker) top(batch []*job) []*job {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.queue), maxBatch-len(batch))
	batch = append(batch, w.queue[:n]...)
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	return batch
}

// settled subtracts n messages from the worker's.
func (w *worker) settled(n int) {
	w.mu.Lock()
	w.park.waiting -= n
	w.mu.Unlock()
}

// exec runs the batch and settles the answered messages. It returns those to run again, in order, and the error:
// messages with a transient failure, and after each the later ones of the same VIN, even if they succeeded, because
// repeating only the failed one would overwrite new data with old.
func (w *worker) exec(batch []*job) ([]*job, error) {
	ctx, cancel := context.WithTimeout(w.s.ctx, time.Minute)
	defer cancel()
	w.tries(cancel)
	w.pipeline(ctx, batch)
	var (
		held    map[string]bool // VINs with a message to run again
		cause   error
		unknown *job // its script is not known to the server
	)
	w.rest = w.rest[:0]
	for i, j := range batch {
		err := w.errs[i]
		v := judge(err)
		switch {
		case held[j.vin]:
			w.rest = append(w.rest, j)
			continue
		case v == done:
			w.release(j).Delivered()
			continue
		case v == refuse:
			w.release(j).Refused(err)
			continue
		case v == script:
			unknown = j
		default:
			cause = err
		}
		if held == nil {
			held = map[string]bool{}
		}
		held[j.vin] = true
		w.rest = append(w.rest, j)
	}
	if cause == nil && unknown != nil {
		cause = loadScript(ctx, w.s.o.Client, unknown.key)
	}
	n := copy(batch, w.rest)
	w.settled(len(batch) - n)
	clear(batch[n:])
	clear(w.rest)
	return batch[:n], cause
}

// release returns a job to the pool and its ticket, which is still to be settled, to the caller.
func (w *worker) release(j *job) sink.Ticket {
	t := j.ticket
	w.s.jobs.put(j)
	return t
}

// pipeline runs the commands of the batch in one pipeline and sets each message's error, the first of its commands', in
// errs. When it returns, go-redis no longer refers to any argument.
func (w *worker) pipeline(ctx context.Context, batch []*job) {
	pipe := w.s.o.Client.Pipeline()
	w.cmds, w.errs = w.cmds[:0], w.errs[:0]
	w.args.reset()
	for _, j := range batch {
		w.cmds = append(w.cmds, pipe.Do(ctx, w.args.first(j)...))
		if second := w.args.second(j); second != nil {
			w.cmds = append(w.cmds, pipe.Do(ctx, second...))
		}
	}
	_, _ = pipe.Exec(ctx) // errors are checked per command
	next := 0
	for _, j := range batch {
		err := w.cmds[next].Err()
		next++
		if j.ttl > 0 {
			if judge(err) == done {
				err = w.cmds[next].Err()
			}
			next++
		}
		w.errs = append(w.errs, err)
	}
	clear(w.cmds)
}

// drop removes the messages that age_out has skipped.
func (w *worker) drop(batch []*job) []*job {
	kept := batch[:0]
	for _, j := range batch {
		if j.ticket.Abandoned() {
			w.release(j).Dropped(sink.Retention)
			continue
		}
		kept = append(kept, j)
	}
	w.settled(len(batch) - len(kept))
	clear(batch[len(kept):])
	return kept
}

// pause waits before the next try, or until the worker is parked; false if the sink is closed.
func (w *worker) pause(tries int) bool {
	over := time.After(remote.Backoff(tries, w.s.o.BackoffMin, w.s.o.BackoffMax))
	for {
		select {
		case <-over:
			return true
		case <-w.wake:
			if w.toGive() {
				return true
			}
		case <-w.s.ctx.Done():
			return false
		}
	}
}
