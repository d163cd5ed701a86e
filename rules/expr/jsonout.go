package expr

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"cellgate/broker/shared/message"

	"github.com/valyala/fastjson"
)

// RawJSON is a value that is JSON already.
type RawJSON []byte

// AppendJSON appends a value as JSON. Equal values give equal bytes: object keys are sorted, times are RFC 3339 in UTC
// with milliseconds, durations are in seconds.
func AppendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case float64:
		return appendNumber(dst, v)
	case string:
		return appendString(dst, v)
	case RawJSON:
		if len(v) == 0 {
			return append(dst, "null"...)
		}
		return append(dst, v...)
	case *fastjson.Value:
		return appendField(dst, v)
	case json.Number:
		return append(dst, v...)
	case time.Time:
		return append(v.UTC().AppendFormat(append(dst, '"'), message.TimeLayout), '"')
	case time.Duration:
		return appendNumber(dst, v.Seconds())
	case []any:
		return appendList(dst, v)
	case *List:
		return appendList(dst, v.values)
	case map[string]any:
		return appendObject(dst, v)
	}
	return append(dst, "null"...) // expressions give no other types
}

func appendList(dst []byte, list []any) []byte {
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendJSON(dst, item)
	}
	return append(dst, ']')
}

func appendObject(dst []byte, m map[string]any) []byte {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, k), ':')
		dst = AppendJSON(dst, m[k])
	}
	return append(dst, '}')
}

// appendNumber writes numbers like encoding/json. Numbers that JSON cannot express become null.
func appendNumber(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64)
}

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string (RFC 8259, section 7). Invalid UTF-8 becomes U+FFFD. fastjson's own writer escapes
// control characters as Go does, which is not valid JSON.
func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r == utf8.RuneError && n == 1 {
				dst = utf8.AppendRune(append(dst, s[from:i]...), utf8.RuneError)
				from = i + 1
			}
			i += n
			continue
		}
		if c < 0x20 || c == '"' || c == '\\' {
			dst = appendEscaped(append(dst, s[from:i]...), c)
			from = i + 1
		}
		i++
	}
	return append(append(dst, s[from:]...), '"')
}

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendField appends a payload value as JSON with its numbers as received; nil becomes null.
func appendField(dst []byte, v *fastjson.Value) []byte {
	if v == nil {
		return append(dst, "null"...)
	}
	switch v.Type() {
	case fastjson.TypeString:
		b, _ := v.StringBytes()
		return appendString(dst, b)
	case fastjson.TypeArray:
		items, _ := v.Array()
		dst = append(dst, '[')
		for i, item := range items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendField(dst, item)
		}
		return append(dst, ']')
	case fastjson.TypeObject:
		o, _ := v.Object()
		first := true
		dst = append(dst, '{')
		o.Visit(func(key []byte, item *fastjson.Value) {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = appendField(append(appendString(dst, key), ':'), item)
		})
		return append(dst, '}')
	default:
		return v.MarshalTo(dst)
	}
}

// AppendText appends a value as plain text, for keys and Redis: strings as they are, other values as JSON without
// surrounding quotes.
func AppendText(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return append(dst, v...)
	case time.Time:
		return v.UTC().AppendFormat(dst, message.TimeLayout)
	case *fastjson.Value:
		return appendScalar(dst, v)
	case RawJSON:
		if item, err := fastjson.ParseBytes(v); err == nil {
			return appendScalar(dst, item)
		}
	case time.Duration:
		return append(dst, v.String()...)
	}
	return AppendJSON(dst, v)
}

// SameText reports whether two values have the same text, as in Redis, or are the same number in different notations.
func SameText(a, b any) bool {
	s, t := string(AppendText(nil, a)), string(AppendText(nil, b))
	if s == t {
		return true
	}
	_, _, _, okS := textNumber(s)
	_, _, _, okT := textNumber(t)
	if !okS || !okT {
		return false
	}
	d, _ := takeApart([]byte(s), nil)
	e, _ := takeApart([]byte(t), nil)
	return d.normal() == e.normal()
}
