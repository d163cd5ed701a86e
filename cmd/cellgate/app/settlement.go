package app

import (
	"container/heap"
	"context"
	"slices"
	"sync"

	"cellgate/broker"
)

// settlement tells connections when the rules' Kafka targets have taken their messages, for uplink.ack:
// kafka. Its mark is the lowest cursor of the sinks that it watches.
type settlement struct {
	mu      sync.Mutex // guards below
	cursors map[string]uint64
	mark    uint64
	waiting waiters
	swept   int // waiters that the last sweep left
	wake    chan struct{}
	ended   chan struct{}
	done    chan struct{}
}

func newSettlement(sinks ...string) *settlement {
	s := &settlement{
		cursors: make(map[string]uint64, len(sinks)), wake: make(chan struct{}, 1),
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	for _, name := range sinks {
		s.cursors[name] = 0
	}
	go s.run()
	return s
}

// watch returns the function that a sink's cursor is reported to. It does not block.
func (s *settlement) watch(sink string) func(cursor uint64) {
	return func(cursor uint64) {
		s.mu.Lock()
		s.cursors[sink] = cursor
		lowest := cursor
		for _, c := range s.cursors {
			lowest = min(lowest, c)
		}
		moved := lowest > s.mark
		s.mark = max(s.mark, lowest)
		s.mu.Unlock()
		if moved {
			s.kick()
		}
	}
}

func (s *settlement) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Notify implements broker.Settlement.
func (s *settlement) Notify(seq uint64, w broker.SettlementWaiter) {
	s.mu.Lock()
	if len(s.waiting) >= 2*max(s.swept, sweepAbove) {
		s.sweepLocked()
	}
	heap.Push(&s.waiting, waiter{seq, w})
	due := seq <= s.mark
	s.mu.Unlock()
	if due {
		s.kick()
	}
}

// sweepAbove is how many waiters are held without a look at whether they are still there.
const sweepAbove = 1024

// sweepLocked forgets the waiters whose connections have ended. While Kafka is away vehicles may come and go a
// thousand times; what is held stays below twice the waiters that there are.
func (s *settlement) sweepLocked() {
	s.waiting = slices.DeleteFunc(s.waiting, func(w waiter) bool { return w.w.Gone() })
	s.swept = len(s.waiting)
	heap.Init(&s.waiting)
}

func (s *settlement) run() {
	defer close(s.done)
	for {
		select {
		case <-s.ended:
			return
		case <-s.wake:
		}
		for w, mark, ok := s.next(); ok; w, mark, ok = s.next() {
			w.Settled(mark)
		}
	}
}

// next takes a waiter that is due.
func (s *settlement) next() (broker.SettlementWaiter, uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 || s.waiting[0].seq > s.mark {
		return nil, 0, false
	}
	return heap.Pop(&s.waiting).(waiter).w, s.mark, true //nolint:forcetypeassert // the heap holds nothing else
}

func (s *settlement) close(ctx context.Context) error {
	close(s.ended)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waiter waits for the mark to reach seq.
type waiter struct {
	seq uint64
	w   broker.SettlementWaiter
}

// waiters is a heap, the lowest sequence first.
type waiters []waiter

func (h waiters) Len() int           { return len(h) }
func (h waiters) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h waiters) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *waiters) Push(x any) { *h = append(*h, x.(waiter)) } //nolint:forcetypeassert // only Notify pushes

// Pop implements heap.Interface.
func (h *waiters) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = waiter{}
	*h = old[:len(old)-1]
	return w
}
