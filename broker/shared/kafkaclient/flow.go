package kafkaclient

import (
	"context"
	"sync"
	"time"
)

// Bounds of a Flow.
const (
	// flowFloor is what may always be on its way, in bytes on the wire.
	flowFloor = 16 << 10
	// flowCeiling is where more would not make a link faster: 10 Gbit/s times 50 ms.
	flowCeiling = 64 << 20
	// flowDelay is how much longer than on an idle link a request may take for what is on its way before it;
	// flowUrgentDelay while there is something of the first lane.
	flowDelay, flowUrgentDelay = 100 * time.Millisecond, 25 * time.Millisecond
	// flowRenew is how long the time of a request on an idle link is believed.
	flowRenew = 30 * time.Second
	// flowTurn is how many requests of the second lane go before one of the third that waits.
	flowTurn  = 8
	flowLanes = 3
	// flowLost is how long a request holds room that others need: it may wait for a broker that is dead.
	flowLost = time.Second
)

// Flow shares the way to one cluster between producers by priority. Requests of the first lane go at once. Those of the
// others wait so that, all together, they have no more on its way than the link carries in flowDelay: whatever its
// speed, a request of the first lane finds no longer queue before it. What that is, is found out like TCP Vegas
// does: by how much longer requests take than on an idle link.
type Flow struct {
	mu      sync.Mutex
	limit   float64       // bytes of the lower lanes that may be on their way
	base    time.Duration // of a request on an idle link; 0 while unknown
	renewed time.Time     // when base was last begun anew
	cut     time.Time     // when limit was last lowered
	out     int           // bytes of the lower lanes on their way
	ratio   float64       // of records to what they are on the wire
	urgent  int           // records of the first lane that are not written
	waiting [flowLanes][]*flowTicket
	passed  int // requests of the second lane since one of the third
}

// flowTicket is a request that waits to be sent, or is on its way.
type flowTicket struct {
	lane, size int
	sent       time.Time
	full       bool // it used up the limit
	admitted   chan struct{}
	lost       *time.Timer // gives its room back, when it is one of the lower lanes
	left       bool        // its room was given back
}

// NewFlow returns the flow of a link of unknown speed.
func NewFlow() *Flow { return &Flow{limit: flowFloor, ratio: 1} }

// Lane returns what a producer of priority n, from 0, is given as ProducerOptions.Flow.
func (f *Flow) Lane(n int) *FlowLane { return &FlowLane{f, n} }

// FlowLane is one priority of a Flow. A nil one waits for nothing.
type FlowLane struct {
	flow *Flow
	lane int
}

// Urgent says how many more records of the first lane there are to write, or fewer.
func (f *Flow) Urgent(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urgent += n
}

// Limit is how many bytes of the lower lanes may be on their way now, and how many are.
func (f *Flow) Limit() (limit, used int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.limit), f.out
}

// batchBytes is how large a batch may be, before compression: a quarter of the limit, so that the first lane need not
// wait for a single large one.
func (l *FlowLane) batchBytes(most int) int {
	if l == nil || l.lane == 0 {
		return most
	}
	l.flow.mu.Lock()
	defer l.flow.mu.Unlock()
	return min(most, max(flowFloor, int(l.flow.limit/4*l.flow.ratio)))
}

// enter waits until a request of size bytes, which hold records of raw bytes, may be sent. leave must be called with
// what it returns when the request has ended.
func (l *FlowLane) enter(ctx context.Context, size, raw int) (*flowTicket, error) {
	if l == nil {
		return nil, nil
	}
	f := l.flow
	t := &flowTicket{lane: l.lane, size: size, admitted: make(chan struct{})}
	f.mu.Lock()
	if size > 0 && l.lane > 0 {
		f.ratio += (min(max(float64(raw)/float64(size), 1), 20) - f.ratio) / 8
	}
	f.waiting[l.lane] = append(f.waiting[l.lane], t)
	f.admitLocked()
	f.mu.Unlock()
	select {
	case <-t.admitted:
		return t, nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, w := range f.waiting[l.lane] {
		if w == t {
			f.waiting[l.lane] = append(f.waiting[l.lane][:i], f.waiting[l.lane][i+1:]...)
			return nil, ctx.Err()
		}
	}
	return t, nil // it was admitted meanwhile
}

// admitLocked lets those in whose turn it is.
func (f *Flow) admitLocked() {
	for {
		lane := f.nextLocked()
		if lane < 0 {
			return
		}
		t := f.waiting[lane][0]
		if lane > 0 {
			if f.out > 0 && float64(f.out+t.size) > f.limit {
				return
			}
			f.out += t.size
			t.full = float64(f.out+t.size) > f.limit
			f.turnLocked(lane)
		}
		f.waiting[lane] = f.waiting[lane][1:]
		t.sent = time.Now()
		if lane > 0 {
			t.lost = time.AfterFunc(flowLost+2*f.base, func() { f.leave(t, true) })
		}
		close(t.admitted)
	}
}

// nextLocked is the lane whose turn it is; negative when none waits.
func (f *Flow) nextLocked() int {
	if len(f.waiting[2]) > 0 && f.passed >= flowTurn && len(f.waiting[0]) == 0 {
		return 2
	}
	for lane := range f.waiting {
		if len(f.waiting[lane]) > 0 {
			return lane
		}
	}
	return -1
}

func (f *Flow) turnLocked(lane int) {
	if lane == 2 || len(f.waiting[2]) == 0 {
		f.passed = 0
	} else {
		f.passed++
	}
}

// leave says that a request has ended.
func (l *FlowLane) leave(t *flowTicket, failed bool) {
	if l == nil {
		return
	}
	if t.lost != nil {
		t.lost.Stop()
	}
	l.flow.leave(t, failed)
}

// leave takes the request off its way, and learns from how long it took.
func (f *Flow) leave(t *flowTicket, failed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	if t.lane > 0 {
		f.out -= t.size
	}
	f.learnLocked(t, failed)
	f.admitLocked()
}

func (f *Flow) learnLocked(t *flowTicket, failed bool) {
	now := time.Now()
	if now.Sub(f.renewed) > flowRenew { // the way may be another: begin again with what is on its way gone
		f.renewed, f.base, f.limit = now, 0, flowFloor
		return
	}
	if t.sent.Before(f.renewed) {
		return
	}
	took := now.Sub(t.sent)
	if !failed && (f.base == 0 || took < f.base) {
		f.base = took
	}
	delay := flowDelay
	if f.urgent > 0 {
		delay = flowUrgentDelay
	}
	switch queue := took - f.base; {
	case t.lane == 0:
	case queue > delay:
		if t.sent.After(f.cut) { // those sent before tell of the old limit
			f.limit *= max(0.5, float64(f.base+delay)/float64(took))
			f.cut = now
		}
	case queue < delay/2 && t.full && !failed:
		f.limit += float64(t.size) / 2 // half as much again each round trip
	}
	f.limit = min(max(f.limit, flowFloor), flowCeiling)
}
