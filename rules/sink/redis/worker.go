package redis

import (
	"context"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"cellgate/rules/sink"
	"cellgate/rules/sink/remote"
)

// worker runs the commands of its share of the VINs, one pipeline at a time.
type worker struct {
	s    *Sink
	wake chan struct{}

	mu    sync.Mutex
	queue []job
}

func (w *worker) add(j job) {
	w.mu.Lock()
	w.queue = append(w.queue, j)
	first := len(w.queue) == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *worker) run() {
	defer w.s.wg.Done()
	var batch []job
	tries := 0
	for {
		if batch = w.fill(batch); len(batch) == 0 {
			return
		}
		rest, err := w.exec(batch)
		clear(batch[len(rest):])
		batch = rest
		w.s.note(w, err)
		if err == nil {
			tries = 0
			continue
		}
		tries++
		if !w.pause(tries) {
			return // what is left stays pending
		}
		batch = drop(batch)
	}
}

// fill tops the batch up from the queue, and waits while there is nothing. An empty batch means that the
// sink is closed and everything done.
func (w *worker) fill(batch []job) []job {
	closing := false
	for {
		w.mu.Lock()
		n := min(len(w.queue), w.s.o.Batch-len(batch))
		batch = append(batch, w.queue[:n]...)
		rest := copy(w.queue, w.queue[n:])
		clear(w.queue[rest:])
		w.queue = w.queue[:rest]
		w.mu.Unlock()
		if len(batch) > 0 || closing {
			return batch
		}
		select {
		case <-w.wake:
		case <-w.s.closing:
			closing = true
		}
	}
}

// exec runs the batch and settles what has an answer. It returns what must be run again, in order, and
// why: the messages that failed for the moment, and behind each the later ones of the same VIN, even if
// they went well, because running the failed one alone would put old over new.
func (w *worker) exec(batch []job) ([]job, error) {
	ctx, cancel := context.WithTimeout(w.s.ctx, time.Minute)
	defer cancel()
	errs := w.pipeline(ctx, batch)
	var (
		rest     []job
		held     map[string]bool // VINs with a message to be run again
		cause    error
		noScript bool
	)
	for i := range batch {
		j := &batch[i]
		v := judge(errs[i])
		switch {
		case held[j.vin]:
			rest = append(rest, *j)
			continue
		case v == done:
			j.ticket.Delivered()
			continue
		case v == refuse:
			j.ticket.Refused(errs[i])
			continue
		case v == script:
			noScript = true
		default:
			cause = errs[i]
		}
		if held == nil {
			held = map[string]bool{}
		}
		held[j.vin] = true
		rest = append(rest, *j)
	}
	if cause == nil && noScript {
		_, cause = loadScript(ctx, w.s.o.Client)
	}
	return append(batch[:0], rest...), cause
}

// pipeline runs the commands of the batch in one go and returns each message's error, the first of its
// commands'.
func (w *worker) pipeline(ctx context.Context, batch []job) []error {
	pipe := w.s.o.Client.Pipeline()
	cmds := make([]*goredis.Cmd, 0, 2*len(batch))
	for i := range batch {
		cmds = append(cmds, pipe.Do(ctx, batch[i].first...))
		if batch[i].second != nil {
			cmds = append(cmds, pipe.Do(ctx, batch[i].second...))
		}
	}
	_, _ = pipe.Exec(ctx) // every command has its own error
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i], cmds = cmds[0].Err(), cmds[1:]
		if batch[i].second != nil {
			if judge(errs[i]) == done {
				errs[i] = cmds[0].Err()
			}
			cmds = cmds[1:]
		}
	}
	return errs
}

// drop takes out the messages that age_out has passed over.
func drop(batch []job) []job {
	kept := batch[:0]
	for _, j := range batch {
		if j.ticket.Abandoned() {
			j.ticket.Dropped(sink.Retention)
			continue
		}
		kept = append(kept, j)
	}
	return kept
}

// pause waits before the next try; false when the sink is closed.
func (w *worker) pause(tries int) bool {
	t := time.NewTimer(remote.Backoff(tries, w.s.o.BackoffMin, w.s.o.BackoffMax))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.s.ctx.Done():
		return false
	}
}
