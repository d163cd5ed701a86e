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
	seen   map[[2]uint64]struct{}
	// from and by lead from each state back to the first.
	from []uint32
	by   []step
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
	m := &search{
		Case: c, Rules: r, transition: transition, seen: map[[2]uint64]struct{}{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, orders: orders(c.Gateways),
	}
	return m.walk()
}

// orders lists the permutations of that many gateways.
func orders(gateways int) []order {
	all := []order{{0, 1, 2}, {1, 0, 2}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}}
	return all[:[...]int{0, 1, 2, 6}[gateways]]
}

func (m *search) hash(s *state) [2]uint64 {
	return [2]uint64{maphash.Comparable(m.seeds[0], *s), maphash.Comparable(m.seeds[1], *s)}
}

// add keeps a new state.
func (m *search) add(s *state, from uint32, by step) bool {
	k := m.key(s)
	if _, ok := m.seen[k]; ok {
		return false
	}
	m.seen[k] = struct{}{}
	m.from, m.by = append(m.from, from), append(m.by, by)
	return true
}

func (m *search) walk() (Result, error) {
	var res Result
	start := first(m.Case)
	m.add(&start, 0, step{})
	level, ids := []state{start}, []uint32{0}
	for res.Depth = 0; len(level) > 0; res.Depth++ {
		if m.Depth > 0 && res.Depth == m.Depth {
			res.States = len(m.from)
			return res, nil
		}
		var next []state
		var nextIDs []uint32
		for i := range level {
			if res.Broken != "" {
				break
			}
			m.each(&level[i], func(by step, t state) {
				res.Steps++
				if res.Broken != "" || !m.add(&t, ids[i], by) {
					return
				}
				id := uint32(len(m.from) - 1)
				if res.Broken = m.broken(&t); res.Broken != "" {
					res.Trace = m.trace(id)
					return
				}
				next, nextIDs = append(next, t), append(nextIDs, id)
			})
		}
		if res.States = len(m.from); res.Broken != "" {
			return res, nil
		}
		if res.States > m.States {
			return res, fmt.Errorf("more than %d states at depth %d: bound the case further", m.States, res.Depth)
		}
		level, ids = next, nextIDs
	}
	res.Whole = true
	return res, nil
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

func (m *search) trace(id uint32) []string {
	var out []string
	for ; id != 0; id = m.from[id] {
		out = append([]string{m.by[id].String()}, out...)
	}
	return out
}
