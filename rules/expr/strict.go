package expr

// strict refuses what fastjson's parser takes and RFC 8259 does not: numbers such as 1-2, nan, control characters in texts, wrong
// escapes. The parser has seen to the structure, so this is one pass over the tokens; it takes half the time of fastjson's own
// validation, which reads the structure once more.
func strict(b []byte) bool {
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			n := textEnd(b[i+1:])
			if n < 0 {
				return false
			}
			i += 1 + n
		case c == '-' || c >= '0' && c <= '9':
			n := numberEnd(b[i:])
			if n < 0 {
				return false
			}
			i += n
		case c == 't', c == 'n' && i+1 < len(b) && b[i+1] == 'u':
			i += len("true")
		case c == 'f':
			i += len("false")
		case c == ',' || c == ':' || c == '{' || c == '}' || c == '[' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t':
			i++
		default:
			return false
		}
	}
	return true
}

// textEnd is behind the quote that ends a text; -1 for one with what must not be in it (RFC 8259, 7).
func textEnd(b []byte) int {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i++; i == len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(b) || !hexDigit(b[i+1]) || !hexDigit(b[i+2]) || !hexDigit(b[i+3]) || !hexDigit(b[i+4]) {
					return -1
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

func hexDigit(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// numberEnd is behind a number; -1 when it is none (RFC 8259, 6).
func numberEnd(b []byte) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if b[0] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
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
