package state

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"cellgate/broker/shared/heap"
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
	// Evicted is told how many VINs ("vins"), list entries and values of by ("vin_bytes", "rule_entries", "rule_keys") or
	// operators without rules ("removed_rules") were forgotten because of a bound. Workers call it, so it must be safe for concurrent use and must not block.
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
	// wakes are the operators of the rules in force that may be due without a message.
	wakes map[uint64]struct{}
	keys  map[uint64]struct{} // all operators of the rules in force
	// back says that such an operator has come back with its rule, and that no record has said when.
	back      bool
	listening Listening
}

// stateShard keeps its VINs in a map, and in a ring in the order in which messages changed them.
type stateShard struct {
	vins    map[string]*vinState
	last    *vinState   // that was looked up; one message asks for its VIN several times
	ring    vinState    // its next is the VIN that was changed longest ago, its prev the one that was changed last
	clock   uint64      // counts changes
	changed []*vinState // since TakeChanged; forgotten ones may be among them
	gone    []string    // forgotten since TakeChanged, of those that it had given out
	limit   int
	mixed   bool                 // loaded, and not yet in order
	due     heap.Heap[*vinState] // VINs with an operator that is to be run without a message
}

// vinState is the state of all operators on one VIN, sorted by key.
type vinState struct {
	vin        string
	ops        []Memory
	touched    uint64 // the shard's clock when a message changed it last
	changed    int64  // ReceivedAt of that message: no time in ops is later
	shift      int64  // of the State, when the times were written
	prev, next *vinState
	due        int64 // no operator is due before this time, by the clock as it was before all its steps
	place      int32 // in the shard's due, 1 more than the index; 0: it is not there
	dirty      bool  // in stateShard.changed
	stored     bool  // TakeChanged has given it out, or it was loaded
}

// move makes all times later.
func (v *vinState) move(by int64) {
	v.changed += by
	for i := range v.ops {
		v.ops[i].move(by)
	}
}

func (o *Memory) move(by int64) {
	if o.Due != 0 {
		o.Due += by
	}
	for i := range o.keyed {
		o.keyed[i].move(by)
	}
	if o.Seen != 0 { // the vehicle's clock has not stepped
		return
	}
	if o.At != 0 && o.At != Timeless {
		o.At += by
	}
	for k := range o.List {
		o.List[k].At += by
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
	// Due is when the operator is to be run although no message comes, 0 for never, always by the gateway's clock. Change it
	// with Touched.Wake.
	Due int64
	// Seen is 0 for a memory whose times are the gateway's; else they are the vehicle's, and it is the latest.
	Seen  int64
	keyed []Memory // of an operator with by: one for each value, the one that was changed last at the end
}

// Timeless stands in a memory's at for an operator that only marks that it has seen something.
const Timeless = 1

// Stamp is an entry of an operator's list: something seen at a time.
type Stamp struct {
	Hash uint64
	At   int64
}

// maxStamp is the size of a list's entry when it is stored: its hash, and the time since the entry before it, which is less than
// 2^41 ms, 69 years. The time of the first one may take 4 bytes more.
const maxStamp = 8 + 6

// size is an upper bound of the stored form's size.
func (o *Memory) size() int {
	n := 8 + 1 + 10 + 10 + 5 + len(o.List)*maxStamp + 4 + 5 + len(o.Text) + 10 + 10
	for i := range o.keyed {
		n += o.keyed[i].size()
	}
	return n
}

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
func (s *State) TakeChanged(put func(vin string, data []byte)) { s.TakeSome(math.MaxInt, put) }

// TakeSome is TakeChanged for about so many VINs; the others have still changed.
func (s *State) TakeSome(limit int, put func(vin string, data []byte)) {
	var buf []byte
	for i := range s.shards {
		sh := &s.shards[i]
		for _, vin := range sh.gone {
			put(vin, nil)
		}
		limit -= len(sh.gone)
		clear(sh.gone)
		sh.gone = sh.gone[:0]
		for ; limit > 0 && len(sh.changed) > 0; limit-- {
			last := len(sh.changed) - 1
			v := sh.changed[last]
			sh.changed[last], sh.changed = nil, sh.changed[:last]
			if v.dirty {
				buf = v.append(buf[:0])
				put(v.vin, buf)
				v.dirty, v.stored = false, true
			}
		}
		if limit <= 0 {
			return
		}
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
	sh.wake(v, s.dueOf(v))
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

// peek returns an operator's state on a VIN, at the time of a message or tick, nil if there is none. It holds until the next
// touch of the VIN.
func (s *State) peek(c *Cell) *Memory {
	sh := &s.shards[ShardOf(c.VIN)]
	v := sh.find(c.VIN)
	if v == nil {
		return nil
	}
	s.at(sh, v, c)
	i, ok := v.find(c.Key)
	if !ok {
		return nil
	}
	return &v.ops[i]
}

// at brings a VIN to the time of a message or tick.
func (s *State) at(sh *stateShard, v *vinState, c *Cell) {
	if v.at(c.Received, s.shift) {
		sh.mark(v)
		sh.wake(v, s.dueOf(v))
	}
}

// touch returns an operator's state on a VIN for changing, made when there is none. The caller changes
// it at once: the VIN counts as changed at the time of the message. A tick leaves the VIN its place among those that are
// forgotten, so that when ticks come does not matter.
func (s *State) touch(c *Cell) (*Memory, *vinState) {
	sh := &s.shards[ShardOf(c.VIN)]
	v := sh.find(c.VIN)
	if v == nil {
		for len(sh.vins) >= sh.limit {
			sh.evict()
			s.opts.Evicted("vins", 1)
		}
		v = &vinState{changed: c.Received, shift: s.shift}
		sh.add(strings.Clone(c.VIN), v) // it is part of a topic
	} else if !c.Tick {
		v.unlink()
		sh.link(v)
	}
	if !c.Tick {
		sh.clock++
		v.touched = sh.clock
	}
	s.at(sh, v, c)
	v.changed = max(v.changed, c.Received)
	sh.mark(v)
	i, ok := v.find(c.Key)
	if !ok {
		v.ops = slices.Insert(v.ops, i, Memory{key: c.Key})
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

// over returns by how many bytes a VIN's state is too large, 0 or less when it is not.
func (s *State) over(v *vinState) int {
	n := -s.opts.MaxVINBytes
	for i := range v.ops {
		n += v.ops[i].size()
	}
	return n
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
	if sh.last == v {
		sh.last = nil
	}
	v.unlink()
	sh.due.Remove(v)
	v.dirty = false
}

// find returns a VIN, nil when it has no state.
func (sh *stateShard) find(vin string) *vinState {
	if sh.last == nil || sh.last.vin != vin {
		sh.last = sh.vins[vin]
	}
	return sh.last
}

// link makes a VIN the one that was changed last.
func (sh *stateShard) link(v *vinState) {
	last := sh.ring.prev
	v.prev, v.next = last, &sh.ring
	last.next, sh.ring.prev = v, v
}

func (v *vinState) unlink() { v.prev.next, v.next.prev = v.next, v.prev }
