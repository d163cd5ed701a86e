package kafkaclient

import (
	"context"
	"sync"
	"time"
)

// Bounds of a Flow.
const (
	// flowFloor is what may always be on its way, in bytes on the wire, in four batches.
	flowFloor = 16 << 10
	// flowCeiling is where more would not make a link faster: 10 Gbit/s times 50 ms.
	flowCeiling = 64 << 20
	// flowDelay is how much longer than on an idle link a request takes for what the lower lanes have on its way before it.
	flowDelay = 50 * time.Millisecond
	// A round, in which it is seen how long requests take, has at least flowAnswers to requests that were sent in it: a
	// broker that is slow with some of them is not with all.
	flowAnswers = 8
	// flowRenew is how long the time of a request on an idle link is believed.
	flowRenew = 30 * time.Second
	// flowBest is how long it is remembered what the link has carried.
	flowBest = 3 * time.Second
	// flowBatch bounds a batch before compression that is larger than it may be on the wire.
	flowBatch = 2 << 20
	// flowBatches is how many batches use up the limit: with fewer the first lane waits for longer for one, and less is learnt
	// in a round; with many more than MaxInFlight a lane with a single partition has less than its part.
	flowBatches = 8
	// FlowLanes is how many lanes a Flow has.
	FlowLanes = 3
	// flowLost is how long a request holds room that others need: it may wait for a broker that is dead.
	flowLost = time.Second
)

// Flow shares the way to one cluster between producers by priority. Requests of the first lane go at once. Those of the
// others wait so that, all together, they have no more on its way than the link carries in flowDelay: whatever its
// speed, a request of the first lane finds no longer queue before it. What that is, is found out like TCP Vegas
// does: by how much longer requests take than on an idle link. As with CoDel it is the quickest of a round that tells: a
// queue on the link is before all of them, and what a broker takes for some is not on the link.
type Flow struct {
	mu      sync.Mutex
	limit   float64       // bytes of the lower lanes that may be on their way
	base    time.Duration // of a request on an idle link; 0 while unknown
	renewed time.Time     // when base was last begun anew
	round   flowRound
	out     int     // bytes of the lower lanes on their way
	ratio   float64 // of records to what they are on the wire
	waiting [FlowLanes][]*flowTicket
	credit  float64 // bytes that the third lane may send before the second, since that has sent its share
	// best is the most that the link has carried per second in this span of flowBest, which began at bestAt, and in the
	// one before.
	best   [2]float64
	bestAt time.Time
	limits FlowLimits
	rate   bucket // of all lanes
	rates  [FlowLanes]bucket
	sent   [FlowLanes]uint64 // bytes
	later  *time.Timer       // admits when there are tokens again; nil when nothing waits for them
}

// FlowLimits are what the way to the cluster may be used for, counted on the wire: batches as they are compressed, with
// the requests that they are in.
type FlowLimits struct {
	// Rate is of all lanes together, Rates of each, in bytes per second; 0 is no limit.
	Rate  int64
	Rates [FlowLanes]int64
	// Held are lanes of which nothing is sent.
	Held [FlowLanes]bool
	// Share is what the third lane has of what the lower two send together while both have something, 0 to 1.
	Share float64
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
func NewFlow(limits FlowLimits) *Flow {
	f := &Flow{limit: flowFloor, ratio: 1}
	f.SetLimits(limits)
	return f
}

// SetLimits changes the limits from now on, also for what waits already.
func (f *Flow) SetLimits(limits FlowLimits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.limits = limits
	f.rate.set(limits.Rate, now)
	for i := range f.rates {
		f.rates[i].set(limits.Rates[i], now)
	}
	f.admitLocked()
}

// Limits are those in force.
func (f *Flow) Limits() FlowLimits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits
}

// Sent is how many bytes each lane has sent in requests, those that were sent again too.
func (f *Flow) Sent() [FlowLanes]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// Lane returns what a producer of priority n, from 0, is given as ProducerOptions.Flow.
func (f *Flow) Lane(n int) *FlowLane { return &FlowLane{f, n} }

// FlowLane is one priority of a Flow. A nil one waits for nothing.
type FlowLane struct {
	flow *Flow
	lane int
}

// Limit is how many bytes of the lower lanes may be on their way now, and how many are.
func (f *Flow) Limit() (limit, used int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.limit), f.out
}

// batchBytes is how large a batch may be before compression that is to be no more than most on the wire, as records
// compress now: a part of the limit, so that the first lane need not wait for a single large one.
func (l *FlowLane) batchBytes(most int) int {
	if l == nil || l.lane == 0 {
		return most
	}
	l.flow.mu.Lock()
	defer l.flow.mu.Unlock()
	raw := max(most, min(int(float64(most)*l.flow.ratio), flowBatch))
	return min(raw, max(flowFloor/4, int(l.flow.limit/flowBatches*l.flow.ratio)))
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
		lane, wait := f.nextLocked(time.Now())
		if lane < 0 {
			f.lookAgainLocked(wait)
			return
		}
		t := f.waiting[lane][0]
		t.sent = time.Now()
		if lane > 0 {
			f.out += t.size
			t.full = float64(f.out+t.size) > f.limit
			f.turnLocked(lane, t.size)
		}
		f.waiting[lane] = f.waiting[lane][1:]
		f.rate.take(t.size)
		f.rates[lane].take(t.size)
		f.sent[lane] += uint64(t.size)
		if lane > 0 {
			t.lost = time.AfterFunc(flowLost+2*f.base, func() { f.leave(t, true) })
		}
		close(t.admitted)
	}
}

