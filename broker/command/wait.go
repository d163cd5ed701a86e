package command

import (
	"context"
	"sync"
)

// maxWaiters bounds the commands that are waited for; beyond it Wait returns at once.
const maxWaiters = 10_000

// waiter is the commands' end for everybody who waits for it.
type waiter struct {
	done chan struct{}
	n    int
}

type waiters struct {
	mu   sync.Mutex
	byID map[string]*waiter
}

// join returns a channel that is closed at the command's end, nil when too many wait.
func (w *waiters) join(id string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.byID[id]
	if x == nil {
		if len(w.byID) >= maxWaiters {
			return nil
		}
		x = &waiter{done: make(chan struct{})}
		w.byID[id] = x
	}
	x.n++
	return x.done
}

func (w *waiters) leave(id string, done <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byID[id]; x != nil && x.done == done {
		if x.n--; x.n == 0 {
			delete(w.byID, id)
		}
	}
}

func (w *waiters) notify(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byID[id]; x != nil {
		close(x.done)
		delete(w.byID, id)
	}
}

// Wait returns the command once it is final, or as it is when ctx ends, which is no error.
func (s *Service) Wait(ctx context.Context, vin, id string) (Command, error) {
	done := s.waiters.join(id)
	if done == nil {
		return s.Get(vin, id)
	}
	defer s.waiters.leave(id, done)
	cmd, err := s.Get(vin, id)
	if err != nil || cmd.State.Final() {
		return cmd, err
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return s.Get(vin, id)
}
