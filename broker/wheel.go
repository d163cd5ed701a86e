package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	wheelTick  = 250 * time.Millisecond
	wheelSlots = 64 // 16 s: no connection goes unchecked for longer
)

// wheel holds every connection and looks at each at the latest after wheelSlots ticks, sooner if it asked
// for it. Keep alive, token end, write timeout and the release of idle memory are all such looks, so that a
// connection needs no timer, and a message does not move one.
type wheel struct {
	// clock is the time of the last tick in milliseconds since the start, from a monotonic clock: keep alive
	// and write timeouts must not fire, nor wait, because somebody sets the wall clock. Connections read it
	// instead of the system clock where a tick of precision is enough.
	clock atomic.Int64
	// wall is the wall clock at the last tick in Unix milliseconds: what tokens are held against.
	wall atomic.Int64

	mu    sync.Mutex
	at    int               // slot of the last tick
	slots [wheelSlots]*conn // rings are lists by conn.place
	count int
	// reserved are places of connections on their way in.
	reserved int
}

// wheelPlace is a connection's place in the wheel, under the wheel's lock.
type wheelPlace struct {
	next, prev *conn
	slot       int
	in         bool
}

// reserve takes a place for a connection unless limit places are taken. add or unreserve gives it back.
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

// add puts c in its reserved place, to be looked at after delay at the latest.
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

// remove takes c out; it may be out already.
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

// sooner moves c so that it is looked at after delay at the latest.
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

// clockStep is by how much wall and monotonic clock disagree between two ticks before the wall clock counts as
// having been set.
const clockStep = time.Second

// tick advances both clocks and appends the connections that are due to due. They stay in the wheel, at its
// far end, until check moves them. When the wall clock has been set, all are due: the ends of their tokens
// have moved.
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

// all appends every connection.
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

// run ticks until stop is closed and looks at what is due. elapsed is monotonic, now the wall clock.
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
