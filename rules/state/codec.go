package state

import (
	"encoding/binary"
	"fmt"

	"cellgate/broker/shared/message/field"
)

// The stored state of one VIN. The first byte is the version.
//
//	version  1 byte, = 2
//	touched  uvarint  counts the changes to VINs of the shard
//	changed  varint   ms
//	shift    varint   ms; see vinState
//	count    uvarint
//	count times, by key:
//	  key    8 bytes, big-endian
//	  num    uvarint
//	  at     varint   ms
//	  list   uvarint count; each 8 bytes hash, varint ms after the entry before it
//	  text   uvarint length, bytes
const stateVersion = 2

func (v *vinState) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, stateVersion), v.touched)
	b = binary.AppendVarint(b, v.changed)
	b = binary.AppendVarint(b, v.shift)
	b = binary.AppendUvarint(b, uint64(len(v.ops)))
	for i := range v.ops {
		o := &v.ops[i]
		b = binary.BigEndian.AppendUint64(b, o.key)
		b = binary.AppendUvarint(b, o.Num)
		b = binary.AppendVarint(b, o.At)
		b = binary.AppendUvarint(b, uint64(len(o.List)))
		var last int64
		for _, s := range o.List {
			b = binary.BigEndian.AppendUint64(b, s.Hash)
			b = binary.AppendVarint(b, s.At-last)
			last = s.At
		}
		b = field.AppendBytes(b, o.Text)
	}
	return b
}

func unmarshalVIN(b []byte) (*vinState, error) {
	r := field.Reader{B: b}
	if ver := r.Byte(); ver != stateVersion {
		return nil, fmt.Errorf("%w: version %d", ErrBadState, ver)
	}
	v := &vinState{touched: r.Uvarint(), changed: r.Varint(), shift: r.Varint()}
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		o := Memory{key: r.Uint64(), Num: r.Uvarint(), At: r.Varint()}
		var last int64
		for m := r.Uvarint(); m > 0 && !r.Bad; m-- {
			s := Stamp{Hash: r.Uint64(), At: last + r.Varint()}
			o.List, last = append(o.List, s), s.At
		}
		if text := r.Bytes(); len(text) > 0 {
			o.Text = append([]byte(nil), text...)
		}
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
