package expr

import (
	"encoding/binary"
	mathbits "math/bits"
)

// strict rejects what fastjson's parser accepts but RFC 8259 does not: numbers such as 1-2, nan, control characters in
// texts, wrong escapes. The parser has checked the structure, so one pass over the tokens suffices; it takes half the
// time of fastjson's own validation, which reads the structure again.
func strict(b []byte) bool {
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			n := textEnd(b[i+1:])
			if n < 0 {
				return false
			}
			if i += 1 + n; i < len(b) && (b[i] == ':' || b[i] == ',') {
				i++
			}
		case c == '-' || c-'0' <= 9:
			n := numberEnd(b[i:])
			if n < 0 {
				return false
			}
			if i += n; i < len(b) && b[i] == ',' {
				i++
			}
		case c == 't', c == 'n' && i+1 < len(b) && b[i+1] == 'u':
			i += len("true")
		case c == 'f':
			i += len("false")
		case between(c):
			i++
		default:
			return false
		}
	}
	return true
}

// between reports whether c is between values.
func between(c byte) bool {
	return c == ',' || c == ':' || c == '{' || c == '}' || c == '[' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t'
}

// textEnd returns the index after the closing quote of a text; -1 if the text has invalid contents (RFC 8259, section
// 7).
func textEnd(b []byte) int {
	for i := plainEnd(b, 0); i < len(b); i = plainEnd(b, i) {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			n := escape(b[i+1:])
			if n < 0 {
				return -1
			}
			i += 1 + n
		default:
			return -1
		}
	}
	return -1
}

// One byte value repeated in all eight bytes.
const (
	ones        = 0x0101010101010101
	quotes      = ones * '"'
	backslashes = ones * '\\'
	spaces      = ones * ' '
	signs       = ones * 0x80
)

// plainEnd returns the index of the first quote, backslash or control character from i on. It checks eight bytes at a
// time, since most of a payload is text. In each difference the lowest byte with its sign bit set is a match; higher
// ones may be wrong.
func plainEnd(b []byte, i int) int {
	for ; len(b)-i >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^quotes, x^backslashes
		found := ((quote-ones)&^quote | (backslash-ones)&^backslash | (x-spaces)&^x) & signs
		if found != 0 {
			return i + mathbits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
		i++
	}
	return i
}

// escape returns the length of what follows a backslash; -1 if it is invalid.
func escape(b []byte) int {
	if len(b) == 0 {
		return -1
	}
	switch b[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(b) > 4 && hexDigit(b[1]) && hexDigit(b[2]) && hexDigit(b[3]) && hexDigit(b[4]) {
			return 5
		}
	}
	return -1
}

func hexDigit(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// numberEnd returns the index after a number; -1 if it is invalid (RFC 8259, section 6).
func numberEnd(b []byte) int {
	i := 0
	if b[0] == '-' {
		i++
	}
	from := i
	if i = digitsEnd(b, i); i == from || b[from] == '0' && i > from+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		from = i + 1
		if i = digitsEnd(b, from); i == from {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from = i
		if i = digitsEnd(b, from); i == from {
			return -1
		}
	}
	if i < len(b) {
		switch b[i] {
		case ',', ']', '}', ' ', '\n', '\r', '\t':
		default:
			return -1
		}
	}
	return i
}

func digitsEnd(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}
