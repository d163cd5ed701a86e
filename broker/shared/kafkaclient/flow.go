package kafkaclient

import (
	"context"
	"sync"
	"time"
)

// Bounds of a Flow.
const (
	// flowFloor is the amount that may always be in flight, in bytes on the wire, in four batches.
	flowFloor = 16 << 10
	// flowCeiling is where more would not make a link faster: 10 Gbit/s times 50 ms.
	flowCeiling = 64 << 20
	// flowDelay is how much longer than on an idle link a request may take because of lower lanes' bytes in flight
	// before it.
	flowDelay = 50 * time.Millisecond
	// flowAnswers is the minimum number of responses to requests sent in a round: a broker that is slow with some
	// requests is not slow with all.
	flowAnswers = 8
	// flowRenew is how long the measured request time of an idle link is valid.
	flowRenew = 30 * time.Second
	// flowBest is how long a measured throughput is remembered.
	flowBest = 3 * time.Second
	// flowBatch bounds an uncompressed batch that may exceed its bound on the wire before compression.
	flowBatch = 2 << 20
	// flowBatches is how many batches use up the limit. With fewer the first lane waits longer for one, and a round
	// measures less; with many more than MaxInFlight a lane with a single partition gets less than its share.
	flowBatches = 8
	// FlowLanes is the number of lanes of a Flow.
	FlowLanes = 3
	// flowLost is how long an unanswered request occupies room: its broker may be dead.
	flowLost = time.Second
)

// Flow shares the link to one cluster between producers by priority. Requests of the first lane are sent at once.
// Requests of the other lanes wait so that together they have no more bytes in flight than the link carries in
// flowDelay: at any speed, a request of the first lane finds no longer queue. As in TCP Vegas, the limit follows from
// how much longer requests take than on an idle link. As in CoDel, the fastest request of a round counts: a queue on
// the link delays all of them, a slow broker only some.
type Flow struct {
	mu      sync.Mutex
	limit   float64       // bytes that the lower lanes may have in flight
	base    time.Duration // request time on an idle link; 0 while unknown
	renewed time.Time     // when the measurement of base last began
	round   flowRound
	out     int     // bytes of the lower lanes in flight
	ratio   float64 // uncompressed bytes per byte on the wire
	waiting [FlowLanes][]*flowTicket
	credit  float64 // bytes that the third lane may send before the second, which has sent its share
	// best is the highest throughput per second in the current span of flowBest, which began at bestAt, and in the
	// previous one.
	best   [2]float64
	bestAt time.Time
	limits FlowLimits
	rate   bucket // of all lanes
	rates  [FlowLanes]bucket
	sent   [FlowLanes]uint64 // bytes
	later  *time.Timer       // calls admit when there are tokens again; nil when nothing waits for them
}

// FlowLimits limit the use of the link, in bytes on the wire: compressed batches with their requests.
type FlowLimits struct {
	// Rate limits all lanes together, Rates each, in bytes per second; 0 means no limit.
	Rate  int64
	Rates [FlowLanes]int64
	// Held lanes send nothing.
	Held [FlowLanes]bool
	// Share is the third lane's share of what the lower two send while both have something, 0 to 1.
	Share float64
}

// flowTicket is a request that waits or is in flight.
type flowTicket struct {
	lane, size int
	sent       time.Time
	full       bool // it used up the limit
	admitted   chan struct{}
	lost       *time.Timer // releases its room, if it is of a lower lane
	left       bool        // its room is released
}

// NewFlow returns the flow of a link of unknown speed.
func NewFlow(limits FlowLimits) *Flow {
	f := &Flow{limit: flowFloor, ratio: 1}
	f.SetLimits(limits)
	return f
}

// SetLimits changes the limits, also for requests that already wait.
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

// Limits returns the current limits.
func (f *Flow) Limits() FlowLimits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits
}

// Sent returns the bytes that each lane has sent in requests, resends included.
func (f *Flow) Sent() [FlowLanes]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// Lane returns the lane of priority n, from 0, for ProducerOptions.Flow.
func (f *Flow) Lane(n int) *FlowLane { return &FlowLane{f, n} }

// FlowLane is one priority of a Flow. A nil FlowLane never waits.
type FlowLane struct {
	flow *Flow
	lane int
}

// Limit returns how many bytes the lower lanes may have in flight now, and how many they have.
func (f *Flow) Limit() (limit, used int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.limit), f.out
}

// batchBytes returns the uncompressed size of a batch that is no larger than most on the wire, by the current
// compression ratio. It is a part of the limit, so that the first lane need not wait for a single large batch.
func (l *FlowLane) batchBytes(most int) int {
	if l == nil || l.lane == 0 {
		return most
	}
	l.flow.mu.Lock()
	defer l.flow.mu.Unlock()
	raw := max(most, min(int(float64(most)*l.flow.ratio), flowBatch))
	return min(raw, max(flowFloor/4, int(l.flow.limit/flowBatches*l.flow.ratio)))
}

// enter waits until a request of size bytes, with raw bytes of uncompressed records, may be sent. The caller must pass
// the ticket to leave when the request has ended.
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
	return t, nil // admitted meanwhile
}

// admitLocked admits the requests whose turn it is.
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

// lookAgainLocked schedules admitLocked after wait, unless it runs earlier anyway; 0 means when a request ends.
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

// nextLocked returns the lane whose turn it is. It is negative if there is none; if tokens are missing, wait says for
// how long. The first lane may overdraw a second's tokens; the lower ones pay for that.
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
			continue // this lane's own limit does not hold up the others
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

// turnLocked accounts for a lower lane's bytes.
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

// leave reports that a request has ended.
func (l *FlowLane) leave(t *flowTicket, failed bool) {
	if l == nil || t == nil {
		return
	}
	if t.lost != nil {
		t.lost.Stop()
	}
	l.flow.leave(t, failed)
}

// leave removes the request from those in flight and learns from its duration.
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

// flowRound measures the requests sent since it began.
type flowRound struct {
	began    time.Time
	carried  int // bytes answered since, also of earlier requests
	answers  int
	quickest time.Duration // least excess over the request time on an idle link
	full     bool          // a request used up the limit
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
	first := f.base == 0
	if first || took < f.base {
		f.base = took
	}
	if first {
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
		f.endRoundLocked(now)
	}
}

// endRoundLocked ends a round and sets the limit so that flowDelay's worth is in flight.
func (f *Flow) endRoundLocked(now time.Time) {
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
		f.renewLocked(now) // no more is in flight than allowed: the link or the server is slower now
		return
	}
	if faster && r.quickest < flowDelay/2 {
		more = max(more, f.limit/2) // the link's throughput is not known yet
	}
	if more < 0 || r.full {
		f.limit = max(f.limit/2, f.limit+more)
	}
	f.boundLocked()
}

// renewLocked restarts the measurement of the idle request time: the path may have changed.
func (f *Flow) renewLocked(now time.Time) {
	f.renewed, f.base, f.limit, f.round = now, 0, flowFloor, flowRound{began: now}
}

func (f *Flow) boundLocked() { f.limit = min(max(f.limit, f.least()), flowCeiling) }

// least returns what the link carries during a request and flowDelay. Less would leave it idle without shortening any
// wait: a briefly slow broker is no reason for less.
func (f *Flow) least() float64 { return max(flowFloor, f.carries()*(f.base+flowDelay).Seconds()) }

// carries returns the link's known throughput in bytes per second.
func (f *Flow) carries() float64 { return max(f.best[0], f.best[1]) }
