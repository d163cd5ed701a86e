package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// search walks all histories of a case under some rules.
type search struct {
	Case
	Rules
	transition func(Transition)

	seeds  [2]maphash.Seed
	orders []order
}

// Result is the result of a search.
type Result struct {
	States, Steps, Depth int
	// Broken is the broken promise, "" for none. Trace is the shortest history that shows it.
	Broken string
	Trace  []string
	// Whole: the search visited every history of the case, not only those up to its depth.
	Whole bool
}

// String shows the counterexample, one line per step.
func (r Result) String() string {
	if r.Broken == "" {
		return fmt.Sprintf("holds: %d states, %d steps, depth %d", r.States, r.Steps, r.Depth)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s (after %d states)\n", r.Broken, r.States)
	for i, line := range r.Trace {
		fmt.Fprintf(&b, "  %2d. %s\n", i+1, line)
	}
	return b.String()
}

// Search walks a case breadth first until a promise is broken. It calls transition, if not nil, for every script that
// ran.
func Search(c Case, r Rules, transition func(Transition)) (Result, error) {
	m := &search{Case: c, Rules: r, transition: transition, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, orders: orders(c.Gateways)}
	w := walk[state, step]{key: m.key, each: m.each, broken: m.broken, depth: c.Depth, states: c.States}
	return w.from(first(c))
}

// orders lists the permutations of that many gateways.
func orders(gateways int) []order {
	all := []order{{0, 1, 2}, {1, 0, 2}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}}
	return all[:[...]int{0, 1, 2, 6}[gateways]]
}

func (m *search) hash(s *state) [2]uint64 {
	return [2]uint64{maphash.Comparable(m.seeds[0], *s), maphash.Comparable(m.seeds[1], *s)}
}

// broken checks the promises in a state, and at rest after it.
func (m *search) broken(s *state) string {
	if b := s.broken(); b != "" {
		return b
	}
	if m.SameID && s.Accepted[0] != 0 && s.Accepted[1] != 0 {
		return "two commands are accepted under one id"
	}
	return m.atRest(*s)
}
