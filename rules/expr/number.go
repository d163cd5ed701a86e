package expr

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"
)

// This file and compute.go define numbers and arithmetic. rules/README.md documents them for analysts; TestNumbers
// checks them.
//
// A number in an expression is an int if it is whole and fits in 64 bits, however it is written (5, 5.0 and 5e0 are the
// same number); otherwise it is a float64. Floats from 2^53 on are whole, so a number of the payload is a float only if
// it has a fraction or exceeds 64 bits. There is no infinity or NaN: a calculation without a result is nil, as if
// missing.

// toNumber converts the result of a calculation with floats.
func toNumber(f float64) any {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil
	case f == math.Trunc(f) && exact(f):
		return int(f)
	}
	return f
}

// decimal is a parsed number: 0.digits × 10^exponent, without leading or trailing zeros.
type decimal struct {
	negative bool
	digits   []byte
	exponent int
}

// takeApart parses a JSON number (RFC 8259, section 6) into a decimal. Its digits are stored in buf.
func takeApart(text, buf []byte) (d decimal, ok bool) {
	d.digits = buf[:0]
	rest := bytes.TrimPrefix(text, []byte("-"))
	d.negative = len(rest) < len(text)
	mantissa, exponent := rest, []byte(nil)
	if i := bytes.IndexAny(rest, "eE"); i >= 0 {
		mantissa, exponent = rest[:i], rest[i+1:]
	}
	if len(exponent) > 0 {
		e, err := strconv.Atoi(string(exponent))
		if err != nil {
			return d, false
		}
		d.exponent = e
	}
	point := len(mantissa)
	for i, c := range mantissa {
		switch {
		case c == '.':
			point = i
			continue
		case c == '0' && len(d.digits) == 0:
			if point < i {
				d.exponent--
			}
			continue
		}
		if point >= i {
			d.exponent++
		}
		d.digits = append(d.digits, c)
	}
	d.digits = bytes.TrimRight(d.digits, "0")
	return d, true
}

// whole returns the decimal as an int; false if it is not one.
func (d *decimal) whole() (int, bool) {
	if len(d.digits) == 0 {
		return 0, true
	}
	if d.exponent < len(d.digits) || d.exponent > 19 {
		return 0, false
	}
	var text [21]byte
	b := text[:0]
	if d.negative {
		b = append(b, '-')
	}
	b = append(b, d.digits...)
	for range d.exponent - len(d.digits) {
		b = append(b, '0')
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return int(n), err == nil
}

// normal returns the canonical text of a decimal that neither an int nor a float can represent.
func (d *decimal) normal() string {
	sign := ""
	if d.negative {
		sign = "-"
	}
	return sign + "0." + string(d.digits) + "e" + strconv.Itoa(d.exponent)
}

// shortWhole reads a whole number of up to 18 digits, the most common form.
func shortWhole(text []byte) (n int, ok bool) {
	digits := text
	if len(text) > 0 && text[0] == '-' {
		digits = text[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	if len(digits) < len(text) {
		n = -n
	}
	return n, true
}

// shortDecimal reads a number with a fraction and up to 15 digits. Whole numbers below 2^53 and powers of ten up to
// 10^22 are exact, so only the division rounds (W. D. Clinger, How to read floating point numbers accurately).
func shortDecimal(text []byte) (f float64, ok bool) {
	digits := text
	if len(text) > 0 && text[0] == '-' {
		digits = text[1:]
	}
	if len(digits) > 16 {
		return 0, false
	}
	n, point := 0, -1
	for i, c := range digits {
		switch {
		case c == '.' && point < 0:
			point = i
		case c < '0' || c > '9':
			return 0, false
		default:
			n = n*10 + int(c-'0')
		}
	}
	if point < 0 {
		return 0, false
	}
	f = float64(n) / powersOfTen[len(digits)-point-1]
	if len(digits) < len(text) {
		f = -f
	}
	return f, true
}

var powersOfTen = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// readNumber reads the text of a JSON number as an int or a float. ok is false if it is out of the range of both.
func readNumber(text []byte) (i int, f float64, whole, ok bool) {
	if i, whole = shortWhole(text); whole {
		return i, 0, true, true
	}
	if f, ok = shortDecimal(text); !ok {
		var buf [32]byte
		d, read := takeApart(text, buf[:0])
		if !read {
			return 0, 0, false, false
		}
		if i, whole = d.whole(); whole {
			return i, 0, true, true
		}
		var err error
		if f, err = strconv.ParseFloat(string(text), 64); err != nil {
			return 0, 0, false, false
		}
	}
	if f == math.Trunc(f) && exact(f) {
		return int(f), 0, true, true
	}
	return 0, f, false, true
}

// number returns a number of the payload for expressions; ok is false if it is out of range.
func (sc *Scope) number(v *fastjson.Value) (n any, ok bool) {
	sc.digits = v.MarshalTo(sc.digits[:0])
	i, f, whole, ok := readNumber(sc.digits)
	switch {
	case !ok:
		return nil, false
	case whole:
		return sc.boxes.int(i), true
	}
	return sc.boxes.number(f), true
}

// exactNumber returns a number of the payload for use as a key: a number that neither an int nor a float can represent
// keeps its digits.
func (sc *Scope) exactNumber(v *fastjson.Value) (n any, ok bool) {
	if n, ok = sc.number(v); ok {
		if _, whole := n.(int); whole || len(sc.digits) <= 16 {
			return n, true
		}
	}
	var buf [32]byte
	d, read := takeApart(sc.digits, buf[:0])
	if !read {
		return RawJSON(string(sc.digits)), true
	}
	if f, isFloat := n.(float64); isFloat {
		var own [32]byte
		held, _ := takeApart(strconv.AppendFloat(own[:0], f, 'e', -1, 64), make([]byte, 0, 32))
		if bytes.Equal(held.digits, d.digits) && held.exponent == d.exponent {
			return n, true
		}
	}
	return RawJSON(d.normal()), true
}

// literal reads a number in a rule file.
func literal(text string) (any, bool) {
	text = strings.TrimPrefix(strings.ReplaceAll(text, "_", ""), "+")
	if n, err := strconv.ParseInt(text, 0, 64); err == nil {
		return int(n), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, false
	}
	if n := toNumber(f); n != nil {
		return n, true
	}
	return nil, false
}
