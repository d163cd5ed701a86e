package rules

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Shards is the number of parts that per-VIN state falls into.
const Shards = 64

// ShardOf returns the shard of a VIN, 0 to Shards-1, the same in every process and version: FNV-1a.
func ShardOf(vin string) int { return int(hashText(vin) % Shards) } //nolint:gosec // below 64

// Bounds of State when StateOptions leaves them 0.
const (
	DefaultMaxVINs     = 200_000
	DefaultMaxVINBytes = 16 << 10
)

// StateOptions bound a State.
type StateOptions struct {
	// MaxVINs is the number of VINs whose state is kept, rounded up to a multiple of Shards. Past it,
	// the VINs whose state has not changed for the longest time are forgotten.
	MaxVINs int
	// MaxVINBytes bounds the stored state of one VIN. Past it, operators that keep lists (dedupe, count,
	// on_change) forget their oldest entries.
	MaxVINBytes int
	// Evicted is told how many VINs ("vins") or list entries ("vin_bytes", "rule_entries") were forgotten
	// because of a bound. Workers call it, so it must be safe for concurrent use and must not block.
	Evicted func(reason string, n int)
}

// State is what the operators of a rule set remember, per VIN. It outlives rule sets: an operator finds
// its state again as long as the rule's id and the operator's definition are the same.
//
// Each shard belongs to whichever worker evaluates its VINs; State has no locks. Load, TakeDirty, VINs
// and NewEngine are called while no worker runs.
type State struct {
	shards [Shards]stateShard
	opts   StateOptions
}

type stateShard struct {
	vins  map[string]*vinState
	dirty map[string]struct{} // VINs changed or forgotten since TakeDirty
	limit int
}

// vinState is the state of all operators on one VIN, sorted by key.
type vinState struct {
	ops     []opState
	changed int64 // ReceivedAt of the message that changed it last
}

// opState is the state of one operator on one VIN. What num, at, list and text mean is the operator's
// own business; zero is the state before the first message.
type opState struct {
	key  uint64 // hash of rule id and operator definition
	num  uint64
	at   int64
	list []stamp // oldest first
	text []byte
}

// stamp is an entry of an operator's list: something seen at a time.
type stamp struct {
	hash uint64
	at   int64
}

// size is an upper bound of the stored form's size.
func (o *opState) size() int { return 8 + 10 + 10 + 5 + len(o.list)*18 + 5 + len(o.text) }

// ErrBadState is wrapped by every error of State.Load.
var ErrBadState = errors.New("damaged operator state")

// NewState makes an empty state.
func NewState(o StateOptions) *State {
	o.MaxVINs = cmp.Or(o.MaxVINs, DefaultMaxVINs)
	o.MaxVINBytes = cmp.Or(o.MaxVINBytes, DefaultMaxVINBytes)
	if o.Evicted == nil {
		o.Evicted = func(string, int) {}
	}
	s := &State{opts: o}
	for i := range s.shards {
		s.shards[i] = stateShard{
			vins:  make(map[string]*vinState),
			dirty: make(map[string]struct{}),
			limit: (o.MaxVINs + Shards - 1) / Shards,
		}
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

// SavedVIN is the stored state of one VIN. Data nil means that the VIN has no state any more and its
// stored form is to be deleted.
type SavedVIN struct {
	VIN  string
	Data []byte
}

// TakeDirty returns the state of every VIN that has changed since the last call, sorted by VIN, and
// counts them as saved. The caller keeps the result until it is stored. The data is its own.
func (s *State) TakeDirty() []SavedVIN {
	var out []SavedVIN
	for i := range s.shards {
		sh := &s.shards[i]
		for vin := range sh.dirty {
			out = append(out, SavedVIN{VIN: vin, Data: sh.vins[vin].marshal()})
		}
		clear(sh.dirty)
	}
	slices.SortFunc(out, func(a, b SavedVIN) int { return cmp.Compare(a.VIN, b.VIN) })
	return out
}

// Export returns the stored state of one VIN, nil if it has none.
func (s *State) Export(vin string) []byte { return s.shards[ShardOf(vin)].vins[vin].marshal() }

// Load puts back the stored state of one VIN, replacing what there is. It does not count as a change.
// The error wraps ErrBadState and leaves the VIN's state as it was.
func (s *State) Load(vin string, data []byte) error {
	v, err := unmarshalVIN(data)
	if err != nil {
		return fmt.Errorf("vin %s: %w", vin, err)
	}
	s.shards[ShardOf(vin)].vins[vin] = v
	return nil
}

// retain forgets the state of all operators but those whose keys are given.
func (s *State) retain(keys map[uint64]struct{}) {
	for i := range s.shards {
		sh := &s.shards[i]
		for vin, v := range sh.vins {
			before := len(v.ops)
			v.ops = slices.DeleteFunc(v.ops, func(o opState) bool {
				_, ok := keys[o.key]
				return !ok
			})
			if len(v.ops) == before {
				continue
			}
			sh.dirty[vin] = struct{}{}
			if len(v.ops) == 0 {
				delete(sh.vins, vin)
			}
		}
	}
}

// peek returns an operator's state on a VIN, nil if there is none. It holds until the next touch of the VIN.
func (s *State) peek(vin string, key uint64) *opState {
	v := s.shards[ShardOf(vin)].vins[vin]
	if v == nil {
		return nil
	}
	i, ok := v.find(key)
	if !ok {
		return nil
	}
	return &v.ops[i]
}

// touch returns an operator's state on a VIN for changing, made when there is none. The caller changes
// it at once: the VIN counts as changed at the given time.
func (s *State) touch(vin string, key uint64, now int64) (*opState, *vinState) {
	sh := &s.shards[ShardOf(vin)]
	v := sh.vins[vin]
	if v == nil {
		if len(sh.vins) >= sh.limit {
			s.opts.Evicted("vins", sh.evict())
		}
		v = &vinState{}
		sh.vins[vin] = v
	}
	if _, ok := sh.dirty[vin]; !ok {
		sh.dirty[vin] = struct{}{}
	}
	v.changed = now
	i, ok := v.find(key)
	if !ok {
		v.ops = slices.Insert(v.ops, i, opState{key: key})
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
func (s *State) room(v *vinState, o *opState) int {
	left := s.opts.MaxVINBytes
	for i := range v.ops {
		if &v.ops[i] != o {
			left -= v.ops[i].size()
		}
	}
	return left
}

// evict forgets the sixteenth of the shard, at least one VIN, whose state has not changed for the
// longest time, by VIN among equals, so that every replay of the journal forgets the same.
func (sh *stateShard) evict() int {
	vins := slices.SortedFunc(maps.Keys(sh.vins), func(a, b string) int {
		return cmp.Or(cmp.Compare(sh.vins[a].changed, sh.vins[b].changed), cmp.Compare(a, b))
	})
	n := max(1, len(vins)/16)
	for _, vin := range vins[:n] {
		delete(sh.vins, vin)
		sh.dirty[vin] = struct{}{}
	}
	return n
}

// hashText is FNV-1a, 64 bits: stable over processes and versions, which canary shares, shards
// and stored keys rely on.
func hashText[T ~string | ~[]byte](s T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
