package state

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
)

// Shards is the number of parts that per-VIN state falls into.
const Shards = 64

// ShardOf returns the shard of a VIN, 0 to Shards-1, the same in every process and version: FNV-1a.
func ShardOf(vin string) int { return int(message.Hash(vin) % Shards) } //nolint:gosec // below 64

// StateOptions bound a State.
type StateOptions struct {
	// MaxVINs is the number of VINs whose state is kept, rounded up to a multiple of Shards. For each VIN past it
	// one of the same shard is forgotten, the one whose last change is longest ago.
	MaxVINs int `zero:"no bound"`
	// MaxVINBytes bounds the stored state of one VIN. Past it, operators that keep lists (dedupe, count,
	// on_change) forget their oldest entries.
	MaxVINBytes int `zero:"no bound"`
	// Evicted is told how many VINs ("vins"), list entries ("vin_bytes", "rule_entries") or operators without rules
	// ("removed_rules") were forgotten because of a bound. Workers call it, so it must be safe for concurrent use and must not block.
	Evicted func(reason string, n int)
}

// State is what the operators of a rule set remember, per VIN. It outlives rule sets: an operator finds
// its state again as long as the rule's id and the operator's definition are the same, and after its removal for
// KeepRemoved.
//
// Each shard belongs to whichever worker evaluates its VINs; State has no locks. Load, Advance, Changed, MarkChanged,
// TakeChanged, VINs and NewEngine are called while no worker runs.
type State struct {
	shards  [Shards]stateShard
	opts    StateOptions
	removed removedOperators
	// shift is how far the wall clock has stepped in all, in ms: what it showed before a step is as long ago as
	// that, and the step, by the clock of now.
	shift int64
}

// stateShard keeps its VINs in a map, and in a ring in the order in which messages changed them.
type stateShard struct {
	vins    map[string]*vinState
	ring    vinState    // its next is the VIN that was changed longest ago, its prev the one that was changed last
	clock   uint64      // counts changes
	changed []*vinState // since TakeChanged; forgotten ones may be among them
	gone    []string    // forgotten since TakeChanged, of those that it had given out
	limit   int
	mixed   bool // loaded, and not yet in order
}

// vinState is the state of all operators on one VIN, sorted by key.
type vinState struct {
	vin        string
	ops        []Memory
	touched    uint64 // the shard's clock when a message changed it last
	changed    int64  // ReceivedAt of that message: no time in ops is later
	shift      int64  // of the State, when the times were written
	prev, next *vinState
	dirty      bool // in stateShard.changed
	stored     bool // TakeChanged has given it out, or it was loaded
}

// move makes all times later.
func (v *vinState) move(by int64) {
	v.changed += by
	for i := range v.ops {
		o := &v.ops[i]
		if o.At != 0 && o.At != Timeless {
			o.At += by
		}
		for k := range o.List {
			o.List[k].At += by
		}
	}
}

// at brings the times to the clock of a message received now. A step of the clock is no time that has passed, so
// intervals go on over it as if it had not been. Times ahead of the message are of a journal that is lost, with its
// steps: intervals begin anew with the message, which is a change of the state.
func (v *vinState) at(now, shift int64) (changed bool) {
	if v.shift != shift {
		v.move(shift - v.shift)
		v.shift = shift
	}
	if v.changed <= now {
		return false
	}
	v.move(now - v.changed)
	return true
}

// Memory is the state of one operator on one VIN. What num, at, list and text mean is the operator's
// own business; zero is the state before the first message.
type Memory struct {
	key  uint64 // hash of rule id and operator definition
	Num  uint64
	At   int64
	List []Stamp // oldest first
	Text []byte
}

// Timeless stands in a memory's at for an operator that only marks that it has seen something.
const Timeless = 1

// Stamp is an entry of an operator's list: something seen at a time.
type Stamp struct {
	Hash uint64
	At   int64
}

// size is an upper bound of the stored form's size.
func (o *Memory) size() int { return 8 + 10 + 10 + 5 + len(o.List)*18 + 5 + len(o.Text) }

// ErrBadState is wrapped by every error of State.Load.
var ErrBadState = errors.New("damaged operator state")

// NewState makes an empty state.
func NewState(o StateOptions) *State {
	o.MaxVINs, o.MaxVINBytes = cmp.Or(o.MaxVINs, math.MaxInt32), cmp.Or(o.MaxVINBytes, math.MaxInt32)
	if o.Evicted == nil {
		o.Evicted = func(string, int) {}
	}
	s := &State{opts: o, removed: newRemovedOperators()}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.vins, sh.limit = make(map[string]*vinState), (o.MaxVINs+Shards-1)/Shards
		sh.ring.prev, sh.ring.next = &sh.ring, &sh.ring
	}
	return s
}

