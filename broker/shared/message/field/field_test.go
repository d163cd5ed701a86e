package field_test

import (
	"encoding/binary"
	"math"
	"testing"

	"cellgate/broker/shared/message/field"
)

// form returns a form with one of each field.
func form() []byte {
	b := []byte{7}
	b = binary.AppendUvarint(b, math.MaxUint64)
	b = binary.AppendVarint(b, math.MinInt64)
	b = binary.AppendVarint(b, math.MaxInt64)
	b = binary.AppendVarint(b, -1)
	b = binary.BigEndian.AppendUint64(b, 1<<63+5)
	b = field.AppendBytes(b, "text")
	b = field.AppendBytes(b, []byte{})
	b = binary.AppendUvarint(b, 2) // two elements of two bytes
	return append(b, 1, 2, 3, 4)
}

// read reads the form and reports whether every field is what form wrote.
func read(r *field.Reader) bool {
	ok := r.Byte() == 7
	ok = r.Uvarint() == math.MaxUint64 && ok
	ok = r.Varint() == math.MinInt64 && ok
	ok = r.Varint() == math.MaxInt64 && ok
	ok = r.Varint() == -1 && ok
	ok = r.Uint64() == 1<<63+5 && ok
	ok = string(r.Bytes()) == "text" && ok
	ok = len(r.Bytes()) == 0 && ok
	ok = r.Count(2) == 2 && ok
	return string(r.Rest()) == "\x01\x02\x03\x04" && ok
}

func TestReader(t *testing.T) {
	t.Parallel()
	r := field.Reader{B: form()}
	if !read(&r) || r.Bad {
		t.Fatalf("the form reads back as something else: %+v", r)
	}
}

// TestReaderCutShort checks that an input cut at any byte is Bad, and that nothing is read after the cut.
func TestReaderCutShort(t *testing.T) {
	t.Parallel()
	whole := form()
	for n := range whole {
		r := field.Reader{B: whole[:n:n]}
		if read(&r) || !r.Bad {
			t.Errorf("cut to %d of %d bytes: not noticed", n, len(whole))
		}
		if r.Off > n || r.Rest() != nil || r.Byte() != 0 || r.Uint64() != 0 || r.Bytes() != nil {
			t.Errorf("cut to %d bytes: something was read after the cut: %+v", n, r)
		}
	}
}

// TestReaderForgedLengths checks that a length or count beyond the input neither panics nor passes.
func TestReaderForgedLengths(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{4, 1 << 31, math.MaxInt64, math.MaxUint64} {
		b := append(binary.AppendUvarint(nil, n), 1, 2, 3)
		bytes, count := field.Reader{B: b}, field.Reader{B: b}
		if bytes.Bytes() != nil || !bytes.Bad {
			t.Errorf("a string of %d bytes in 3 passed", n)
		}
		if count.Count(1) != 0 || !count.Bad {
			t.Errorf("%d elements in 3 bytes passed", n)
		}
	}
	tooLong := field.Reader{B: []byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}}
	if tooLong.Uvarint() != 0 || !tooLong.Bad {
		t.Error("a uvarint of more than 64 bits passed")
	}
}
