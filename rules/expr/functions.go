package expr

import (
	"cmp"
	"encoding/base64"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	spans "cellgate/broker/shared/message/duration"
)

// function is a function of rules, by its number of arguments: the machine calls those with one and two without
// allocating. A function with a missing argument is not called and its result is missing, unless it is marked
// otherwise.
type function struct {
	one    func(v any) any
	two    func(a, b any) any
	many   func(args ...any) any
	nilToo bool
}

// functions are all functions of rules except those bound to a configuration or a file (bound.go).
var functions = map[string]function{
	"len":         {one: length},
	"abs":         {one: absolute},
	"ceil":        {one: rounding("ceil", math.Ceil)},
	"floor":       {one: rounding("floor", math.Floor)},
	"round":       {one: rounding("round", math.Round), two: roundTo},
	"int":         {one: toInt},
	"float":       {one: toFloat},
	"string":      {one: func(v any) any { return string(AppendText(nil, v)) }},
	"toJSON":      {one: func(v any) any { return string(AppendJSON(nil, v)) }, nilToo: true},
	"toBase64":    {one: func(v any) any { return base64.StdEncoding.EncodeToString([]byte(text(v))) }},
	"type":        {one: kindOf, nilToo: true},
	"upper":       {one: func(v any) any { return strings.ToUpper(text(v)) }},
	"lower":       {one: func(v any) any { return strings.ToLower(text(v)) }},
	"trim":        {one: func(v any) any { return strings.TrimSpace(text(v)) }, two: func(a, b any) any { return strings.Trim(text(a), text(b)) }},
	"trimPrefix":  {one: func(v any) any { return text(v) }, two: func(a, b any) any { return strings.TrimPrefix(text(a), text(b)) }},
	"trimSuffix":  {one: func(v any) any { return text(v) }, two: func(a, b any) any { return strings.TrimSuffix(text(a), text(b)) }},
	"split":       {two: func(a, b any) any { return split(a, b, -1) }, many: func(args ...any) any { return split(args[0], args[1], integer("split", args[2])) }},
	"indexOf":     {two: func(a, b any) any { return runesBefore(text(a), strings.Index(text(a), text(b))) }},
	"lastIndexOf": {two: func(a, b any) any { return runesBefore(text(a), strings.LastIndex(text(a), text(b))) }},
	"hasPrefix":   {two: func(a, b any) any { return strings.HasPrefix(text(a), text(b)) }},
	"hasSuffix":   {two: func(a, b any) any { return strings.HasSuffix(text(a), text(b)) }},
	"first":       {one: func(v any) any { return fetch(list("first", v), 0) }},
	"last":        {one: func(v any) any { return fetch(list("last", v), -1) }},
	"get":         {two: fetch},
	"duration":    {one: duration},
	"min":         {one: extreme("min", -1), many: extremeOf("min", -1)},
	"max":         {one: extreme("max", 1), many: extremeOf("max", 1)},
	"sum":         {one: func(v any) any { return sum(numbers("sum", v)) }},
	"mean":        {one: func(v any) any { return mean(numbers("mean", v)) }, many: func(args ...any) any { return mean(numbers("mean", args...)) }},
	"median":      {one: func(v any) any { return median(numbers("median", v)) }, many: func(args ...any) any { return median(numbers("median", args...)) }},
	"byte":        {two: byteAt},
	"bits":        {two: func(a, b any) any { return bits(a, b, 1) }, many: func(args ...any) any { return bits(args[0], args[1], args[2]) }},
	"bitand":      {two: bitwise("bitand", func(a, b int) int { return a & b })},
	"bitor":       {two: bitwise("bitor", func(a, b int) int { return a | b })},
	"bitxor":      {two: bitwise("bitxor", func(a, b int) int { return a ^ b })},
	"bitnand":     {two: bitwise("bitnand", func(a, b int) int { return a &^ b })},
	"bitnot":      {one: func(v any) any { return ^integer("bitnot", v) }},
	"bitshl":      {two: bitwise("bitshl", func(a, b int) int { return a << shift(b) })},
	"bitshr":      {two: bitwise("bitshr", func(a, b int) int { return a >> shift(b) })},
	"bitushr":     {two: bitwise("bitushr", func(a, b int) int { return int(uint(a) >> shift(b)) })}, //nolint:gosec // bits
}

