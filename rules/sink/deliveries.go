package sink

import (
	"sync"
	"sync/atomic"
)

// deliveries counts delivered messages by rule. Each rule of the set in force has a counter, which persists over sets.
// Messages of other rules, from a lagging sink, share one counter, so that there are never more counters than rules.
type deliveries struct {
	sets *ruleSets

	mu    sync.RWMutex
	rules map[string]*atomic.Uint64   // of the set in force
	bySet map[uint32][]*atomic.Uint64 // by set index and rule, filled on demand
	gone  atomic.Uint64
}

// maxDeliverySets bounds bySet, which can be rebuilt.
const maxDeliverySets = 16

// use gives each rule of a set its own counter.
func (d *deliveries) use(ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rules := make(map[string]*atomic.Uint64, len(ids))
	for _, id := range ids {
		if rules[id] = d.rules[id]; rules[id] == nil {
			rules[id] = &atomic.Uint64{}
		}
	}
	for id, n := range d.rules {
		if rules[id] == nil {
			d.gone.Add(n.Load())
		}
	}
	d.rules, d.bySet = rules, map[uint32][]*atomic.Uint64{}
}

// delivered counts a message of a rule.
func (d *deliveries) delivered(set uint32, rule uint16) {
	d.mu.RLock()
	counters := d.bySet[set]
	d.mu.RUnlock()
	if counters == nil {
		counters = d.find(set)
	}
	if int(rule) < len(counters) {
		counters[rule].Add(1)
	}
}

// find returns the counters of a set.
func (d *deliveries) find(set uint32) []*atomic.Uint64 {
	s, err := d.sets.get(set)
	if err != nil { // the rule is unknown
		d.gone.Add(1)
		return nil
	}
	ids := s.ids
	d.mu.Lock()
	defer d.mu.Unlock()
	counters := make([]*atomic.Uint64, len(ids))
	for i, id := range ids {
		if counters[i] = d.rules[id]; counters[i] == nil {
			counters[i] = &d.gone
		}
	}
	if len(d.bySet) >= maxDeliverySets || d.bySet == nil {
		d.bySet = map[uint32][]*atomic.Uint64{}
	}
	d.bySet[set] = counters
	return counters
}

// counts returns the messages by rule, and those of removed rules.
func (d *deliveries) counts() (rules map[string]uint64, gone uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	rules = make(map[string]uint64, len(d.rules))
	for id, n := range d.rules {
		rules[id] = n.Load()
	}
	return rules, d.gone.Load()
}
