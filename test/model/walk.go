package model

import (
	"fmt"
	"slices"
)

// walk visits states breadth first, up to a depth (0: all of them), until a promise is broken or there are too many.
type walk[S any, E fmt.Stringer] struct {
	key    func(*S) [2]uint64 // states with the same key count as one
	each   func(*S, func(E, S))
	broken func(*S) string
	taken  func(from uint32, by E) // if not nil, called for every step
	depth  int
	states int

	seen map[[2]uint64]struct{}
	// back and by lead from each state to the first.
	back []uint32
	by   []E
}

// add keeps a new state.
func (w *walk[S, E]) add(s *S, back uint32, by E) bool {
	k := w.key(s)
	if _, ok := w.seen[k]; ok {
		return false
	}
	w.seen[k] = struct{}{}
	w.back, w.by = append(w.back, back), append(w.by, by)
	return true
}

func (w *walk[S, E]) from(start S) (Result, error) {
	var res Result
	var none E
	w.seen = map[[2]uint64]struct{}{}
	w.add(&start, 0, none)
	level, ids := []S{start}, []uint32{0}
	for res.Depth = 0; len(level) > 0; res.Depth++ {
		if w.depth > 0 && res.Depth == w.depth {
			res.States = len(w.back)
			return res, nil
		}
		var next []S
		var nextIDs []uint32
		for i := range level {
			if res.Broken != "" {
				break
			}
			w.each(&level[i], func(by E, t S) {
				res.Steps++
				if w.taken != nil {
					w.taken(ids[i], by)
				}
				if res.Broken != "" || !w.add(&t, ids[i], by) {
					return
				}
				id := uint32(len(w.back) - 1)
				if res.Broken = w.broken(&t); res.Broken != "" {
					for _, e := range w.history(id) {
						res.Trace = append(res.Trace, e.String())
					}
					return
				}
				next, nextIDs = append(next, t), append(nextIDs, id)
			})
		}
		if res.States = len(w.back); res.Broken != "" {
			return res, nil
		}
		if res.States > w.states {
			return res, fmt.Errorf("more than %d states at depth %d: bound the case further", w.states, res.Depth)
		}
		level, ids = next, nextIDs
	}
	res.Whole = true
	return res, nil
}

// history returns the steps from the first state to one.
func (w *walk[S, E]) history(id uint32) []E {
	var out []E
	for ; id != 0; id = w.back[id] {
		out = append(out, w.by[id])
	}
	slices.Reverse(out)
	return out
}