// VINs returns the number of VINs with state.
func (s *State) VINs() int {
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].vins)
	}
	return n
}

// Changed returns how many VINs TakeChanged would give out, or a few more.
func (s *State) Changed() int {
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].changed) + len(s.shards[i].gone)
	}
	return n
}

// MarkChanged counts every VIN of a shard as changed.
func (s *State) MarkChanged(shard int) {
	sh := &s.shards[shard]
	for v := sh.ring.next; v != &sh.ring; v = v.next {
		sh.mark(v)
	}
}

// TakeChanged gives put the state of every VIN that has changed since the last call, in a form that Load takes. Nil data
// means that the VIN has no state any more. A VIN that was forgotten and has come back is given twice, the second time as
// it is. The data is valid until put returns.
func (s *State) TakeChanged(put func(vin string, data []byte)) {
	var buf []byte
	for i := range s.shards {
		sh := &s.shards[i]
		for _, vin := range sh.gone {
			put(vin, nil)
		}
		for _, v := range sh.changed {
			if v.dirty {
				buf = v.append(buf[:0])
				put(v.vin, buf)
				v.dirty, v.stored = false, true
			}
		}
		clear(sh.changed)
		clear(sh.gone)
		sh.changed, sh.gone = sh.changed[:0], sh.gone[:0]
	}
}

// Export returns the stored state of one VIN, nil if it has none.
func (s *State) Export(vin string) []byte {
	if v := s.shards[ShardOf(vin)].vins[vin]; v != nil {
		return v.append(nil)
	}
	return nil
}

// Load puts back what TakeChanged has given out, replacing what there is. It does not count as a change.
// The error wraps ErrBadState and leaves the VIN's state as it was.
func (s *State) Load(vin string, data []byte) error {
	sh := &s.shards[ShardOf(vin)]
	old := sh.vins[vin]
	if data == nil {
		if old != nil {
			sh.remove(old)
		}
		return nil
	}
	v, err := unmarshalVIN(data)
	if err != nil {
		return fmt.Errorf("vin %s: %w", vin, err)
	}
	if old != nil {
		sh.remove(old)
	}
	sh.add(vin, v)
	v.stored, sh.clock, sh.mixed = true, max(sh.clock, v.touched), true
	return nil
}

// order puts what was loaded in the order in which it was changed, so that a gateway forgets the same VINs after a
// restart as it would have without. Whatever is left over the bound is forgotten.
func (s *State) order() {
	for i := range s.shards {
		sh := &s.shards[i]
		if !sh.mixed {
			continue
		}
		vins := slices.SortedFunc(maps.Values(sh.vins), func(a, b *vinState) int {
			return cmp.Or(cmp.Compare(a.touched, b.touched), cmp.Compare(a.vin, b.vin))
		})
		sh.ring.prev, sh.ring.next = &sh.ring, &sh.ring
		for _, v := range vins {
			sh.link(v)
		}
		for len(sh.vins) > sh.limit {
			sh.evict()
			s.opts.Evicted("vins", 1)
		}
		sh.mixed = false
	}
}

// StepClock takes a step of the wall clock into account: messages that follow are stamped by another clock. Call it
// with each such record of the journal, in its place, while no worker runs.
func (s *State) StepClock(step message.ClockStep) { s.shift += step.By() }

// Shift is the sum of the steps so far, in ms. It is stored with the VINs, and put back by SetShift.
func (s *State) Shift() int64 { return s.shift }

// SetShift puts back what Shift gave.
func (s *State) SetShift(shift int64) { s.shift = shift }

// peek returns an operator's state on a VIN, at the time of a message, nil if there is none. It holds until the next
// touch of the VIN.
func (s *State) peek(vin string, key uint64, now int64) *Memory {
	sh := &s.shards[ShardOf(vin)]
	v := sh.vins[vin]
	if v == nil {
		return nil
	}
	if v.at(now, s.shift) {
		sh.mark(v)
	}
	i, ok := v.find(key)
	if !ok {
		return nil
	}
	return &v.ops[i]
}

