package broker

import (
	"slices"
	"strings"
	"sync"

	"cellgate/broker/message"
)

// retainedTopics are the retained messages by the first two levels of their topic, v1/{vin}, so that a
// filter with these two written out looks at one vehicle's alone.
//
// mochi's index could hold them, but as packets of 800 bytes each, and a filter a/# would miss a itself.
type retainedTopics struct {
	mu       sync.RWMutex
	byBranch map[string]map[string]*message.Record
}

// branch is the first two levels of a topic, or the topic if it has fewer.
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

// retain stores the message, or takes the one on its topic away when the payload is empty.
func (r *retainedTopics) retain(msg *message.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := branch(msg.Topic)
	topics := r.byBranch[key]
	if len(msg.Payload) == 0 {
		delete(topics, msg.Topic)
		if len(topics) == 0 {
			delete(r.byBranch, key)
		}
		return
	}
	if topics == nil {
		topics = make(map[string]*message.Record, 1)
		r.byBranch[strings.Clone(key)] = topics
	}
	topics[msg.Topic] = msg
}

// match calls fn, without the lock, for every message whose topic the filter matches, in the order of the
// topics.
func (r *retainedTopics) match(filter string, fn func(*message.Record)) {
	var found []*message.Record
	r.mu.RLock()
	if key := branch(filter); !strings.ContainsAny(key, "+#") {
		found = appendMatches(found, r.byBranch[key], filter)
	} else {
		for _, topics := range r.byBranch {
			found = appendMatches(found, topics, filter)
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(found, func(a, b *message.Record) int { return strings.Compare(a.Topic, b.Topic) })
	for _, msg := range found {
		fn(msg)
	}
}

func appendMatches(found []*message.Record, topics map[string]*message.Record, filter string) []*message.Record {
	for topic, msg := range topics {
		if message.Match(filter, topic) {
			found = append(found, msg)
		}
	}
	return found
}