// methods are the methods of times. Without at_zone they use UTC.
var methods = map[string]func(t time.Time) int{
	"Year": time.Time.Year, "YearDay": time.Time.YearDay, "Day": time.Time.Day, "Hour": time.Time.Hour,
	"Minute": time.Time.Minute, "Second": time.Time.Second,
	"Month":     func(t time.Time) int { return int(t.Month()) },
	"Weekday":   func(t time.Time) int { return (int(t.Weekday())+6)%7 + 1 }, // ISO 8601: Monday is 1, Sunday 7
	"Unix":      func(t time.Time) int { return int(t.Unix()) },
	"UnixMilli": func(t time.Time) int { return int(t.UnixMilli()) },
}

func isMethod(name string) bool { return name == "UTC" || methods[name] != nil }

func methodNames() []string { return append(slices.Sorted(maps.Keys(methods)), "UTC") }

// method calls a method of a time.
func method(name string) func(any) any {
	call := methods[name]
	return func(v any) any {
		if v == nil {
			return nil
		}
		t, ok := v.(time.Time)
		if !ok {
			fail(".%s() works on a time, this is %s", name, typeOf(v))
		}
		if call == nil { // UTC
			return t.UTC()
		}
		return call(t)
	}
}

func integer(name string, v any) int {
	n, ok := v.(int)
	if !ok {
		fail("%s works on whole numbers, this is %s", name, typeOf(v))
	}
	return n
}

func list(name string, v any) []any {
	l, ok := v.([]any)
	if !ok {
		fail("%s works on a list, this is %s", name, typeOf(v))
	}
	return l
}

func length(v any) any {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v)
	case []any:
		return len(v)
	case map[string]any:
		return len(v)
	}
	fail("len works on a text, a list or an object, this is %s", typeOf(v))
	return nil
}

// kindOf returns the name of a value's kind.
func kindOf(v any) any {
	switch v.(type) {
	case nil:
		return "nil"
	case bool:
		return "bool"
	case int:
		return "int"
	case float64:
		return "float"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "map"
	case time.Duration:
		return "duration"
	}
	return "time"
}

func absolute(v any) any {
	if n, ok := v.(int); ok && n >= 0 {
		return n
	}
	if f, ok := v.(float64); ok {
		return math.Abs(f)
	}
	return negate(v)
}

// rounding returns a function whose results are whole numbers.
func rounding(name string, round func(float64) float64) func(any) any {
	return func(v any) any {
		if n, ok := v.(int); ok {
			return n
		}
		f, ok := float(v)
		if !ok {
			fail("%s works on a number, this is %s", name, typeOf(v))
		}
		return toNumber(round(f))
	}
}

// maxPlaces bounds n in round(x, n): a float has 15 to 17 digits.
const maxPlaces = 15

// roundTo rounds the number as written in decimal, half away from zero: 1.005 to two places is 1.01, although the
// nearest float is slightly less.
func roundTo(v, places any) any {
	n := integer("round", places)
	if n < -maxPlaces || n > maxPlaces {
		fail("round takes from -%d to %d places", maxPlaces, maxPlaces)
	}
	f, ok := float(v)
	if !ok {
		fail("round works on a number, this is %s", typeOf(v))
	}
	if _, whole := v.(int); whole && n >= 0 {
		return v
	}
	back, _ := strconv.ParseFloat(strconv.FormatFloat(math.Round(scaled(f, n)), 'e', -1, 64), 64)
	return toNumber(scaled(back, -n))
}

// scaled returns f × 10^n, computed on its decimal form.
func scaled(f float64, n int) float64 {
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	e, _ := strconv.Atoi(exponent)
	out, _ := strconv.ParseFloat(mantissa+"e"+strconv.Itoa(e+n), 64)
	return out
}

// textNumber parses a number from a text.
func textNumber(s string) (i int, f float64, whole, ok bool) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "+")
	if _, err := strconv.ParseFloat(s, 64); err != nil || strings.Trim(s, "0123456789.eE+-") != "" {
		return 0, 0, false, false
	}
	return readNumber([]byte(s))
}

