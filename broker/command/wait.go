package command

import (
	"context"
	"sync"
	"time"
)

// maxWaiters bounds the commands that callers wait for; beyond it Wait returns at once.
const maxWaiters = 10_000

// waiter signals the end of a command to all its waiters.
type waiter struct {
	done chan struct{}
	n    int
}

type waiters struct {
	mu   sync.Mutex
	byID map[string]*waiter
}

// join returns a channel that is closed when the command ends, or nil if there are too many waiters.
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

// wait returns the command once it is final. If ctx ends first, it returns the current state without error.
func (s *Service) wait(ctx context.Context, vin, id string) (Command, error) {
	done := s.waiters.join(id)
	if done == nil {
		return s.Get(ctx, vin, id)
	}
	defer s.waiters.leave(id, done)
	cmd, err := s.Get(ctx, vin, id)
	if err != nil || cmd.State.Final() {
		return cmd, err
	}
	if s.o.Cell != nil {
		return s.waitTogether(ctx, done, cmd)
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return s.Get(ctx, vin, id)
}

// lookEvery is how often Wait rereads a command, because another gateway's notice of its end may be lost.
const lookEvery = 2 * time.Second

// waitTogether is Wait with several gateways. While Redis is away it returns the state last read.
func (s *Service) waitTogether(ctx context.Context, done <-chan struct{}, cmd Command) (Command, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return s.localView(cmd.VIN, cmd.ID)
		case <-ctx.Done():
			return cmd, nil
		case <-tick.C:
		}
		if now, err := s.Get(ctx, cmd.VIN, cmd.ID); err == nil {
			cmd = now
		}
		if cmd.State.Final() {
			return cmd, nil
		}
	}
}