// lookAgainLocked has admitLocked called after a time, if that is not to happen before anyway; 0: when something ends.
func (f *Flow) lookAgainLocked(wait time.Duration) {
	if f.later != nil {
		f.later.Stop()
		f.later = nil
	}
	if wait == 0 {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(wait, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.later == t {
			f.later = nil
			f.admitLocked()
		}
	})
	f.later = t
}

// nextLocked is the lane whose turn it is; negative when there is none, with how long none will be for want of tokens, if
// that is it. The first lane may take a second's tokens in advance; the lower ones pay for it.
func (f *Flow) nextLocked(now time.Time) (lane int, wait time.Duration) {
	later := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = d
		}
	}
	for _, lane := range f.orderLocked() {
		if len(f.waiting[lane]) == 0 || f.limits.Held[lane] {
			continue
		}
		if d := f.rates[lane].wait(now, 0); d > 0 {
			later(d)
			continue // another lane's turn is not held up by this one's limit
		}
		ahead := 0.0
		if lane == 0 {
			ahead = 1
		}
		if d := f.rate.wait(now, ahead); d > 0 {
			later(d)
			return -1, wait
		}
		if lane > 0 && f.out > 0 && float64(f.out+f.waiting[lane][0].size) > f.limit {
			return -1, wait
		}
		return lane, 0
	}
	return -1, wait
}

func (f *Flow) orderLocked() [FlowLanes]int {
	if third := f.waiting[2]; len(third) > 0 && f.credit >= float64(third[0].size) {
		return [FlowLanes]int{0, 2, 1}
	}
	return [FlowLanes]int{0, 1, 2}
}

// turnLocked counts what a lower lane sends.
func (f *Flow) turnLocked(lane, size int) {
	switch {
	case len(f.waiting[2]) == 0:
		f.credit = 0
	case lane == 1:
		f.credit += float64(size) * f.limits.Share / (1 - min(f.limits.Share, 0.99))
	case f.credit > 0:
		f.credit = max(0, f.credit-float64(size))
	}
}

// leave says that a request has ended.
func (l *FlowLane) leave(t *flowTicket, failed bool) {
	if l == nil || t == nil {
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
	if !t.left && t.lane > 0 {
		f.out -= t.size
	}
	t.left = true
	f.learnLocked(t, failed)
	f.admitLocked()
}

// flowRound is a round of requests: those that were sent since it began.
type flowRound struct {
	began    time.Time
	carried  int // bytes answered since, of those before too
	answers  int
	quickest time.Duration // by how much longer one took than on an idle link
	full     bool          // one used up the limit
}

func (f *Flow) learnLocked(t *flowTicket, failed bool) {
	now := time.Now()
	if now.Sub(f.renewed) > flowRenew {
		f.renewLocked(now)
		return
	}
	if failed || t.sent.Before(f.renewed) {
		return
	}
	took := now.Sub(t.sent)
	anew := f.base == 0
	if anew || took < f.base {
		f.base = took
	}
	if anew {
		f.boundLocked()
	}
	if t.lane == 0 {
		return
	}
	r := &f.round
	r.carried += t.size
	if t.sent.Before(r.began) {
		return
	}
	if r.answers++; r.answers == 1 || took-f.base < r.quickest {
		r.quickest = took - f.base
	}
	r.full = r.full || t.full
	if r.answers >= flowAnswers && now.Sub(r.began) >= f.base+flowDelay {
		f.concludeLocked(now)
	}
}

// concludeLocked ends a round: with it the limit becomes what leaves flowDelay's worth before a request.
func (f *Flow) concludeLocked(now time.Time) {
	r := f.round
	f.round = flowRound{began: now}
	if now.Sub(f.bestAt) > flowBest {
		f.best, f.bestAt = [2]float64{0, f.best[0]}, now
	}
	rate := float64(r.carried) / now.Sub(r.began).Seconds()
	faster := rate > 1.2*f.carries()
	f.best[0] = max(f.best[0], rate)
	more := f.carries() * (flowDelay - r.quickest).Seconds()
	if more < 0 && f.limit <= f.least() && now.Sub(f.renewed) > flowBest {
		f.renewLocked(now) // there is no more on its way than should be: the link is slower now, or the server is
		return
	}
	if faster && r.quickest < flowDelay/2 {
		more = max(more, f.limit/2) // it is not known yet what the link carries
	}
	if more < 0 || r.full {
		f.limit = max(f.limit/2, f.limit+more)
	}
	f.boundLocked()
}

// renewLocked has it found out anew how long a request takes, with what is on its way gone: the way may be another.
func (f *Flow) renewLocked(now time.Time) {
	f.renewed, f.base, f.limit, f.round = now, 0, flowFloor, flowRound{began: now}
}

func (f *Flow) boundLocked() { f.limit = min(max(f.limit, f.least()), flowCeiling) }

// least is what the link carries while a request is on its way and waits for flowDelay. Less would leave it idle and spare nobody
// a wait: a broker that is slow for a moment is no reason for less.
func (f *Flow) least() float64 { return max(flowFloor, f.carries()*(f.base+flowDelay).Seconds()) }

// carries is how many bytes the link carries in a second, as far as that is known.
func (f *Flow) carries() float64 { return max(f.best[0], f.best[1]) }
