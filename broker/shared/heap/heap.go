// Package heap is a heap whose elements can be moved or removed at any time.
package heap

// item is an element of at most one heap.
type item[T any] interface {
	// Before reports whether the item precedes another one. Its result may change only between Remove and Put, or just
	// before Put.
	Before(other T) bool
	// Place returns where the heap stores the item's place: 0 while it is in none.
	Place() *int32
}

// Heap has the first element at its front. The zero Heap is empty.
type Heap[T item[T]] []T

// Put adds an element, or moves it to its new place.
func (h *Heap[T]) Put(x T) {
	if *x.Place() == 0 {
		*h = append(*h, x)
		*x.Place() = int32(len(*h)) //nolint:gosec // elements in memory
	}
	h.settle(x)
}

// Remove removes an element, if it is in the heap.
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

// Pop removes and returns the first element of a heap that is not empty.
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
