package broker

import (
	"strings"
	"sync"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

// retainedTopics holds the retained messages by the first two levels of their topics, v1/{vin}. A filter without
// wildcards in these levels reads only one vehicle's messages.
//
// Every entry keeps its slot while it exists, so that a reader of all entries can stop and continue.
//
// mochi's index would need 800 bytes per message, and its a/# misses a.
type retainedTopics struct {
	mu       sync.RWMutex
	branches slots[*retainedBranch]
}

// retainedBranch holds the messages whose topics share the first two levels.
type retainedBranch = slots[*message.Record]

func newRetainedTopics() retainedTopics {
	return retainedTopics{branches: slots[*retainedBranch]{at: make(map[string]int)}}
}

// slots holds values by key and by slot number.
type slots[T comparable] struct {
	at    map[string]int
	items []T
	free  []int
}

func (s *slots[T]) get(key string) (v T) {
	if i, ok := s.at[key]; ok {
		v = s.items[i]
	}
	return v
}

func (s *slots[T]) put(key string, v T) {
	i, known := s.at[key]
	switch {
	case known:
	case len(s.free) > 0:
		i = s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
	default:
		var none T
		i = len(s.items)
		s.items = append(s.items, none)
	}
	s.items[i], s.at[key] = v, i
}

func (s *slots[T]) remove(key string) {
	if i, ok := s.at[key]; ok {
		var none T
		s.items[i] = none
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
		b = &retainedBranch{at: make(map[string]int, 1)}
		r.branches.put(strings.Clone(key), b)
		fallthrough
	default:
		b.put(msg.Topic, msg)
	}
}

// match calls fn for the messages whose topics match the filter. It continues at the position at and stops after about
// most entries; more reports that entries are left. fn must not call match or retain.
func (r *retainedTopics) match(filter string, at *session.RetainedAt, most int, fn func(*message.Record)) (more bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	branches := r.branches.items
	if key := branch(filter); !strings.ContainsAny(key, "+#") {
		branches = []*retainedBranch{r.branches.get(key)}
	}
	for ; at.Branch < len(branches); at.Branch, at.Slot = at.Branch+1, 0 {
		b := branches[at.Branch]
		if most--; b == nil {
			b = &retainedBranch{}
		}
		for ; at.Slot < len(b.items); at.Slot++ {
			if most <= 0 {
				return true
			}
			if msg := b.items[at.Slot]; msg != nil && message.Match(filter, msg.Topic) {
				fn(msg)
			}
			most--
		}
		if most <= 0 {
			at.Branch, at.Slot = at.Branch+1, 0
			return at.Branch < len(branches)
		}
	}
	return false
}
