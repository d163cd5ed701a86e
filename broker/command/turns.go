package command

import (
	"context"
	"slices"
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
	queues map[string][]*turn // of vehicles with a goroutine at work
	closed bool
	// What must be done is counted by the round in which it came, for settled.
	round   uint64
	rounds  map[uint64]int
	changed chan struct{} // closed when a round is over
}

func newTurns() *turns {
	return &turns{
		places: make(chan struct{}, maxTurns), queues: map[string][]*turn{}, rounds: map[uint64]int{},
		changed: make(chan struct{}),
	}
}

// turn is what waits for a vehicle's turn.
type turn struct{ run func(context.Context) }

// run has f called when it is the vehicle's turn, on another goroutine. It reports false when the service is closed: f is not
// called then.
func (t *turns) run(vin string, f func(context.Context)) bool { return t.add(vin, &turn{f}) }

func (t *turns) add(vin string, one *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	waiting, busy := t.queues[vin]
	t.queues[vin] = append(waiting, one)
	if !busy {
		t.wg.Go(func() { t.work(vin) })
	}
	return true
}

// drop takes back what has not begun.
func (t *turns) drop(vin string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queues[vin], one); i >= 0 {
		t.queues[vin] = slices.Delete(t.queues[vin], i, i+1)
	}
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
		one := queue[0]
		t.queues[vin] = queue[1:]
		t.mu.Unlock()
		one.run(t.ctx)
	}
}

// at has a place at Redis while ask runs. It reports false when who waits for that does so no longer: ask is not called then.
func (t *turns) at(waits context.Context, ask func()) bool {
	select {
	case t.places <- struct{}{}:
	case <-waits.Done():
		return false
	}
	defer func() { <-t.places }()
	if waits.Err() != nil {
		return false
	}
	ask()
	return true
}

// close waits for what was begun. The context has ended by then: nothing waits for Redis any longer.
func (t *turns) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
