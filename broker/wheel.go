package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	wheelTick  = 250 * time.Millisecond
	wheelSlots = 64 // 16 s, the longest time between two checks of a connection
)

// wheel holds every connection and checks each at least every wheelSlots ticks, sooner on request. The checks cover
// keep alive, token end, write timeout and the release of idle memory. A connection needs no timer, and a message does
// not reset one.
type wheel struct {
	// clock is the monotonic time of the last tick in ms since the start. Setting the wall clock must neither trigger
	// nor delay keep alive and write timeouts. Connections read it where a tick of precision is enough.
	clock atomic.Int64
	// wall is the wall clock at the last tick, Unix ms. Token ends are compared with it.
	wall atomic.Int64

	mu    sync.Mutex
	at    int               // slot of the last tick
	slots [wheelSlots]*conn // lists linked by conn.place
	count int
	// reserved counts the places of connections that are not added yet.
	reserved int
}

// wheelPlace is a connection's place in the wheel. The wheel's lock guards it.
type wheelPlace struct {
	next, prev *conn
	slot       int
	in         bool
}

// reserve reserves a place unless limit places are taken. add uses it up, unreserve releases it.
func (w *wheel) reserve(limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count+w.reserved >= limit {
		return false
	}
	w.reserved++
	return true
}

func (w *wheel) unreserve() {
	w.mu.Lock()
	w.reserved--
	w.mu.Unlock()
}

// add puts c in its reserved place, to be checked within delay.
func (w *wheel) add(c *conn, delay time.Duration) {
	w.mu.Lock()
	w.addLocked(c, delay)
	w.count++
	w.reserved--
	w.mu.Unlock()
}

func (w *wheel) addLocked(c *conn, delay time.Duration) {
	ticks := int(min(max(delay/wheelTick, 1), wheelSlots-1))
	slot := (w.at + ticks) % wheelSlots
	c.place.slot, c.place.prev, c.place.next = slot, nil, w.slots[slot]
	if c.place.next != nil {
		c.place.next.place.prev = c
	}
	w.slots[slot] = c
	c.place.in = true
}

// remove removes c, if it is in the wheel.
func (w *wheel) remove(c *conn) {
	w.mu.Lock()
	if c.place.in {
		w.unlinkLocked(c)
		w.count--
	}
	w.mu.Unlock()
}

func (w *wheel) unlinkLocked(c *conn) {
	if c.place.prev != nil {
		c.place.prev.place.next = c.place.next
	} else {
		w.slots[c.place.slot] = c.place.next
	}
	if c.place.next != nil {
		c.place.next.place.prev = c.place.prev
	}
	c.place.prev, c.place.next, c.place.in = nil, nil, false
}

// sooner moves c so that it is checked within delay.
func (w *wheel) sooner(c *conn, delay time.Duration) {
	w.mu.Lock()
	if c.place.in {
		left := (c.place.slot - w.at + wheelSlots) % wheelSlots
		if time.Duration(left)*wheelTick > delay {
			w.unlinkLocked(c)
			w.addLocked(c, delay)
		}
	}
	w.mu.Unlock()
}

// clockStep is the difference between wall and monotonic clock over one tick above which the wall clock counts as set.
const clockStep = time.Second

// tick advances both clocks and appends the due connections to due. They move to the farthest slot, from where check's
// result moves them closer. If the wall clock was set, all connections are due, because their token ends have moved.
func (w *wheel) tick(elapsed time.Duration, now time.Time, due []*conn) []*conn {
	clock, wall := elapsed.Milliseconds(), now.UnixMilli()
	stepped := wall - w.wall.Swap(wall) - (clock - w.clock.Swap(clock))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = (w.at + 1) % wheelSlots
	if stepped > clockStep.Milliseconds() || -stepped > clockStep.Milliseconds() {
		return w.allLocked(due)
	}
	for c := w.slots[w.at]; c != nil; {
		next := c.place.next
		w.unlinkLocked(c)
		w.addLocked(c, (wheelSlots-1)*wheelTick)
		due = append(due, c)
		c = next
	}
	return due
}

// all appends every connection to conns.
func (w *wheel) all(conns []*conn) []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allLocked(conns)
}

func (w *wheel) allLocked(conns []*conn) []*conn {
	for _, c := range w.slots {
		for ; c != nil; c = c.place.next {
			conns = append(conns, c)
		}
	}
	return conns
}

func (w *wheel) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// run ticks until stop is closed and checks the due connections. elapsed is monotonic, now the wall clock.
func (w *wheel) run(elapsed func() time.Duration, now func() time.Time, stop <-chan struct{}) {
	t := time.NewTicker(wheelTick)
	defer t.Stop()
	var due []*conn
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		due = w.tick(elapsed(), now(), due[:0])
		for _, c := range due {
			if delay := c.check(w.clock.Load()); delay > 0 {
				w.sooner(c, delay)
			}
		}
		clear(due)
	}
}
