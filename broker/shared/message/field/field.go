// Package field reads and appends the fields of the gateway's own binary forms: bytes, variable-length integers
// (encoding/binary) and byte strings preceded by their length. The record of broker/shared/message, the session state
// of broker/session, and the stored forms of rules use it; each documents its fields. The package imports nothing of
// this module.
package field

import "encoding/binary"

// AppendBytes appends the length of v as a uvarint, and v.
func AppendBytes[T ~string | ~[]byte](dst []byte, v T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(v))), v...)
}

// Reader takes fields from the front of B. After the first incomplete field it is Bad permanently, and every later
// field is zero. A caller checks Bad once at the end, and in loops with a count from the input. The zero Reader with B
// set is ready; it is not safe for concurrent use.
type Reader struct {
	B   []byte
	Off int // bytes read
	Bad bool
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if r.Bad || r.Off >= len(r.B) {
		r.Bad = true
		return 0
	}
	v := r.B[r.Off]
	r.Off++
	return v
}

// Uvarint reads an unsigned variable-length integer.
func (r *Reader) Uvarint() uint64 {
	if r.Bad {
		return 0
	}
	v, n := binary.Uvarint(r.B[r.Off:])
	if n <= 0 {
		r.Bad = true
		return 0
	}
	r.Off += n
	return v
}

// Varint reads a signed variable-length integer.
func (r *Reader) Varint() int64 {
	u := r.Uvarint()
	v := int64(u >> 1) //nolint:gosec // zigzag, as in encoding/binary
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// Uint64 reads eight bytes, big-endian.
func (r *Reader) Uint64() uint64 {
	if r.Bad || len(r.B)-r.Off < 8 {
		r.Bad = true
		return 0
	}
	r.Off += 8
	return binary.BigEndian.Uint64(r.B[r.Off-8:])
}

// Bytes reads what AppendBytes wrote: a slice of B, not a copy.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if r.Bad || n > uint64(len(r.B)-r.Off) {
		r.Bad = true
		return nil
	}
	r.Off += int(n) //nolint:gosec // at most len(r.B)
	return r.B[r.Off-int(n) : r.Off]
}

// Count reads the number of elements that follow, each of at least size bytes (1 or more). A number that exceeds the
// rest of the input makes the Reader Bad, so that the caller can allocate by it.
func (r *Reader) Count(size int) int {
	n := r.Uvarint()
	if r.Bad || n > uint64((len(r.B)-r.Off)/size) {
		r.Bad = true
		return 0
	}
	return int(n) //nolint:gosec // at most len(r.B)
}

// Rest returns the unread bytes, none if the Reader is Bad.
func (r *Reader) Rest() []byte {
	if r.Bad {
		return nil
	}
	return r.B[r.Off:]
}
