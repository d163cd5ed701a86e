package state

import (
	"maps"
	"math"
)

// never is later than any due time.
const never = math.MaxInt64

// Before implements heap.Item: VINs are ordered by due time, then by VIN. A VIN's due time may be too early, since a
// message that postpones an operator does not update the heap. It is corrected when the VIN comes to the front.
func (v *vinState) Before(other *vinState) bool {
	return v.due < other.due || v.due == other.due && v.vin < other.vin
}

// Place implements heap.Item.
func (v *vinState) Place() *int32 { return &v.place }

// wake makes sure that a VIN is checked at due, which is in the time of the clock before all its steps.
func (sh *stateShard) wake(v *vinState, due int64) {
	if due != never && (v.place == 0 || due < v.due) {
		v.due = due
		sh.due.Put(v)
	}
}

// dueOf returns when the first operator of a VIN is due, in the time of the clock before all its steps.
func (s *State) dueOf(v *vinState) int64 {
	due := int64(never)
	for i := range v.ops {
		if o := &v.ops[i]; o.Due != 0 && o.Due-v.shift < due && s.waits(o.key) {
			due = o.Due - v.shift
		}
	}
	return due
}

// waits reports whether an operator of the rules in force may be due without a message.
func (s *State) waits(key uint64) bool {
	_, ok := s.wakes[key]
	return ok
}

// schedule rebuilds the due times for a set's operators. It returns the operators that the previous set did not have.
func (s *State) schedule(wakes map[uint64]struct{}) (fresh map[uint64]struct{}) {
	if s.wakes != nil {
		fresh = maps.Clone(wakes)
		maps.DeleteFunc(fresh, func(key uint64, _ struct{}) bool { return s.waits(key) })
	}
	s.wakes = make(map[uint64]struct{}, len(wakes))
	maps.Copy(s.wakes, wakes)
	for i := range s.shards {
		sh := &s.shards[i]
		for _, v := range sh.due {
			v.place = 0
		}
		clear(sh.due)
		sh.due = sh.due[:0]
		for _, v := range sh.vins {
			sh.wake(v, s.dueOf(v))
		}
	}
	return fresh
}

// first returns the VIN of a shard that is due first, nil if there is none.
func (s *State) first(sh *stateShard) *vinState {
	for len(sh.due) > 0 {
		v := sh.due[0]
		switch due := s.dueOf(v); due {
		case v.due:
			return v
		case never:
			sh.due.Remove(v)
		default:
			v.due = due
			sh.due.Put(v)
		}
	}
	return nil
}

// Due is an operator that is due without a message. At is in ms since the Unix epoch.
type Due struct {
	VIN string
	Key uint64
	At  int64
}

// TakeDue removes and returns the operator of a shard that is due first, if it is due by now. Operators come in the
// order of their due times, whatever was called before.
func (s *State) TakeDue(shard int, now int64) (Due, bool) {
	sh := &s.shards[shard]
	v := s.first(sh)
	if v == nil || v.due > now-s.shift {
		return Due{}, false
	}
	for i := range v.ops {
		o := &v.ops[i]
		if o.Due != 0 && o.Due-v.shift == v.due && s.waits(o.key) {
			d := Due{VIN: v.vin, Key: o.key, At: o.Due - v.shift + s.shift}
			o.Due = 0
			sh.mark(v)
			return d, true
		}
	}
	return Due{}, false
}

// NextDue returns when the first operator is due, by the current clock; false if there is none.
func (s *State) NextDue() (int64, bool) {
	due := int64(never)
	for i := range s.shards {
		if sh := &s.shards[i]; len(sh.due) > 0 && sh.due[0].due < due {
			if v := s.first(sh); v != nil {
				due = min(due, v.due)
			}
		}
	}
	return due + s.shift, due != never
}

// Wake schedules the operator to run at a time without a message; 0 cancels.
func (t Touched) Wake(at int64) {
	if t.Due = at; at == 0 || !t.state.waits(t.key) {
		return
	}
	t.state.shards[ShardOf(t.vin.vin)].wake(t.vin, at-t.vin.shift)
}
