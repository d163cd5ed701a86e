package state

import (
	"maps"
	"math"
)

// never is later than every time.
const never = math.MaxInt64

// Before implements heap.Item: of the VINs with an operator that is to be run without a message the one that is due first, by
// VIN among equals. A VIN's time may be too early, as that of an operator which each message puts off; it is put right when it
// comes to the front, so that a message costs nothing here.
func (v *vinState) Before(other *vinState) bool {
	return v.due < other.due || v.due == other.due && v.vin < other.vin
}

// Place implements heap.Item.
func (v *vinState) Place() *int32 { return &v.place }

// wake sees to it that a VIN is looked at when it is due, by the clock as it was before all its steps.
func (sh *stateShard) wake(v *vinState, due int64) {
	if due != never && (v.place == 0 || due < v.due) {
		v.due = due
		sh.due.Put(v)
	}
}

// dueOf is when the first operator of a VIN is due, by the clock as it was before all its steps.
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

// schedule builds what is due anew, for a set's operators. It returns those of them that the set before did not have.
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

// first returns the VIN of a shard that is due first, nil when none ever is.
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

// Due is an operator that is to be run without a message.
type Due struct {
	VIN string
	Key uint64
	At  int64
}

// TakeDue returns the operator of a shard that is due first, if that is not after now, and takes it off. Those who are due
// come in the order of their times, whatever has been looked at before.
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

// NextDue is when an operator is due first, by the clock of now; false when none is.
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

// Wake has the operator run when no message has come until then, 0 for never.
func (t Touched) Wake(at int64) {
	if t.Due = at; at == 0 || !t.state.waits(t.key) {
		return
	}
	t.state.shards[ShardOf(t.vin.vin)].wake(t.vin, at-t.vin.shift)
}
