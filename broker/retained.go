package broker

import (
	"strings"
	"sync"
	"sync/atomic"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

// retainedTopics holds the retained messages by the first two levels of their topics, v1/{vin}. A filter without
// wildcards in these levels reads only one vehicle's messages.
//
// Every entry keeps its slot while it exists, so that a reader of all entries can stop and continue. Readers walk the
// slots without a lock, so that the fan-out, which writes, never waits for a walk.
//
// mochi's index would need 800 bytes per message, and its a/# misses a.
type retainedTopics struct {
	mu       sync.RWMutex // serialises writers; readers take it to find one branch
	branches *slots[retainedBranch]
}

// retainedBranch holds the messages whose topics share the first two levels.
type retainedBranch = slots[message.Record]

func newRetainedTopics() retainedTopics {
	return retainedTopics{branches: newSlots[retainedBranch]()}
}

// slots holds values by key and by slot number. Only all may be called concurrently with the other methods.
type slots[T any] struct {
	at    map[string]int
	items atomic.Pointer[[]atomic.Pointer[T]]
	used  int // items below it have been used
	free  []int
}

func newSlots[T any]() *slots[T] {
	s := &slots[T]{at: make(map[string]int, 1)}
	s.items.Store(new([]atomic.Pointer[T]))
	return s
}

// all returns the slots; a slot without a value is nil. Values that are put later may be missing.
func (s *slots[T]) all() []atomic.Pointer[T] { return *s.items.Load() }

func (s *slots[T]) get(key string) *T {
	if i, ok := s.at[key]; ok {
		return s.all()[i].Load()
	}
	return nil
}

func (s *slots[T]) put(key string, v *T) {
	i, known := s.at[key]
	switch {
	case known:
	case len(s.free) > 0:
		i = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	default:
		i = s.used
		s.used++
		s.grow()
	}
	s.all()[i].Store(v)
	s.at[key] = i
}

// grow makes room for the last slot used. Readers continue with the array that they have.
func (s *slots[T]) grow() {
	old := s.all()
	if s.used <= len(old) {
		return
	}
	items := make([]atomic.Pointer[T], s.used+s.used/2)
	for i := range old {
		items[i].Store(old[i].Load())
	}
	s.items.Store(&items)
}

func (s *slots[T]) remove(key string) {
	if i, ok := s.at[key]; ok {
		s.all()[i].Store(nil)
		s.free = append(s.free, i)
		delete(s.at, key)
	}
}

// branch returns the first two levels of a topic, or the topic if it has fewer.
func branch(topic string) string {
	first := strings.IndexByte(topic, '/')
	if first < 0 {
		return topic
	}
	if second := strings.IndexByte(topic[first+1:], '/'); second >= 0 {
		return topic[:first+1+second]
	}
	return topic
}

// retain stores the message; an empty payload removes the one on its topic.
func (r *retainedTopics) retain(msg *message.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := branch(msg.Topic)
	b := r.branches.get(key)
	switch {
	case b == nil && len(msg.Payload) == 0:
	case len(msg.Payload) == 0:
		if b.remove(msg.Topic); len(b.at) == 0 {
			r.branches.remove(key)
		}
	case b == nil:
		b = newSlots[message.Record]()
		r.branches.put(strings.Clone(key), b)
		fallthrough
	default:
		b.put(msg.Topic, msg)
	}
}

// match calls fn for the messages whose topics match the filter. It continues at the position at and stops after about
// most entries; more reports that entries are left. Messages that are retained or removed meanwhile may or may not be
// among them.
func (r *retainedTopics) match(filter string, at *session.RetainedAt, most int, fn func(*message.Record)) (more bool) {
	key := branch(filter)
	if !strings.ContainsAny(key, "+#") {
		r.mu.RLock()
		b := r.branches.get(key)
		r.mu.RUnlock()
		return b != nil && matchBranch(b.all(), filter, at, &most, fn)
	}
	branches := r.branches.all()
	for ; at.Branch < len(branches); at.Branch, at.Slot = at.Branch+1, 0 {
		if most <= 0 {
			return true
		}
		most--
		if b := branches[at.Branch].Load(); b != nil && matchBranch(b.all(), filter, at, &most, fn) {
			return true
		}
	}
	return false
}

// matchBranch is match for the messages of a branch. Each entry takes one of most.
func matchBranch(items []atomic.Pointer[message.Record], filter string, at *session.RetainedAt, most *int, fn func(*message.Record)) (more bool) {
	for ; at.Slot < len(items); at.Slot++ {
		if *most <= 0 {
			return true
		}
		*most--
		if msg := items[at.Slot].Load(); msg != nil && message.Match(filter, msg.Topic) {
			fn(msg)
		}
	}
	return false
}