func toInt(v any) any {
	switch v := v.(type) {
	case int:
		return v
	case float64:
		if math.Abs(v) < 1<<63 {
			return int(v)
		}
		fail("int: the number is out of the range of whole numbers")
	case string:
		i, f, whole, ok := textNumber(v)
		switch {
		case !ok:
			fail("the text is not a number")
		case whole:
			return i
		}
		return toInt(f)
	}
	fail("int works on a number or a text, this is %s", typeOf(v))
	return nil
}

func toFloat(v any) any {
	switch v := v.(type) {
	case int, float64:
		return v
	case string:
		i, f, whole, ok := textNumber(v)
		switch {
		case !ok:
			fail("the text is not a number")
		case whole:
			return i
		}
		return f
	}
	fail("float works on a number or a text, this is %s", typeOf(v))
	return nil
}

func split(a, b any, n int) any {
	parts := strings.SplitN(text(a), text(b), n)
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out
}

// runesBefore converts a byte offset in a text to characters; -1 stays -1.
func runesBefore(s string, at int) any {
	if at < 0 {
		return at
	}
	return utf8.RuneCountInString(s[:at])
}

func duration(v any) any {
	length, below := strings.CutPrefix(text(v), "-")
	d, err := spans.Parse(length)
	if err != nil {
		fail("the text is not a duration")
	}
	if below {
		return -d
	}
	return d
}

// numbers returns the numbers among the arguments and in lists among them, without missing elements.
func numbers(name string, args ...any) []any {
	var out []any
	for _, a := range args {
		switch a := a.(type) {
		case nil:
		case int, float64:
			out = append(out, a)
		case []any:
			for _, v := range a {
				if _, ok := float(v); !ok && v != nil {
					fail("%s works on numbers, in the list is %s", name, typeOf(v))
				} else if ok {
					out = append(out, v)
				}
			}
		default:
			fail("%s works on numbers, this is %s", name, typeOf(a))
		}
	}
	return out
}

// extremeOf returns min for sign -1, max for sign 1.
func extremeOf(name string, sign int) func(args ...any) any {
	return func(args ...any) any {
		var best any
		for _, v := range numbers(name, args...) {
			if c, _ := compare(v, best); best == nil || c == sign {
				best = v
			}
		}
		return best
	}
}

func extreme(name string, sign int) func(v any) any {
	of := extremeOf(name, sign)
	return func(v any) any { return of(v) }
}

func sum(list []any) any {
	total := any(0)
	for _, v := range list {
		total = add(total, v)
	}
	return total
}

func mean(list []any) any { return divide(sum(list), len(list)) }

func median(list []any) any {
	slices.SortFunc(list, func(a, b any) int {
		c, _ := compare(a, b)
		return c
	})
	n := len(list)
	switch {
	case n == 0:
		return nil
	case n%2 == 1:
		return list[n/2]
	}
	return divide(add(list[n/2-1], list[n/2]), 2)
}

// byteAt returns a byte of a text, 0 to 255; nil if the text is too short.
func byteAt(a, b any) any {
	s, i := text(a), integer("byte", b)
	if i < 0 || i >= len(s) {
		return nil
	}
	return int(s[i])
}

// bits returns n bits of a whole number, starting at bit from (0 is the lowest).
func bits(v, from, n any) any {
	x, lo, count := integer("bits", v), integer("bits", from), integer("bits", n)
	if lo < 0 || count < 1 || lo+count > 63 {
		fail("bits takes from 1 to 63 bits, the lowest of which is 0")
	}
	return x >> lo & (1<<count - 1)
}

func bitwise(name string, do func(a, b int) int) func(a, b any) any {
	return func(a, b any) any { return do(integer(name, a), integer(name, b)) }
}

func shift(by int) int {
	if by < 0 {
		fail("a number cannot be shifted by less than 0 bits")
	}
	return min(by, 64)
}

// isFunction reports whether rules have a function of that name.
func isFunction(name string) bool {
	_, own := functions[name]
	return own || boundFunctions[name]
}

func functionNames() []string {
	var names []string
	for name := range functions {
		names = append(names, name)
	}
	for name := range boundFunctions {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	return names
}
