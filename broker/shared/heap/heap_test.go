package heap_test

import (
	stdheap "container/heap"
	"math/rand/v2"
	"testing"

	"cellgate/broker/shared/heap"
)

type timer struct {
	at    int
	place int32
}

func (x *timer) Before(y *timer) bool { return x.at < y.at }
func (x *timer) Place() *int32        { return &x.place }

// TestHeap runs random operations and compares the first element with a search.
func TestHeap(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	var h heap.Heap[*timer]
	in := make([]timer, 50)
	for range 20_000 {
		x := &in[rnd.IntN(len(in))]
		switch rnd.IntN(4) {
		case 0:
			h.Remove(x)
		case 1:
			if len(h) > 0 {
				if first := h.Pop(); first.place != 0 {
					t.Fatal("what is out knows a place")
				}
			}
		default:
			x.at = rnd.IntN(40)
			h.Put(x)
		}
		n := 0
		for i := range in {
			y := &in[i]
			if y.place == 0 {
				continue
			}
			n++
			if h[y.place-1] != y || y.Before(h[0]) {
				t.Fatalf("element %d of %d is not at its place, or comes before the first", y.place, len(h))
			}
		}
		if n != len(h) {
			t.Fatalf("%d elements know a place of %d", n, len(h))
		}
	}
}

// standard implements container/heap's interface.
type standard []*timer

func (h standard) Len() int           { return len(h) }
func (h standard) Less(i, j int) bool { return h[i].at < h[j].at }

func (h standard) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = int32(i)+1, int32(j)+1 //nolint:gosec // few
}

func (h *standard) Push(x any) {
	e := x.(*timer) //nolint:forcetypeassert // nothing else is pushed
	*h = append(*h, e)
	e.place = int32(len(*h)) //nolint:gosec // few
}

func (h *standard) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h, x.place = (*h)[:last], 0
	return x
}

// BenchmarkMove moves the first of 100,000 timers to a later time.
func BenchmarkMove(b *testing.B) {
	const n = 100_000
	timers := func() []timer {
		all := make([]timer, n)
		for i := range all {
			all[i].at = i * 7919 % n
		}
		return all
	}
	b.Run("own", func(b *testing.B) {
		var h heap.Heap[*timer]
		all := timers()
		for i := range all {
			h.Put(&all[i])
		}
		for b.Loop() {
			h[0].at += n
			h.Put(h[0])
		}
	})
	b.Run("container", func(b *testing.B) {
		var h standard
		all := timers()
		for i := range all {
			stdheap.Push(&h, &all[i])
		}
		for b.Loop() {
			h[0].at += n
			stdheap.Fix(&h, 0)
		}
	})
}