// touch returns an operator's state on a VIN for changing, made when there is none. The caller changes
// it at once: the VIN counts as changed at the time of the message.
func (s *State) touch(vin string, key uint64, now int64) (*Memory, *vinState) {
	sh := &s.shards[ShardOf(vin)]
	v := sh.vins[vin]
	if v == nil {
		for len(sh.vins) >= sh.limit {
			sh.evict()
			s.opts.Evicted("vins", 1)
		}
		v = &vinState{changed: now, shift: s.shift}
		sh.add(strings.Clone(vin), v) // it is part of a topic
	} else {
		v.unlink()
		sh.link(v)
	}
	sh.clock++
	v.touched = sh.clock
	v.at(now, s.shift)
	v.changed = now
	sh.mark(v)
	i, ok := v.find(key)
	if !ok {
		v.ops = slices.Insert(v.ops, i, Memory{key: key})
	}
	return &v.ops[i], v
}

func (v *vinState) find(key uint64) (int, bool) {
	for i := range v.ops {
		if v.ops[i].key >= key {
			return i, v.ops[i].key == key
		}
	}
	return len(v.ops), false
}

// room returns how many bytes an operator's state may take on this VIN.
func (s *State) room(v *vinState, o *Memory) int {
	left := s.opts.MaxVINBytes
	for i := range v.ops {
		if &v.ops[i] != o {
			left -= v.ops[i].size()
		}
	}
	return left
}

// mark counts a VIN as changed.
func (sh *stateShard) mark(v *vinState) {
	if v.dirty {
		return
	}
	if len(sh.changed) > 2*sh.limit { // nobody takes them, and VINs come and go
		sh.changed = slices.DeleteFunc(sh.changed, func(v *vinState) bool { return !v.dirty })
	}
	v.dirty = true
	sh.changed = append(sh.changed, v)
}

// evict forgets the VIN that was changed longest ago. What comes first is a matter of the journal alone, so that every
// replay forgets the same.
func (sh *stateShard) evict() { sh.forget(sh.ring.next) }

// forget removes a VIN, and has its stored state removed.
func (sh *stateShard) forget(v *vinState) {
	if v.stored {
		sh.gone = append(sh.gone, v.vin)
	}
	sh.remove(v)
}

func (sh *stateShard) add(vin string, v *vinState) {
	v.vin = vin
	sh.vins[vin] = v
	sh.link(v)
}

func (sh *stateShard) remove(v *vinState) {
	delete(sh.vins, v.vin)
	v.unlink()
	v.dirty = false
}

// link makes a VIN the one that was changed last.
func (sh *stateShard) link(v *vinState) {
	last := sh.ring.prev
	v.prev, v.next = last, &sh.ring
	last.next, sh.ring.prev = v, v
}

func (v *vinState) unlink() { v.prev.next, v.next.prev = v.next, v.prev }

// remember appends an entry to an operator's list and keeps the list within keep entries and the VIN
// within its bytes, first those of operators without rules; what is forgotten for that is counted. The caller uses
// o no more.
func (s *State) remember(v *vinState, o *Memory, e Stamp, keep int) {
	o.List = append(o.List, e)
	if n := len(o.List) - keep; n > 0 {
		o.List = o.List[:copy(o.List, o.List[n:])]
		s.opts.Evicted("rule_entries", n)
	}
	if key := o.key; o.size() > s.room(v, o) {
		if gone := s.giveWay(v); gone > 0 {
			s.opts.Evicted("removed_rules", gone)
			at, _ := v.find(key)
			o = &v.ops[at]
		}
	}
	n := 0
	for room := s.room(v, o); o.size() > room && len(o.List) > 1; n++ {
		o.List = o.List[:copy(o.List, o.List[1:])]
	}
	if n > 0 {
		s.opts.Evicted("vin_bytes", n)
	}
}

// Cell is the place of one operator's memory of one VIN, at the time of a message or tick.
type Cell struct {
	State *State
	VIN   string
	Key   uint64
	Now   int64
}

// Peek returns the memory, nil when there is none. It holds until the next Touch of the VIN.
func (c *Cell) Peek() *Memory { return c.State.peek(c.VIN, c.Key, c.Now) }

// Touch returns the memory for changing, made when there is none. The caller changes it at once: the VIN counts as changed.
func (c *Cell) Touch() Touched {
	m, v := c.State.touch(c.VIN, c.Key, c.Now)
	return Touched{m, v, c.State}
}

// Touched is a memory that is being changed.
type Touched struct {
	*Memory
	vin   *vinState
	state *State
}

// Expire drops the list's entries that are not after a time.
func (t Touched) Expire(until int64) {
	n := 0
	for n < len(t.List) && t.List[n].At <= until {
		n++
	}
	if n > 0 {
		t.List = t.List[:copy(t.List, t.List[n:])]
	}
}

// Remember appends an entry to the list and keeps it within keep entries and the VIN within its bytes. The caller uses the
// memory no more.
func (t Touched) Remember(e Stamp, keep int) { t.state.remember(t.vin, t.Memory, e, keep) }
