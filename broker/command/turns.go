package command

import (
	"context"
	"sync"
)

// maxTurns bounds what is asked of Redis at once.
const maxTurns = 64

// turns runs what waits for Redis: of one vehicle one after the other, in the order in which it came, so that commands are
// accepted in the order of their publication. Callers bound how much waits.
type turns struct {
	ctx    context.Context // ends with the service
	places chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	queues map[string][]func(context.Context) // of vehicles with a goroutine at work
	closed bool
	// What must be done is counted by the round in which it came, for settled.
	round   uint64
	rounds  map[uint64]int
	changed chan struct{} // closed when a round is over
}

func newTurns() *turns {
	return &turns{
		places: make(chan struct{}, maxTurns), queues: map[string][]func(context.Context){}, rounds: map[uint64]int{},
		changed: make(chan struct{}),
	}
}

// run has f called when it is the vehicle's turn, on another goroutine. It reports false when the service is closed: f is not
// called then.
func (t *turns) run(vin string, f func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	waiting, busy := t.queues[vin]
	t.queues[vin] = append(waiting, f)
	if !busy {
		t.wg.Go(func() { t.work(vin) })
	}
	return true
}

// must is run for what settled waits for.
func (t *turns) must(vin string, f func(context.Context)) bool {
	t.mu.Lock()
	round := t.round
	t.rounds[round]++
	t.mu.Unlock()
	done := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.rounds[round]--; t.rounds[round] == 0 {
			delete(t.rounds, round)
			close(t.changed)
			t.changed = make(chan struct{})
		}
	}
	ok := t.run(vin, func(ctx context.Context) {
		defer done()
		f(ctx)
	})
	if !ok {
		done()
	}
	return ok
}

// settled waits for what had to be done before it was called.
func (t *turns) settled(ctx context.Context) error {
	t.mu.Lock()
	round := t.round
	t.round++
	t.mu.Unlock()
	for {
		t.mu.Lock()
		waits := false
		for r := range t.rounds {
			waits = waits || r <= round
		}
		changed := t.changed
		t.mu.Unlock()
		if !waits {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work empties a vehicle's queue.
func (t *turns) work(vin string) {
	for {
		t.mu.Lock()
		queue := t.queues[vin]
		if len(queue) == 0 {
			delete(t.queues, vin)
			t.mu.Unlock()
			return
		}
		f := queue[0]
		t.queues[vin] = queue[1:]
		t.mu.Unlock()
		f(t.ctx)
	}
}

// at has a place at Redis while ask runs.
func (t *turns) at(ask func()) {
	t.places <- struct{}{}
	defer func() { <-t.places }()
	ask()
}

// close waits for what was begun. The context has ended by then: nothing waits for Redis any longer.
func (t *turns) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
