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

// Shards is the number of shards of the per-VIN state.
const Shards = 64

// ShardOf returns the shard of a VIN, 0 to Shards-1, the same in every process and version: FNV-1a.
func ShardOf(vin string) int { return int(message.Hash(vin) % Shards) } //nolint:gosec // below 64

// StateOptions are the bounds of a State.
type StateOptions struct {
	// MaxVINs bounds the VINs whose state is kept, rounded up to a multiple of Shards. For each further VIN, the VIN of
	// the same shard that changed longest ago is forgotten.
	MaxVINs int `zero:"no bound"`
	// MaxVINBytes bounds the stored state of one VIN, in bytes. Past it, operators that keep lists (dedupe, count,
	// on_change) forget their oldest entries.
	MaxVINBytes int `zero:"no bound"`
	// Evicted is called with the number of VINs ("vins"), list entries and values of by ("vin_bytes", "rule_entries",
	// "rule_keys") or operators without rules ("removed_rules") that were forgotten because of a bound. Workers call
	// it: it must be safe for concurrent use and must not block.
	Evicted func(reason string, n int)
}

// State is the operators' memory, per VIN. It outlives rule sets: an operator keeps its memory as long as the rule's id
// and the operator's definition are the same, and for KeepRemoved after its removal.
//
// Each shard belongs to the worker that evaluates its VINs; State has no locks. Call Load, Advance, Changed,
// MarkChanged, TakeChanged, VINs and NewEngine only while no worker runs.
type State struct {
	shards  [Shards]stateShard
	opts    StateOptions
	removed removedOperators
	// shift is the sum of all steps of the wall clock, in ms. Adding it to a time of the clock before all steps gives
	// the time by the current clock.
	shift int64
	// wakes are the operators of the rules in force that may be due without a message.
	wakes map[uint64]struct{}
	keys  map[uint64]struct{} // all operators of the rules in force
	// back means that such an operator has come back with its rule and no record has come since.
	back      bool
	listening Listening
}

// stateShard keeps its VINs in a map, and in a ring in the order of their last change.
type stateShard struct {
	vins    map[string]*vinState
	last    *vinState   // the last lookup; one message looks up its VIN several times
	ring    vinState    // next is the VIN that changed longest ago, prev the one that changed last
	clock   uint64      // counts changes
	changed []*vinState // since TakeChanged; may include forgotten VINs
	gone    []string    // stored VINs forgotten since TakeChanged
	limit   int
	mixed   bool                 // loaded, and not in order yet
	due     heap.Heap[*vinState] // VINs with an operator that may be due without a message
}

// vinState is the state of all operators on one VIN, sorted by key.
type vinState struct {
	vin        string
	ops        []Memory
	touched    uint64 // the shard's clock when a message changed it last
	changed    int64  // ReceivedAt of that message; no time in ops is later
	shift      int64  // State.shift when the times were written
	prev, next *vinState
	due        int64 // no operator is due earlier; by the clock before all its steps
	place      int32 // 1-based index in the shard's due; 0: not in it
	dirty      bool  // in stateShard.changed
	stored     bool  // returned by TakeChanged, or loaded
}

// move moves all times by by ms.
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
	if o.Seen != 0 { // times of the vehicle's clock, which has not stepped
		return
	}
	if o.At != 0 && o.At != Timeless {
		o.At += by
	}
	for k := range o.List {
		o.List[k].At += by
	}
}

// at converts the times to the clock of a message received now. A clock step is not elapsed time, so intervals continue
// across it. If times are ahead of the message, the journal was lost together with its steps: intervals start again
// with the message, which changes the state.
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

// Memory is the state of one operator on one VIN. The operator interprets Num, At, List and Text. The zero value is the
// state before the first message.
type Memory struct {
	key  uint64 // hash of rule id and operator definition
	Num  uint64
	At   int64
	List []Stamp // oldest first
	Text []byte
	// Due is when the operator runs without a message, by the gateway's clock; 0 for never. Change it with
	// Touched.Wake.
	Due int64
	// Seen is 0 if the memory's times are the gateway's. Otherwise they are the vehicle's, and Seen is the latest.
	Seen  int64
	keyed []Memory // of an operator with by: one per value, in the order of their last change
}

// Timeless is the At of an operator that only marks that it has seen something.
const Timeless = 1

// Stamp is an entry of an operator's list.
type Stamp struct {
	Hash uint64
	At   int64
}

// maxStamp is the stored size of a list entry in bytes: its hash, and the time since the previous entry, which is below
// 2^41 ms (69 years). The first entry's time may take 4 bytes more.
const maxStamp = 8 + 6

