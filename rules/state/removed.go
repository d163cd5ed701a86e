package state

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"cellgate/broker/shared/message/field"
)

// KeepRemoved is how long operators' state outlives their rules, in journal time: rules that were removed by mistake,
// or that a rollback restores, continue where they were.
const KeepRemoved = 24 * time.Hour

// maxRemoved bounds the operators without rules that are kept. Past it, those removed first are forgotten.
const maxRemoved = 1 << 16

// unstamped marks a removal that has no time yet, since no record has come.
const unstamped = math.MinInt64

// removedOperators are the operators without a rule whose state is kept, with the time of their removal. It follows
// from the journal alone, so that every replay forgets the same.
type removedOperators struct {
	since   map[uint64]int64 // by key; ms by the clock before all its steps
	from    int64            // nothing to do from this time on,
	until   int64            // before this one
	version uint64           // counts changes
}

func newRemovedOperators() removedOperators {
	r := removedOperators{since: map[uint64]int64{}}
	r.changed()
	return r
}

// changed computes when there is something to do next.
func (r *removedOperators) changed() {
	r.version++
	r.from, r.until = math.MinInt64, math.MaxInt64
	for _, at := range r.since {
		if at == unstamped {
			r.until = math.MinInt64
			return
		}
		r.from, r.until = max(r.from, at), min(r.until, at+KeepRemoved.Milliseconds())
	}
}

// Removed returns the number of operators that are kept without a rule, and a version that rises with every change of
// them.
func (s *State) Removed() (operators int, version uint64) {
	return len(s.removed.since), s.removed.version
}

// AppendRemoved appends the stored form of the removed operators: for each, sorted by key, the key in 8 bytes and the
// time of removal as a varint.
func (s *State) AppendRemoved(b []byte) []byte {
	for _, key := range slices.Sorted(maps.Keys(s.removed.since)) {
		b = binary.BigEndian.AppendUint64(b, key)
		b = binary.AppendVarint(b, s.removed.since[key])
	}
	return b
}

// LoadRemoved restores the result of AppendRemoved. Call it before the first engine is made. The error wraps
// ErrBadState.
func (s *State) LoadRemoved(b []byte) error {
	since := map[uint64]int64{}
	for r := (field.Reader{B: b}); r.Off < len(b); {
		key, at := r.Uint64(), r.Varint()
		if r.Bad {
			return fmt.Errorf("removed operators: %w at byte %d of %d", ErrBadState, r.Off, len(b))
		}
		since[key] = at
	}
	s.removed.since = since
	s.removed.changed()
	return nil
}

// Advance sets the time to that of the next record and forgets what was removed KeepRemoved ago. Clock steps do not
// count as time. Call it with every record, in journal order, while no worker runs; it nearly always costs one
// comparison.
func (s *State) Advance(now int64) {
	if s.back { // a restored operator has not listened, whatever others have
		s.pause(math.MinInt64, now-s.shift)
		s.back = false
	}
	s.listening.Last = now - s.shift
	if s.Steady(now) {
		return
	}
	now -= s.shift
	r := &s.removed
	var over map[uint64]struct{}
	for key, at := range r.since {
		switch {
		case at == unstamped, at > now: // a future time is from a lost journal
			r.since[key] = now
		case now-at >= KeepRemoved.Milliseconds():
			if over == nil {
				over = map[uint64]struct{}{}
			}
			over[key] = struct{}{}
		}
	}
	s.forgetOperators(over)
	r.changed()
}

// Steady reports whether Advance with that time changes nothing except the time.
func (s *State) Steady(now int64) bool {
	now -= s.shift
	return !s.back && s.removed.from <= now && now < s.removed.until
}

// Adopt switches to the operators of a set, by key. The state of all others is kept for KeepRemoved. wakes are the
// operators that may be due without a message. If one of them comes back, the time until the next record counts as a
// pause: it has missed messages in the meantime.
func (s *State) Adopt(keys, wakes map[uint64]struct{}) {
	s.order()
	s.keys = keys
	r := &s.removed
	before := len(r.since)
	maps.DeleteFunc(r.since, func(key uint64, _ int64) bool {
		_, back := keys[key]
		return back
	})
	fresh := s.schedule(wakes)
	change := len(r.since) != before
	for i := range s.shards {
		for _, v := range s.shards[i].vins {
			for k := range v.ops {
				key := v.ops[k].key
				if _, there := keys[key]; there {
					_, listens := fresh[key]
					s.back = s.back || listens
					continue
				}
				if _, known := r.since[key]; !known {
					r.since[key], change = unstamped, true
				}
			}
		}
	}
	if n := len(r.since) - maxRemoved; n > 0 {
		s.forgetOldest(n)
	}
	if change {
		r.changed()
	}
}

// forgetOldest forgets the n operators that were removed first, by key if equal. Unstamped ones are the last.
func (s *State) forgetOldest(n int) {
	when := func(key uint64) int64 {
		if at := s.removed.since[key]; at != unstamped {
			return at
		}
		return math.MaxInt64
	}
	keys := slices.SortedFunc(maps.Keys(s.removed.since), func(a, b uint64) int {
		return cmp.Or(cmp.Compare(when(a), when(b)), cmp.Compare(a, b))
	})
	over := make(map[uint64]struct{}, n)
	for _, key := range keys[:n] {
		over[key] = struct{}{}
	}
	s.opts.Evicted("removed_rules", n)
	s.forgetOperators(over)
}

// forgetOperators forgets operators without rules, with their state of every VIN.
func (s *State) forgetOperators(over map[uint64]struct{}) {
	if len(over) == 0 {
		return
	}
	for key := range over {
		delete(s.removed.since, key)
	}
	for i := range s.shards {
		sh := &s.shards[i]
		for _, v := range sh.vins {
			before := len(v.ops)
			v.ops = slices.DeleteFunc(v.ops, func(o Memory) bool {
				_, gone := over[o.key]
				return gone
			})
			switch {
			case len(v.ops) == before:
			case len(v.ops) == 0:
				sh.forget(v)
			default:
				sh.mark(v)
			}
		}
	}
}

// giveWay forgets the memory of a VIN's operators without rules, so that its bytes serve those with rules. It returns
// their number.
func (s *State) giveWay(v *vinState) int {
	before := len(v.ops)
	v.ops = slices.DeleteFunc(v.ops, func(o Memory) bool {
		_, removed := s.removed.since[o.key]
		return removed
	})
	return before - len(v.ops)
}
