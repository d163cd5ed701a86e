package index

import (
	"math"
	"slices"
	"sort"

	"cellgate/rules/expr"
)

type interval struct{ low, high expr.Bound }

var everything = interval{expr.Bound{At: math.Inf(-1)}, expr.Bound{At: math.Inf(1)}}

// narrow returns the intersection of two intervals.
func (i interval) narrow(o interval) interval {
	if o.low.At > i.low.At || o.low.At == i.low.At && o.low.Open {
		i.low = o.low
	}
	if o.high.At < i.high.At || o.high.At == i.high.At && o.high.Open {
		i.high = o.high
	}
	return i
}

func (i interval) point() bool   { return i.low.At == i.high.At }
func (i interval) bounded() bool { return !math.IsInf(i.low.At, 0) && !math.IsInf(i.high.At, 0) }

// ranges finds the intervals that contain a number. It is a segment tree over the places that the intervals' ends
// define: each end is a place, and so is each gap between two. An interval is stored in at most two nodes per level, so
// n intervals take 2n·log2(4n) entries, and a lookup takes log2(4n) steps.
type ranges struct {
	ends  []float64
	first []uint32 // by node: start of its items; one extra entry at the end
	items []uint32 // bucket numbers
}

func newRanges(intervals []interval, buckets []uint32) *ranges {
	r := &ranges{}
	for _, i := range intervals {
		for _, end := range []float64{i.low.At, i.high.At} {
			if !math.IsInf(end, 0) {
				r.ends = append(r.ends, end)
			}
		}
	}
	slices.Sort(r.ends)
	r.ends = slices.Compact(r.ends)
	leaves := r.leaves()
	nodes := make([][]uint32, 2*leaves)
	for n, i := range intervals {
		for lo, hi := r.from(i)+leaves, r.to(i)+leaves+1; lo < hi; lo, hi = lo/2, hi/2 {
			if lo%2 == 1 {
				nodes[lo] = append(nodes[lo], buckets[n])
				lo++
			}
			if hi%2 == 1 {
				hi--
				nodes[hi] = append(nodes[hi], buckets[n])
			}
		}
	}
	for _, items := range nodes {
		r.first = append(r.first, uint32(len(r.items)))
		r.items = append(r.items, items...)
	}
	r.first = append(r.first, uint32(len(r.items)))
	return r
}

func (r *ranges) leaves() int { return 2*len(r.ends) + 1 }

// from and to return the first and the last place of a non-empty interval.
func (r *ranges) from(i interval) int {
	if math.IsInf(i.low.At, -1) {
		return 0
	}
	if p := r.place(i.low.At); !i.low.Open {
		return p
	}
	return r.place(i.low.At) + 1
}

func (r *ranges) to(i interval) int {
	if math.IsInf(i.high.At, 1) {
		return r.leaves() - 1
	}
	if p := r.place(i.high.At); !i.high.Open {
		return p
	}
	return r.place(i.high.At) - 1
}

func (r *ranges) place(v float64) int {
	n := sort.SearchFloat64s(r.ends, v)
	if n < len(r.ends) && r.ends[n] == v {
		return 2*n + 1
	}
	return 2 * n
}

// at calls found with the bucket of each interval that contains a number.
func (r *ranges) at(v float64, found func(bucket uint32)) {
	for n := r.place(v) + r.leaves(); n > 0; n /= 2 {
		for _, bucket := range r.items[r.first[n]:r.first[n+1]] {
			found(bucket)
		}
	}
}
