package op

import (
	"encoding/binary"
	"errors"
	"math"

	"cellgate/broker/shared/message/field"
	"cellgate/rules/expr"
)

// errAggregates means that the stored memory of a window is damaged.
var errAggregates = errors.New("the state of the window is damaged")

// aggregatesVersion is the first byte of a window's memory. Then follows, for each field:
//
//	count  uvarint  number of values; if it is 0, nothing follows
//	average, sum: 1 byte; 1: all values were whole, then their sum as varint; 0: two floats of 8 bytes, sum and rounding error
//	min, max: 1 byte; 1: a whole number as varint; 0: a float of 8 bytes
//	last: uvarint length, JSON
const aggregatesVersion = 1

// aggregateOf is the state of one aggregate function over the values of a window.
type aggregateOf struct {
	function string
	count    uint64
	whole    bool // only ints so far: ints is the sum, or the best value
	ints     int64
	sum      float64 // or the best value
	lost     float64 // rounding error of sum (Neumaier)
	last     []byte
	first    bool // the first aggregate, stored right after the version
}

func readAggregates(b []byte, fields []windowField) ([]aggregateOf, error) {
	all := make([]aggregateOf, len(fields))
	r := field.Reader{B: b}
	if len(b) > 0 && r.Byte() != aggregatesVersion {
		return nil, errAggregates
	}
	for i := range all {
		a := &all[i]
		a.function, a.first, a.whole = fields[i].function, i == 0, true
		if len(b) > 0 {
			a.read(&r)
		}
	}
	if r.Bad || r.Off != len(b) {
		return nil, errAggregates
	}
	return all, nil
}

func (a *aggregateOf) read(r *field.Reader) {
	if a.count = r.Uvarint(); a.count == 0 {
		return
	}
	switch a.function {
	case "count":
	case "last":
		a.last = append([]byte(nil), r.Bytes()...)
	default:
		if a.whole = r.Byte() == 1; a.whole {
			a.ints = r.Varint()
			return
		}
		if a.sum = math.Float64frombits(r.Uint64()); a.sums() {
			a.lost = math.Float64frombits(r.Uint64())
		}
	}
}

func (a *aggregateOf) append(b []byte) []byte {
	if a.first {
		b = append(b, aggregatesVersion)
	}
	b = binary.AppendUvarint(b, a.count)
	switch {
	case a.count == 0 || a.function == "count":
		return b
	case a.function == "last":
		return field.AppendBytes(b, a.last)
	case a.whole:
		return binary.AppendVarint(append(b, 1), a.ints)
	}
	b = binary.BigEndian.AppendUint64(append(b, 0), math.Float64bits(a.sum))
	if a.sums() {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(a.lost))
	}
	return b
}

func (a *aggregateOf) sums() bool { return a.function == "average" || a.function == "sum" }

// add adds a value: an int or a float64; for count and last JSON.
func (a *aggregateOf) add(v any) {
	a.count++
	switch v := v.(type) {
	case expr.RawJSON:
		if a.last = append(a.last[:0], v...); len(a.last) > maxPrevious {
			a.last = a.last[:0]
		}
	case int:
		a.addInt(int64(v))
	case float64:
		a.addFloat(v)
	}
}

func (a *aggregateOf) addInt(n int64) {
	switch {
	case !a.whole:
		a.addFloat(float64(n))
	case a.sums():
		if s := a.ints + n; (s > a.ints) == (n > 0) {
			a.ints = s
			return
		}
		a.addFloat(float64(n)) // the sum exceeds 64 bits
	case a.count == 1 || a.better(n < a.ints, n > a.ints):
		a.ints = n
	}
}

func (a *aggregateOf) addFloat(f float64) {
	first := a.count == 1
	if a.whole {
		a.whole, a.sum = false, float64(a.ints)
	}
	switch {
	case a.sums():
		s := a.sum + f
		if math.Abs(a.sum) >= math.Abs(f) {
			a.lost += (a.sum - s) + f
		} else {
			a.lost += (f - s) + a.sum
		}
		a.sum = s
	case first || a.better(f < a.sum, f > a.sum):
		a.sum = f
	}
}

func (a *aggregateOf) better(less, more bool) bool {
	return a.function == "min" && less || a.function == "max" && more
}

// value returns the result for the window, nil if there is none.
func (a *aggregateOf) value() any {
	switch {
	case a.function == "count":
		return int(a.count) //nolint:gosec // messages of a day
	case a.count == 0:
		return nil
	case a.function == "last":
		return expr.RawJSON(a.last)
	case a.function == "average" && a.whole:
		return wholeNumber(float64(a.ints) / float64(a.count))
	case a.function == "average":
		return wholeNumber((a.sum + a.lost) / float64(a.count))
	case a.whole:
		return int(a.ints)
	}
	return wholeNumber(a.sum + a.lost)
}

// wholeNumber returns a float as an int if it is whole, as in expressions.
func wholeNumber(f float64) any {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int(f)
	}
	return f
}