// size returns an upper bound of the stored size.
func (o *Memory) size() int {
	n := 8 + 1 + 10 + 10 + 5 + len(o.List)*maxStamp + 4 + 5 + len(o.Text) + 10 + 10
	for i := range o.keyed {
		n += o.keyed[i].size()
	}
	return n
}

// ErrBadState is wrapped by every error about damaged stored state.
var ErrBadState = errors.New("damaged operator state")

// NewState returns an empty state.
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

// Changed returns the number of VINs that TakeChanged would return. It may be slightly too high.
func (s *State) Changed() int {
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].changed) + len(s.shards[i].gone)
	}
	return n
}

// MarkChanged marks every VIN of a shard as changed.
func (s *State) MarkChanged(shard int) {
	sh := &s.shards[shard]
	for v := sh.ring.next; v != &sh.ring; v = v.next {
		sh.mark(v)
	}
}

// TakeChanged calls put with the state of every VIN that has changed since the last call, in the form that Load takes.
// Nil data means that the VIN has no state any more. A VIN that was forgotten and has come back is passed twice, the
// second time with its state. The data is valid until put returns.
func (s *State) TakeChanged(put func(vin string, data []byte)) { s.TakeSome(math.MaxInt, put) }

// TakeSome does the same as TakeChanged for about limit VINs. The others remain changed.
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

// Load restores a VIN from TakeChanged, replacing its state. It does not count as a change. The error wraps ErrBadState
// and leaves the VIN's state as it was.
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

// order sorts loaded VINs by their last change, so that a gateway forgets the same VINs after a restart as without one.
// VINs past the bound are forgotten.
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

// StepClock applies a step of the wall clock: later records have times of the stepped clock. Call it with each such
// record at its position in the journal, while no worker runs.
func (s *State) StepClock(step message.ClockStep) { s.shift += step.By() }

// Shift returns the sum of the clock steps so far, in ms. It is stored with the VINs and restored by SetShift.
func (s *State) Shift() int64 { return s.shift }

// SetShift restores the result of Shift.
func (s *State) SetShift(shift int64) { s.shift = shift }

// peek returns an operator's state on a VIN at the time of a message or tick, nil if there is none. It is valid until
// the next touch of the VIN.
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

// at converts a VIN's times to the time of a message or tick.
func (s *State) at(sh *stateShard, v *vinState, c *Cell) {
	if v.at(c.Received, s.shift) {
		sh.mark(v)
		sh.wake(v, s.dueOf(v))
	}
}

// touch returns an operator's state on a VIN for an immediate change, creating it if needed. It marks the VIN as
// changed at the time of the message. A tick does not move the VIN in the eviction order, so that the order does not
// depend on when ticks come.
func (s *State) touch(c *Cell) (*Memory, *vinState) {
	sh := &s.shards[ShardOf(c.VIN)]
	v := sh.find(c.VIN)
	if v == nil {
		for len(sh.vins) >= sh.limit {
			sh.evict()
			s.opts.Evicted("vins", 1)
		}
		v = &vinState{changed: c.Received, shift: s.shift}
		sh.add(strings.Clone(c.VIN), v) // c.VIN is part of a topic, which is not kept
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

// over returns by how many bytes a VIN's state exceeds the bound; 0 or less if it does not.
func (s *State) over(v *vinState) int {
	n := -s.opts.MaxVINBytes
	for i := range v.ops {
		n += v.ops[i].size()
	}
	return n
}

func (sh *stateShard) mark(v *vinState) {
	if v.dirty {
		return
	}
	if len(sh.changed) > 2*sh.limit { // TakeChanged is not called while VINs come and go
		sh.changed = slices.DeleteFunc(sh.changed, func(v *vinState) bool { return !v.dirty })
	}
	v.dirty = true
	sh.changed = append(sh.changed, v)
}

// evict forgets the VIN that changed longest ago. The order follows from the journal alone, so that every replay
// forgets the same.
func (sh *stateShard) evict() { sh.forget(sh.ring.next) }

// forget removes a VIN and its stored state.
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

func (sh *stateShard) find(vin string) *vinState {
	if sh.last == nil || sh.last.vin != vin {
		sh.last = sh.vins[vin]
	}
	return sh.last
}

// link puts a VIN at the end of the ring: it changed last.
func (sh *stateShard) link(v *vinState) {
	last := sh.ring.prev
	v.prev, v.next = last, &sh.ring
	last.next, sh.ring.prev = v, v
}

func (v *vinState) unlink() { v.prev.next, v.next.prev = v.next, v.prev }
