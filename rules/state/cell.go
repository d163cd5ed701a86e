package state

import "slices"

// remember appends an entry to an operator's list and trims the list to keep entries. If the VIN exceeds its bytes,
// operators without rules lose their memory first, then the list its oldest entries. Evictions are counted. o is
// invalid afterwards.
func (s *State) remember(v *vinState, o *Memory, e Stamp, keep int) {
	o.List = append(o.List, e)
	if n := len(o.List) - keep; n > 0 {
		o.List = o.List[:copy(o.List, o.List[n:])]
		s.opts.Evicted("rule_entries", n)
	}
	key, own := o.key, slices.IndexFunc(v.ops, func(m Memory) bool { return m.key == o.key })
	if own >= 0 && &v.ops[own] != o {
		own = -1 // o is the memory of a value of by, which does not move
	}
	if s.over(v) > 0 && s.makeRoom(v) && own >= 0 {
		at, _ := v.find(key)
		o = &v.ops[at]
	}
	n := 0
	for over := s.over(v); over > maxStamp*n && len(o.List) > 1; n++ {
		o.List = o.List[:copy(o.List, o.List[1:])]
	}
	if n > 0 {
		s.opts.Evicted("vin_bytes", n)
	}
}

// makeRoom forgets the memory of a VIN's operators without rules and reports whether there was any.
func (s *State) makeRoom(v *vinState) bool {
	gone := s.giveWay(v)
	if gone > 0 {
		s.opts.Evicted("removed_rules", gone)
	}
	return gone > 0
}

// Cell addresses one operator's memory of one VIN, at the time of a message or tick.
type Cell struct {
	State *State
	VIN   string
	Key   uint64
	// Received is the time of receipt of the message or tick, Now the operator's time, both in ms since the Unix epoch.
	// They are equal unless the operator uses the vehicle's clock; for a tick, Now is the due time.
	Received, Now int64
	// Tick means that there is no message, Event that Now is the vehicle's clock.
	Tick, Event bool
	// By is the hash of the value of by whose memory this is. Values is the maximum number of values; 0 if the operator
	// has no by.
	By     uint64
	Values int
}

// Peek returns the memory, nil if there is none. It is valid until the next Touch of the VIN.
func (c *Cell) Peek() *Memory {
	m := c.State.peek(c)
	if m == nil || c.Values == 0 {
		return m
	}
	if i := m.keyOf(c.By); i >= 0 {
		return &m.keyed[i]
	}
	return nil
}

// Touch returns the memory for an immediate change, creating it if needed. It marks the VIN as changed.
func (c *Cell) Touch() Touched {
	m, v := c.State.touch(c)
	if c.Values > 0 {
		m = c.State.touchKey(v, m, c)
	}
	return Touched{m, v, c.State}
}

func (o *Memory) keyOf(by uint64) int {
	for i := range o.keyed {
		if o.keyed[i].key == by {
			return i
		}
	}
	return -1
}

// touchKey returns the memory of a value of by, creating it if needed. If there are too many values, the one that
// changed longest ago is forgotten.
func (s *State) touchKey(v *vinState, o *Memory, c *Cell) *Memory {
	if i := o.keyOf(c.By); i >= 0 {
		m := o.keyed[i]
		o.keyed = append(slices.Delete(o.keyed, i, i+1), m)
		return &o.keyed[len(o.keyed)-1]
	}
	o.keyed = append(o.keyed, Memory{key: c.By})
	if n := len(o.keyed) - c.Values; n > 0 {
		o.keyed = slices.Delete(o.keyed, 0, n)
		s.opts.Evicted("rule_keys", n)
	}
	if s.over(v) > 0 && s.makeRoom(v) {
		at, _ := v.find(c.Key)
		o = &v.ops[at]
	}
	n := 0
	for len(o.keyed) > 1 && s.over(v) > 0 {
		o.keyed, n = slices.Delete(o.keyed, 0, 1), n+1
	}
	if n > 0 {
		s.opts.Evicted("vin_bytes", n)
	}
	return &o.keyed[len(o.keyed)-1]
}

// Touched is a memory that is being changed.
type Touched struct {
	*Memory
	vin   *vinState
	state *State
}

// Expire drops the list's entries that are not after until.
func (t Touched) Expire(until int64) {
	n := 0
	for n < len(t.List) && t.List[n].At <= until {
		n++
	}
	if n > 0 {
		t.List = t.List[:copy(t.List, t.List[n:])]
	}
}

// Remember appends an entry to the list, within keep entries and the VIN's bytes. The memory is invalid afterwards.
func (t Touched) Remember(e Stamp, keep int) { t.state.remember(t.vin, t.Memory, e, keep) }
