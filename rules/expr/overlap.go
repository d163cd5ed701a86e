package expr

import (
	"maps"
	"math"
	"slices"
)

// Bounds of the analysis: alternatives of a condition, and values of a list in it.
const (
	maxBranches = 16
	maxListed   = 64
)

// Overlap reports whether two conditions can certainly hold at once, so that they are probably a mistake. Both must
// consist only of comparisons of names with constants, and the names of one must include those of the other. Conditions
// on different names can hold at once on purpose.
func (n *Names) Overlap(a, b *Expression) bool {
	switch {
	case a == nil || b == nil:
		return false
	case a.code == b.code:
		return true
	}
	of, okA := a.Condition.branches()
	with, okB := b.Condition.branches()
	if !okA || !okB || !nested(a.Condition, b.Condition) {
		return false
	}
	for _, x := range of {
		for _, y := range with {
			if n.possible(slices.Concat(x, y)) {
				return true
			}
		}
	}
	return false
}

// names returns the names that a condition tests.
func (c *Condition) names() map[uint16]bool {
	all := map[uint16]bool{}
	for _, clause := range c.Clauses {
		for i := range clause {
			all[clause[i].Symbol] = true
		}
	}
	return all
}

// nested reports whether one condition tests only names that the other tests too.
func nested(a, b *Condition) bool {
	of, with := a.names(), b.names()
	if len(of) > len(with) {
		of, with = with, of
	}
	for name := range of {
		if !with[name] {
			return false
		}
	}
	return len(of) > 0
}

// branches returns the alternatives of a condition, each a conjunction of tests. ok is false if the condition has other
// parts, or too many alternatives.
func (c *Condition) branches() (all [][]*Test, ok bool) {
	if c == nil || !c.Whole || len(c.Clauses) == 0 {
		return nil, false
	}
	all = [][]*Test{nil}
	for _, clause := range c.Clauses {
		long := slices.ContainsFunc(clause, func(t Test) bool { return len(t.Texts)+len(t.Numbers) > maxListed })
		if long || len(all)*len(clause) > maxBranches {
			return nil, false
		}
		var next [][]*Test
		for _, before := range all {
			for i := range clause {
				next = append(next, append(slices.Clone(before), &clause[i]))
			}
		}
		all = next
	}
	return all, true
}

// possible reports whether every name has a value that passes all its tests.
func (n *Names) possible(tests []*Test) bool {
	of := map[uint16][]*Test{}
	for _, t := range tests {
		of[t.Symbol] = append(of[t.Symbol], t)
	}
	for symbol, tests := range of {
		whole := n.Symbols.List[symbol].field == IntegerField
		if !slices.ContainsFunc(candidates(tests, whole), func(v Seen) bool {
			return !slices.ContainsFunc(tests, func(t *Test) bool { return !t.Holds(&v) })
		}) {
			return false
		}
	}
	return true
}

// candidates returns values of which one passes the tests if any does. A missing value is not a candidate unless the
// tests ask for it.
func candidates(tests []*Test, whole bool) []Seen {
	all := []Seen{{Kind: BoolKind, Bool: true}, {Kind: BoolKind}}
	texts, numbers := map[string]bool{"\x00": true}, map[float64]bool{}
	presence := true
	for _, t := range tests {
		presence = presence && t.Op == IsThere
		if t.Op == Within {
			numbers[t.Low.At], numbers[t.High.At] = true, true
		}
		if t.Op == Equals {
			texts[t.Text] = true
		}
		for text := range t.Texts {
			texts[text] = true
		}
		for number := range t.Numbers {
			numbers[number] = true
		}
	}
	for text := range texts {
		all = append(all, Seen{Kind: TextKind, Text: text})
	}
	at := slices.DeleteFunc(slices.Sorted(maps.Keys(numbers)), func(v float64) bool { return !exact(v) })
	if len(at) == 0 {
		at = []float64{0}
	}
	for i, v := range at {
		between := []float64{math.Floor(v) - 1, math.Floor(v), math.Ceil(v), math.Ceil(v) + 1}
		if !whole {
			before := at[max(0, i-1)]
			between = append(between, v, before+(v-before)/2)
		}
		for _, number := range between {
			all = append(all, Seen{Kind: NumberKind, Number: number})
		}
	}
	if presence {
		all = append(all, Seen{Kind: Missing})
	}
	return all
}
