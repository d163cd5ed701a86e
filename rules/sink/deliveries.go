package sink

import (
	"sync"
	"sync/atomic"
)

// deliveries counts messages that sinks have taken, by the rule that sent them. Rules of the set in force have a counter, which lasts
// over sets; what a lagging sink takes for one that is gone is counted together, so that there are never more counters than rules.
type deliveries struct {
	sets *ruleSets

	mu    sync.RWMutex
	rules map[string]*atomic.Uint64   // of the set in force
	bySet map[uint32][]*atomic.Uint64 // of sets by index, by rule: found once
	gone  atomic.Uint64
}

// maxDeliverySets bounds bySet. What is thrown away is made again.
const maxDeliverySets = 16

// use has the rules of a set counted one by one.
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

// delivered counts a message that a rule of a set has sent.
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

// find looks the counters of a set up.
func (d *deliveries) find(set uint32) []*atomic.Uint64 {
	s, err := d.sets.get(set)
	if err != nil { // nobody can tell what the rule was
		d.gone.Add(1)
		return nil
	}
	ids := s.ruleIDs()
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

// counts are the messages by rule, and those of rules that are gone.
func (d *deliveries) counts() (rules map[string]uint64, gone uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	rules = make(map[string]uint64, len(d.rules))
	for id, n := range d.rules {
		rules[id] = n.Load()
	}
	return rules, d.gone.Load()
}
