package state

import (
	"fmt"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
)

// Apply applies a KindOperatorState record: it forgets a vehicle that has moved to another gateway, or takes over the
// state of one that has come from there. Call it with each such record at its position in the journal, after Advance,
// while no worker runs. It reports whether anything changed. The error wraps ErrBadState and leaves the VIN's state as
// it was.
func (s *State) Apply(rec *message.Record) (done bool, err error) {
	if len(rec.Payload) == 0 {
		return s.leave(rec.Client), nil
	}
	return s.take(rec.Client, rec.Payload, rec.ReceivedAt)
}

// Current returns the same as Export with all times by the current clock, for another gateway, whose clock has other
// steps.
func (s *State) Current(vin string) []byte {
	v := s.shards[ShardOf(vin)].vins[vin]
	if v == nil {
		return nil
	}
	v.at(v.changed+s.shift-v.shift, s.shift) // only the steps, no elapsed time
	return v.append(nil)
}

// Latest calls fn with each VIN until fn returns false: by shard, and in a shard the latest change first.
func (s *State) Latest(fn func(vin string) bool) {
	for i := range s.shards {
		sh := &s.shards[i]
		for v := sh.ring.prev; v != &sh.ring; v = v.prev {
			if !fn(v.vin) {
				return
			}
		}
	}
}

// Valid returns an error for data that Load and Apply would refuse.
func Valid(data []byte) error {
	_, err := unmarshalVIN(data)
	return err
}

func (s *State) leave(vin string) bool {
	sh := &s.shards[ShardOf(vin)]
	v := sh.vins[vin]
	if v != nil {
		sh.forget(v)
	}
	return v != nil
}

// take merges the state of a VIN from another gateway into the one here. For an operator that both have, the state that
// changed later counts. State that does not fit into a VIN's bytes is not taken.
func (s *State) take(vin string, data []byte, now int64) (bool, error) {
	sh := &s.shards[ShardOf(vin)]
	v, err := unmarshalVIN(data)
	if err != nil {
		return false, fmt.Errorf("vin %s: %w", vin, err)
	}
	v.shift = s.shift // its times are by the current clock
	v.at(now, s.shift)
	s.keepRemoved(v.ops, now)
	old := sh.vins[vin]
	if old != nil {
		old.at(now, s.shift)
		if own := old.changed >= v.changed; own {
			v.ops = joined(old.ops, v.ops)
		} else {
			v.ops = joined(v.ops, old.ops)
		}
		v.changed = max(v.changed, old.changed)
	}
	if s.over(v) > 0 {
		s.makeRoom(v)
	}
	if s.over(v) > 0 {
		s.opts.Evicted("vin_bytes", 1)
		return false, nil
	}
	s.replace(sh, strings.Clone(vin), old, v)
	if n := len(s.removed.since) - maxRemoved; n > 0 {
		s.forgetOldest(n)
		s.removed.changed()
	}
	return true, nil
}

// replace replaces a VIN's state, as if a message had changed it.
func (s *State) replace(sh *stateShard, vin string, old, v *vinState) {
	if old != nil {
		v.stored = old.stored
		sh.remove(old)
	}
	for len(sh.vins) >= sh.limit {
		sh.evict()
		s.opts.Evicted("vins", 1)
	}
	sh.clock++
	v.touched = sh.clock
	sh.add(vin, v)
	sh.mark(v)
	sh.wake(v, s.dueOf(v))
}

// joined returns the memories of first, and those of then whose operators first does not have.
func joined(first, then []Memory) []Memory {
	all := slices.Clone(first)
	for i := range then {
		at, there := slices.BinarySearchFunc(all, then[i].key, func(m Memory, key uint64) int {
			switch {
			case m.key < key:
				return -1
			case m.key > key:
				return 1
			}
			return 0
		})
		if !there {
			all = slices.Insert(all, at, then[i])
		}
	}
	return all
}

// keepRemoved treats operators without a rule in force as removed now: the other gateway may have another set.
func (s *State) keepRemoved(ops []Memory, now int64) {
	change := false
	for i := range ops {
		key := ops[i].key
		if _, there := s.keys[key]; there {
			continue
		}
		if _, known := s.removed.since[key]; !known {
			s.removed.since[key], change = now-s.shift, true
		}
	}
	if change {
		s.removed.changed()
	}
}
