package expr

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// fail aborts the evaluation: the virtual machine turns the panic into the expression's error.
func fail(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func misfit(op string, a, b any) {
	fail("%s does not work between %s and %s", op, typeOf(a), typeOf(b))
}

func compareNumbers(i int, f float64) int {
	switch {
	case f >= 1<<63:
		return -1
	case f < -1<<63:
		return 1
	}
	whole := math.Trunc(f)
	if c := cmp.Compare(i, int(whole)); c != 0 {
		return c
	}
	return cmp.Compare(0, f-whole)
}

// compare orders two values that are not nil; ok is false if they have no order.
func compare(a, b any) (order int, ok bool) {
	switch a := a.(type) {
	case int:
		switch b := b.(type) {
		case int:
			return cmp.Compare(a, b), true
		case float64:
			return compareNumbers(a, b), true
		}
	case float64:
		switch b := b.(type) {
		case float64:
			return cmp.Compare(a, b), true
		case int:
			return -compareNumbers(b, a), true
		}
	case string:
		if b, ok := b.(string); ok {
			return cmp.Compare(a, b), true
		}
	case time.Time:
		if b, ok := b.(time.Time); ok {
			return a.Compare(b), true
		}
	case time.Duration:
		if b, ok := b.(time.Duration); ok {
			return cmp.Compare(a, b), true
		}
	}
	return 0, false
}

func order(op string, a, b any) int {
	c, ok := compare(a, b)
	if !ok {
		misfit(op, a, b)
	}
	return c
}

func less(a, b any) bool {
	return a != nil && b != nil && order("<", a, b) < 0
}

func lessOrEqual(a, b any) bool {
	return a != nil && b != nil && order("<=", a, b) <= 0
}

func greater(a, b any) bool {
	return a != nil && b != nil && order(">", a, b) > 0
}

func greaterOrEqual(a, b any) bool {
	return a != nil && b != nil && order(">=", a, b) >= 0
}

// equal reports whether two values mean the same. nil equals nil; values of different kinds are not equal.
func equal(a, b any) bool {
	if c, ok := compare(a, b); ok {
		return c == 0
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case bool:
		b, ok := b.(bool)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	}
	return false
}

func unequal(a, b any) bool { return !equal(a, b) }

// element reports whether a value is in a list, or a name is in an object.
func element(a, b any) bool {
	switch b := b.(type) {
	case nil:
		return false
	case []any:
		for _, v := range b {
			if a != nil && equal(a, v) {
				return true
			}
		}
		return false
	case *List: // the result of a conditional
		return b.contains(a)
	case map[string]any:
		name, ok := a.(string)
		if a != nil && !ok {
			fail("the value is not a text, and an object's names are texts")
		}
		_, there := b[name]
		return a != nil && there
	}
	fail("in needs a list after it, this is %s", typeOf(b))
	return false
}

// texts returns two operands that must be texts; ok is false if one is missing.
func texts(a, b any) (s, t string, ok bool) {
	if a == nil || b == nil {
		return "", "", false
	}
	return text(a), text(b), true
}

func text(v any) string {
	s, ok := v.(string)
	if !ok {
		fail("%s where a text is needed", typeOf(v))
	}
	return s
}

func contains(a, b any) bool   { s, t, ok := texts(a, b); return ok && strings.Contains(s, t) }
func startsWith(a, b any) bool { s, t, ok := texts(a, b); return ok && strings.HasPrefix(s, t) }
func endsWith(a, b any) bool   { s, t, ok := texts(a, b); return ok && strings.HasSuffix(s, t) }

func float(v any) (f float64, ok bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// arithmetic applies an operation to two numbers. For ints it tries whole first, which returns false if there is no
// whole result; otherwise it uses decimal.
func arithmetic(op string, a, b any, whole func(a, b int) (int, bool), decimal func(a, b float64) float64) any {
	if a == nil || b == nil {
		return nil
	}
	x, okX := a.(int)
	y, okY := b.(int)
	if okX && okY {
		if n, ok := whole(x, y); ok {
			return n
		}
		return toNumber(decimal(float64(x), float64(y)))
	}
	f, okF := float(a)
	g, okG := float(b)
	if !okF || !okG {
		misfit(op, a, b)
	}
	return toNumber(decimal(f, g))
}

// maxJoined bounds a concatenated text, in bytes. Without it, 128 copies of the largest message would be 32 MiB,
// allocated 128 times.
const maxJoined = 1 << 20

func add(a, b any) any {
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			if len(a)+len(b) > maxJoined {
				fail("texts joined by + have at most %d bytes, these have %d", maxJoined, len(a)+len(b))
			}
			return a + b
		}
	case time.Time:
		if b, ok := b.(time.Duration); ok {
			return a.Add(b)
		}
	case time.Duration:
		switch b := b.(type) {
		case time.Duration:
			return a + b
		case time.Time:
			return b.Add(a)
		}
	}
	return arithmetic("+", a, b, func(a, b int) (int, bool) {
		c := a + b
		return c, (c > a) == (b > 0)
	}, func(a, b float64) float64 { return a + b })
}

