package app

import (
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"

	"cellgate/broker"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// settlement notifies connections when the rules' Kafka targets have accepted their messages, for uplink.ack: kafka. A
// record waits only for its own messages.
type settlement struct {
	mu      sync.Mutex // guards the fields below
	sinks   []*watched
	mark    uint64                               // lowest mark of the sinks
	ahead   waiters                              // waiters for the mark, lowest sequence first; those up to the mark are due
	blocked map[uint64][]broker.SettlementWaiter // waiters for a record that a sink has begun
	held    int                                  // number of waiters
	swept   int                                  // number of waiters left by the last sweep

	wake  chan struct{}
	ended chan struct{}
	done  chan struct{}
}

// newSettlement watches the sinks that write to the cell's Kafka.
func newSettlement(sinks []sink.Binding) *settlement {
	s := &settlement{
		blocked: map[uint64][]broker.SettlementWaiter{}, wake: make(chan struct{}, 1),
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	for i := range sinks {
		if kind := sinks[i].Sink.Kind(); kind == op.SinkKafka || kind == op.SinkCentral {
			s.sinks = append(s.sinks, &watched{s: s, open: sequences{}})
			sinks[i].Watch = s.sinks[len(s.sinks)-1]
		}
	}
	go s.run()
	return s
}

// watched is a watched sink.
type watched struct {
	s    *settlement
	mark uint64
	open sequences // begun and not done
}

// Reached implements sink.Watcher.
func (w *watched) Reached(mark uint64) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	w.mark = mark
	for _, other := range s.sinks {
		mark = min(mark, other.mark)
	}
	if mark > s.mark {
		s.mark = mark
		s.kick()
	}
}

// Begun implements sink.Watcher.
func (w *watched) Begun(seq uint64) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.open.add(seq)
}

// Done implements sink.Watcher.
func (w *watched) Done(seq uint64) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	w.open.remove(seq)
	due := s.blocked[seq]
	if due == nil || s.openLocked(seq) {
		return
	}
	delete(s.blocked, seq)
	for _, b := range due {
		heap.Push(&s.ahead, waiter{seq, b})
	}
	s.kick()
}

func (s *settlement) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Settled implements broker.Settlement.
func (s *settlement) Settled(seq uint64, w broker.SettlementWaiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case seq > s.mark:
		heap.Push(&s.ahead, waiter{seq, w})
	case s.openLocked(seq):
		s.blocked[seq] = append(s.blocked[seq], w)
	default:
		return true
	}
	if s.held++; s.held >= 2*max(s.swept, sweepAbove) {
		s.sweepLocked()
	}
	return false
}

func (s *settlement) openLocked(seq uint64) bool {
	return slices.ContainsFunc(s.sinks, func(w *watched) bool { return w.open.has(seq) })
}

// sweepAbove is half the number of waiters at which the first sweep runs.
const sweepAbove = 1024

// sweepLocked drops the waiters whose connections have ended. While Kafka is away vehicles may come and go many times;
// the number held stays below twice the number of live waiters.
func (s *settlement) sweepLocked() {
	s.ahead = slices.DeleteFunc(s.ahead, func(w waiter) bool { return w.w.Gone() })
	heap.Init(&s.ahead)
	s.held = len(s.ahead)
	for seq, all := range s.blocked {
		s.blocked[seq] = slices.DeleteFunc(all, broker.SettlementWaiter.Gone)
		s.held += len(s.blocked[seq])
	}
	maps.DeleteFunc(s.blocked, func(_ uint64, all []broker.SettlementWaiter) bool { return len(all) == 0 })
	s.swept = s.held
}

func (s *settlement) run() {
	defer close(s.done)
	for {
		select {
		case <-s.ended:
			return
		case <-s.wake:
		}
		for w := s.next(); w != nil; w = s.next() {
			w.Settled()
		}
	}
}

// next returns a waiter whose record has settled; nil if there is none.
func (s *settlement) next() broker.SettlementWaiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ahead) > 0 && s.ahead[0].seq <= s.mark {
		due := heap.Pop(&s.ahead).(waiter) //nolint:forcetypeassert // the heap holds nothing else
		if !s.openLocked(due.seq) {
			s.held--
			return due.w
		}
		s.blocked[due.seq] = append(s.blocked[due.seq], due.w)
	}
	return nil
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
func (h *waiters) Push(x any) { *h = append(*h, x.(waiter)) } //nolint:forcetypeassert // nothing else is pushed

// Pop implements heap.Interface.
func (h *waiters) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = waiter{}
	*h = old[:len(old)-1]
	return w
}

// sequences is a set of sequences. An entry costs two bytes in a page with others; a page costs about 60 bytes.
type sequences map[uint64][]uint16 // by page, in order

// pageSize is how many sequences share a page.
const pageSize = 1 << 12

func split(seq uint64) (page uint64, low uint16) { return seq / pageSize, uint16(seq % pageSize) } //nolint:gosec // below pageSize

func (s sequences) add(seq uint64) {
	page, low := split(seq)
	if i, found := slices.BinarySearch(s[page], low); !found {
		s[page] = slices.Insert(s[page], i, low)
	}
}

func (s sequences) remove(seq uint64) {
	page, low := split(seq)
	i, found := slices.BinarySearch(s[page], low)
	if !found {
		return
	}
	if s[page] = slices.Delete(s[page], i, i+1); len(s[page]) == 0 {
		delete(s, page)
	}
}

func (s sequences) has(seq uint64) bool {
	page, low := split(seq)
	_, found := slices.BinarySearch(s[page], low)
	return found
}
