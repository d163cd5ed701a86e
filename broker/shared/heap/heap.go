// Package heap orders elements of which only the first is wanted, and of which any may move or go.
package heap

// Item is an element. It belongs to one heap.
type Item[T any] interface {
	// Before says that it comes before another one. What that depends on changes only between Remove and Put, or just before Put.
	Before(other T) bool
	// Place is where it remembers its place for the heap: 0 while it is in none.
	Place() *int32
}

// Heap has the first element at its front. The zero Heap is empty.
type Heap[T Item[T]] []T

// Put adds an element, or moves it to where it belongs now.
func (h *Heap[T]) Put(x T) {
	if *x.Place() == 0 {
		*h = append(*h, x)
		*x.Place() = int32(len(*h)) //nolint:gosec // elements in memory
	}
	h.settle(x)
}

// Remove takes an element out, if it is in.
func (h *Heap[T]) Remove(x T) {
	i, last := int(*x.Place())-1, len(*h)-1
	if i < 0 {
		return
	}
	moved := (*h)[last]
	clear((*h)[last:])
	*h = (*h)[:last]
	*x.Place() = 0
	if i < last {
		h.set(i, moved)
		h.settle(moved)
	}
}

// Pop takes the first element out. There is one.
func (h *Heap[T]) Pop() T {
	x := (*h)[0]
	h.Remove(x)
	return x
}

func (h Heap[T]) set(i int, x T) {
	h[i] = x
	*x.Place() = int32(i) + 1 //nolint:gosec // elements in memory
}

// settle moves an element up or down from its place.
func (h Heap[T]) settle(x T) {
	i := int(*x.Place()) - 1
	for parent := (i - 1) / 2; i > 0 && x.Before(h[parent]); parent = (i - 1) / 2 {
		h.set(i, h[parent])
		i = parent
	}
	for {
		next := 2*i + 1
		if next+1 < len(h) && h[next+1].Before(h[next]) {
			next++
		}
		if next >= len(h) || !h[next].Before(x) {
			break
		}
		h.set(i, h[next])
		i = next
	}
	h.set(i, x)
}