func subtract(a, b any) any {
	switch a := a.(type) {
	case time.Time:
		switch b := b.(type) {
		case time.Time:
			return a.Sub(b)
		case time.Duration:
			return a.Add(-b)
		}
	case time.Duration:
		if b, ok := b.(time.Duration); ok {
			return a - b
		}
	}
	return arithmetic("-", a, b, func(a, b int) (int, bool) {
		c := a - b
		return c, (c < a) == (b > 0)
	}, func(a, b float64) float64 { return a - b })
}

func multiply(a, b any) any {
	if d, ok := a.(time.Duration); ok && b != nil {
		if f, ok := float(b); ok {
			return toDuration(float64(d) * f)
		}
	}
	if d, ok := b.(time.Duration); ok && a != nil {
		if f, ok := float(a); ok {
			return toDuration(float64(d) * f)
		}
	}
	return arithmetic("*", a, b, func(a, b int) (int, bool) {
		if a == 0 || b == 0 {
			return 0, true
		}
		c := a * b
		return c, c/b == a && (a != math.MinInt || b != -1) && (b != math.MinInt || a != -1)
	}, func(a, b float64) float64 { return a * b })
}

// toDuration converts the result of a calculation with durations.
func toDuration(f float64) any {
	if math.IsNaN(f) || math.Abs(f) >= 1<<63 {
		return nil
	}
	return time.Duration(f)
}

// divide returns nil for a division by 0.
func divide(a, b any) any {
	if d, ok := a.(time.Duration); ok && b != nil {
		if f, ok := float(b); ok {
			return toDuration(float64(d) / f)
		}
	}
	return arithmetic("/", a, b, func(a, b int) (int, bool) {
		if b == 0 || b == -1 || a%b != 0 {
			return 0, false
		}
		return a / b, true
	}, func(a, b float64) float64 { return a / b })
}

// remainder has the sign of a, as in most languages; nil for a division by 0.
func remainder(a, b any) any {
	if a == nil || b == nil {
		return nil
	}
	x, okX := a.(int)
	y, okY := b.(int)
	if !okX || !okY {
		if _, ok := float(a); ok {
			if _, ok := float(b); ok {
				fail("%% works on whole numbers")
			}
		}
		misfit("%", a, b)
	}
	switch y {
	case 0:
		return nil
	case -1:
		return 0
	}
	return x % y
}

func power(a, b any) any {
	return arithmetic("**", a, b, func(int, int) (int, bool) { return 0, false }, math.Pow)
}

func negate(v any) any {
	if d, ok := v.(time.Duration); ok {
		return -d
	}
	if v == nil {
		return nil
	}
	if _, ok := float(v); !ok {
		fail("- does not work on %s", typeOf(v))
	}
	return subtract(0, v)
}

// fetch returns an element of a list, a field of an object or a character of a text; nil if there is none.
func fetch(from, at any) any {
	switch from := from.(type) {
	case nil:
		return nil
	case map[string]any:
		if name, ok := at.(string); ok {
			return from[name]
		}
	case []any:
		if i, ok := index(at, len(from)); ok {
			return from[i]
		}
	case string:
		if i, ok := index(at, utf8.RuneCountInString(from)); ok {
			return string([]rune(from)[i])
		}
	}
	return nil
}

// index converts a value to an index into n elements; negative ones count from the end.
func index(at any, n int) (int, bool) {
	i, ok := at.(int)
	if ok && i < 0 {
		i += n
	}
	return i, ok && i >= 0 && i < n
}

// part returns from[a:b]: elements of a list or characters of a text.
func part(args ...any) any {
	bounds := func(n int) (lo, hi int) {
		lo, hi = 0, n
		for i, to := range []*int{&lo, &hi} {
			switch at := args[1+i].(type) {
			case nil:
			case int:
				if at < 0 {
					at += n
				}
				*to = min(max(at, 0), n)
			default:
				fail("%s where a whole number is needed", typeOf(at))
			}
		}
		return lo, max(lo, hi)
	}
	switch from := args[0].(type) {
	case nil:
		return nil
	case []any:
		lo, hi := bounds(len(from))
		return from[lo:hi]
	case string:
		runes := []rune(from)
		lo, hi := bounds(len(runes))
		return string(runes[lo:hi])
	}
	fail("%s has no parts [a:b]", typeOf(args[0]))
	return nil
}
