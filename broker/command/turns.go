package command

import (
	"context"
	"slices"
	"sync"
)

// maxTurns bounds concurrent requests to Redis.
const maxTurns = 64

// turns runs functions that wait for Redis: for one vehicle one at a time in the order of arrival, so that commands are
// accepted in the order of their publication. Callers bound the queue.
type turns struct {
	ctx    context.Context // ends with the service
	places chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	queues map[string][]*turn // of vehicles with a running goroutine
	closed bool
	// Functions added by must are counted by round of arrival, for awaitArrived.
	round   uint64
	rounds  map[uint64]int
	changed chan struct{} // closed when a round ends
}

func newTurns() *turns {
	return &turns{
		places: make(chan struct{}, maxTurns), queues: map[string][]*turn{}, rounds: map[uint64]int{},
		changed: make(chan struct{}),
	}
}

// turn is a queued function.
type turn struct{ run func(context.Context) }

// run calls f on another goroutine when it is the vehicle's turn. If the service is closed it returns false and f is
// not called.
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

// drop removes a turn that has not begun.
func (t *turns) drop(vin string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queues[vin], one); i >= 0 {
		t.queues[vin] = slices.Delete(t.queues[vin], i, i+1)
	}
}

// must is run for functions that awaitArrived waits for.
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

// awaitArrived waits for all functions added by must before the call.
func (t *turns) awaitArrived(ctx context.Context) error {
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

// at limits concurrent calls of ask to maxTurns. If waits ends before there is room, it returns false and does not call
// ask.
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

// close waits for the functions that have begun. ctx has ended, so none begins another call to Redis; one that waits for its
// answer ends when the connection's deadline does.
func (t *turns) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
