package expr

import (
	"time"

	"github.com/expr-lang/expr"
)

// methodPrefix marks a method of a time that is type-checked as a function.
const methodPrefix = "."

// signatures returns the types of the functions that the library does not have, or has with other types. Their code is
// in functions.go.
func (n *Names) signatures() []expr.Option {
	never := func(...any) (any, error) { return nil, nil }
	opts := []expr.Option{
		expr.Function("hash", never, new(func(any, time.Time) string)),
		expr.Function("at_zone", never, new(func(time.Time, string) time.Time)),
		expr.Function("byte", never, new(func(string, int) int)),
		expr.Function("bits", never, new(func(int, int, int) int), new(func(int, int) int)),
		expr.Function("ceil", never, new(func(int) int), new(func(float64) int)),
		expr.Function("floor", never, new(func(int) int), new(func(float64) int)),
		expr.Function("round", never, new(func(float64, int) float64), new(func(int, int) int), new(func(int) int), new(func(float64) int)),
	}
	for name := range methods {
		opts = append(opts, expr.Function(methodPrefix+name, never, new(func(time.Time) int)))
	}
	for name, b := range n.Calls {
		opts = append(opts, expr.Function(name, never, b.signatures...))
	}
	return opts
}
