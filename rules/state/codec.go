package state

import (
	"encoding/binary"
	"fmt"

	"cellgate/broker/shared/message/field"
)

// The stored state of one VIN. The first byte is the version.
//
//	version  1 byte, = 3
//	touched  uvarint  counts the changes to VINs of the shard
//	changed  varint   ms
//	shift    varint   ms; see vinState
//	count    uvarint
//	count times, by key: a memory
//
// A memory. Times are varints in ms after changed, those of list entries after the previous entry.
//
//	key    8 bytes, big-endian; for a value of by: its hash
//	bits   1 byte   what follows: 1 num, 2 at, 4 list, 8 text, 16 due, 32 seen, 64 values of by; 128 list entries have a hash
//	num    uvarint
//	at     varint
//	list   uvarint count; each 8 bytes hash with bit 128, varint
//	text   uvarint length, bytes
//	due    varint
//	seen   varint
//	keyed  uvarint count; memories, in the order of their last change
//
// A memory of version 2 has key, num, at, list with hashes and text, always all of them; at and the list's first time
// are in ms since the Unix epoch.
const (
	stateVersion = 3
	allMemories  = 2 // the previous version
)

const (
	hasNum = 1 << iota
	hasAt
	hasList
	hasText
	hasDue
	hasSeen
	hasKeyed
	hasHashes
)

func (v *vinState) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, stateVersion), v.touched)
	b = binary.AppendVarint(b, v.changed)
	b = binary.AppendVarint(b, v.shift)
	b = binary.AppendUvarint(b, uint64(len(v.ops)))
	for i := range v.ops {
		b = v.ops[i].append(b, v.changed)
	}
	return b
}

func (o *Memory) bits() (bits byte) {
	set := func(bit byte, has bool) {
		if has {
			bits |= bit
		}
	}
	set(hasNum, o.Num != 0)
	set(hasAt, o.At != 0)
	set(hasList, len(o.List) > 0)
	set(hasText, len(o.Text) > 0)
	set(hasDue, o.Due != 0)
	set(hasSeen, o.Seen != 0)
	set(hasKeyed, len(o.keyed) > 0)
	for i := range o.List {
		set(hasHashes, o.List[i].Hash != 0)
	}
	return bits
}

func (o *Memory) append(b []byte, changed int64) []byte {
	bits := o.bits()
	b = append(binary.BigEndian.AppendUint64(b, o.key), bits)
	if bits&hasNum != 0 {
		b = binary.AppendUvarint(b, o.Num)
	}
	if bits&hasAt != 0 {
		b = binary.AppendVarint(b, o.At-changed)
	}
	if bits&hasList != 0 {
		b = binary.AppendUvarint(b, uint64(len(o.List)))
		last := changed
		for _, s := range o.List {
			if bits&hasHashes != 0 {
				b = binary.BigEndian.AppendUint64(b, s.Hash)
			}
			b = binary.AppendVarint(b, s.At-last)
			last = s.At
		}
	}
	if bits&hasText != 0 {
		b = field.AppendBytes(b, o.Text)
	}
	if bits&hasDue != 0 {
		b = binary.AppendVarint(b, o.Due-changed)
	}
	if bits&hasSeen != 0 {
		b = binary.AppendVarint(b, o.Seen-changed)
	}
	if bits&hasKeyed != 0 {
		b = binary.AppendUvarint(b, uint64(len(o.keyed)))
		for i := range o.keyed {
			b = o.keyed[i].append(b, changed)
		}
	}
	return b
}

// memoryReader reads the memories of one version.
type memoryReader struct {
	field.Reader
	version byte
	changed int64
}

func unmarshalVIN(b []byte) (*vinState, error) {
	r := memoryReader{Reader: field.Reader{B: b}}
	if r.version = r.Byte(); r.version != stateVersion && r.version != allMemories {
		return nil, fmt.Errorf("%w: version %d", ErrBadState, r.version)
	}
	v := &vinState{touched: r.Uvarint(), changed: r.Varint(), shift: r.Varint()}
	r.changed = v.changed
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		o := r.memory(true)
		if i := len(v.ops); i > 0 && v.ops[i-1].key >= o.key {
			r.Bad = true
		}
		v.ops = append(v.ops, o)
	}
	if r.Bad || r.Off != len(b) {
		return nil, fmt.Errorf("%w at byte %d of %d", ErrBadState, r.Off, len(b))
	}
	return v, nil
}

// memory reads one memory. Only top-level memories can have values of by.
func (r *memoryReader) memory(top bool) (o Memory) {
	o.key = r.Uint64()
	bits, base := byte(hasNum|hasAt|hasList|hasText|hasHashes), int64(0)
	if r.version == stateVersion {
		bits, base = r.Byte(), r.changed
	}
	if bits&hasNum != 0 {
		o.Num = r.Uvarint()
	}
	if bits&hasAt != 0 {
		o.At = base + r.Varint()
	}
	if bits&hasList != 0 {
		o.List = r.list(bits&hasHashes != 0, base)
	}
	if bits&hasText != 0 {
		if text := r.Bytes(); len(text) > 0 {
			o.Text = append([]byte(nil), text...)
		}
	}
	if bits&hasDue != 0 {
		o.Due = base + r.Varint()
	}
	if bits&hasSeen != 0 {
		o.Seen = base + r.Varint()
	}
	if bits&hasKeyed != 0 {
		r.Bad = r.Bad || !top
		for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
			o.keyed = append(o.keyed, r.memory(false))
		}
	}
	return o
}

func (r *memoryReader) list(hashes bool, last int64) (list []Stamp) {
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		var s Stamp
		if hashes {
			s.Hash = r.Uint64()
		}
		s.At = last + r.Varint()
		list, last = append(list, s), s.At
	}
	return list
}
