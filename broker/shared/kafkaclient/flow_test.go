package kafkaclient

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/test/check"
)

// link simulates a slow line: it carries requests one after the other at a rate and answers each half a round trip
// later.
type link struct {
	rate float64 // bytes per second
	trip time.Duration
	// late is the longest additional delay of the server.
	late time.Duration
	busy bool // almost all requests are delayed
	mu   sync.Mutex
	n    int
	free time.Time // when everything given to it is carried
}

func (l *link) carry(size int) {
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(size) / l.rate * float64(time.Second)))
	arrival := l.free.Add(l.trip)
	l.n++
	switch {
	case l.busy && l.n%50 != 0: // a few requests are fast
		arrival = arrival.Add(l.late)
	case l.late > 0:
		arrival = arrival.Add(l.late * time.Duration(l.n%4) / 3)
	}
	l.mu.Unlock()
	time.Sleep(time.Until(arrival))
}

// after returns the bytes that the link has not carried yet.
func (l *link) after() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(max(0, time.Until(l.free).Seconds()*l.rate))
}

// flood has partitions of the lane send continuously, in the largest batches that the flow allows. It returns a counter
// of the bytes sent.
func flood(ctx context.Context, l *link, f *Flow, lane, partitions int) func() int {
	var mu sync.Mutex
	sent := 0
	for range partitions {
		go func() {
			fl := f.Lane(lane)
			for ctx.Err() == nil {
				n := fl.batchBytes(900 << 10)
				t, err := fl.enter(ctx, n, n)
				if err != nil {
					return
				}
				l.carry(n)
				fl.leave(t, false)
				mu.Lock()
				sent += n
				mu.Unlock()
			}
		}()
	}
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return sent
	}
}

// flowing runs fn in a bubble. end cancels its context and waits until all goroutines have noticed.
func flowing(t *testing.T, fn func(t *testing.T, ctx context.Context, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		fn(t, ctx, func() {
			cancel()
			time.Sleep(time.Minute)
		})
	})
}

// At any link speed and occasional server delay, the first lane finds at most flowDelay's worth and a batch before it,
// except while the flow measures the idle link; and the other lanes use the link.
func TestFlowBoundsLowerLanes(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*link{
		"1 MiB/s near":                  {rate: 1 << 20, trip: time.Millisecond},
		"10 MB/s, 50 ms":                {rate: 10e6, trip: 50 * time.Millisecond},
		"2 MB/s, 50 ms":                 {rate: 2e6, trip: 50 * time.Millisecond},
		"100 MB/s near":                 {rate: 100e6, trip: time.Millisecond},
		"2 MB/s, 200 ms":                {rate: 2e6, trip: 200 * time.Millisecond},
		"200 KiB/s, 5 ms":               {rate: 200 << 10, trip: 5 * time.Millisecond},
		"10 MB/s, 50 ms, a slow server": {rate: 10e6, trip: 50 * time.Millisecond, late: 120 * time.Millisecond},
		"2 MB/s, 50 ms, a slow server":  {rate: 2e6, trip: 50 * time.Millisecond, late: 120 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			flowing(t, func(t *testing.T, ctx context.Context, end func()) {
				f := NewFlow(FlowLimits{Share: 1.0 / 9})
				sent := flood(ctx, l, f, 1, 12)
				time.Sleep(5 * time.Second)
				was, began := sent(), time.Now()
				var waits []time.Duration
				for range 2000 {
					time.Sleep(50 * time.Millisecond)
					waits = append(waits, time.Duration(float64(l.after())/l.rate*float64(time.Second)))
				}
				slices.Sort(waits)
				used := float64(sent()-was) / time.Since(began).Seconds() / l.rate
				usual, worst := waits[len(waits)*99/100], waits[len(waits)-1]
				t.Logf("the first lane waits for %s, %s, %s; %.0f %% of the link used", waits[len(waits)/2], usual, worst, 100*used)
				floor := time.Duration(flowFloor / l.rate * float64(time.Second))
				if usual > 150*time.Millisecond+floor || worst > 300*time.Millisecond+floor || used < 0.9 {
					t.Errorf("the first lane waits for %s, %s at worst; %.0f %% of the link used", usual, worst, 100*used)
				}
				end()
			})
		})
	}
}

// A server that delays almost all requests, as on a busy machine or just after its start, is not taken for a narrower
// link: the lower lanes continue.
func TestFlowDoesNotStarveAtABusyServer(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 10e6, trip: 2 * time.Millisecond}, NewFlow(FlowLimits{Share: 1.0 / 9})
		sent := flood(ctx, l, f, 1, 12)
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		l.late, l.busy = 500*time.Millisecond, true
		l.mu.Unlock()
		time.Sleep(10 * time.Second)
		was := sent()
		time.Sleep(time.Minute)
		if rate := (sent() - was) / 60; rate < 1e6 {
			t.Errorf("%d KB/s", rate/1000)
		} else {
			t.Logf("%d KB/s", rate/1000)
		}
		end()
	})
}

// TestFlowAdaptsToTheLink: the flow adapts to a link that becomes narrower, and to a server that is slow in general.
func TestFlowAdaptsToTheLink(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 10e6, trip: 500 * time.Millisecond}, NewFlow(FlowLimits{Share: 1.0 / 9})
		sent := flood(ctx, l, f, 1, 12)
		time.Sleep(15 * time.Second)
		was := sent()
		time.Sleep(10 * time.Second)
		if used := float64(sent()-was) / 10 / l.rate; used < 0.5 {
			t.Errorf("%.0f %% of the link used", 100*used)
		}
		l.mu.Lock()
		l.trip = 50 * time.Millisecond
		l.mu.Unlock()
		time.Sleep(time.Minute)
		l.mu.Lock()
		l.rate = 2e6
		l.mu.Unlock()
		time.Sleep(15 * time.Second)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if n := float64(l.after()); n > l.rate*0.35 {
				t.Errorf("%.0f ms before the first lane", 1000*n/l.rate)
				break
			}
		}
		end()
	})
}

// The third lane gets its share while the second always has something, and both go after the first.
func TestFlowTurns(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 1 << 20, trip: time.Millisecond}, NewFlow(FlowLimits{Share: 1.0 / 9})
		second, third := flood(ctx, l, f, 1, 12), flood(ctx, l, f, 2, 12)
		time.Sleep(time.Minute)
		if ratio := float64(second()) / float64(third()); ratio < 6 || ratio > 12 {
			t.Errorf("the second lane sent %.1f times what the third did", ratio)
		}
		end()
	})
}

// The lanes keep to the common limit and to their own; others use what a lane leaves.
func TestFlowKeepsToItsLimits(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 100e6, trip: 20 * time.Millisecond}, NewFlow(FlowLimits{Rate: 3e6, Rates: [FlowLanes]int64{0, 1e6, 0}, Share: 0.1})
		_, second, third := flood(ctx, l, f, 0, 0), flood(ctx, l, f, 1, 6), flood(ctx, l, f, 2, 6)
		near := func(what string, have int, want float64) {
			if float64(have) < 0.95*want || float64(have) > 1.05*want {
				t.Errorf("%s: %d bytes, want %.0f", what, have, want)
			}
		}
		time.Sleep(time.Minute)
		near("second", second(), 60e6)
		near("third", third(), 120e6)
		f.SetLimits(FlowLimits{Rate: 1e6, Share: 0.1})
		was, other := second(), third()
		time.Sleep(time.Minute)
		near("both, at another rate", second()-was+third()-other, 60e6)
		near("the third's share", third()-other, 6e6)
		end()
	})
}

// The first lane is sent at once although the lower ones have used up the limit; they then wait for what it took. In
// the long run it gets no more than the limit.
func TestFlowLimitsTheFirstLaneLast(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 100e6, trip: time.Millisecond}, NewFlow(FlowLimits{Rate: 1e6})
		second := flood(ctx, l, f, 1, 6)
		time.Sleep(10 * time.Second)
		first := f.Lane(0)
		for range 20 {
			began := time.Now()
			ticket, err := first.enter(ctx, 10_000, 10_000)
			check.OK(t, err)
			if waited := time.Since(began); waited > 0 {
				t.Errorf("the first lane waited %s", waited)
			}
			first.leave(ticket, false)
			time.Sleep(100 * time.Millisecond)
		}
		was := second()
		all := flood(ctx, l, f, 0, 3)
		time.Sleep(time.Minute)
		if n := all(); float64(n) > 62e6 || second()-was > 3e6 {
			t.Errorf("the first lane sent %d bytes at 1 MB/s in a minute, the second %d beside it", n, second()-was)
		}
		end()
	})
}

// A broker that does not answer occupies room for at most flowLost.
func TestFlowDoesNotWaitForADeadBroker(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 10 << 20, trip: time.Millisecond}, NewFlow(FlowLimits{Share: 1.0 / 9})
		dead := f.Lane(1)
		var tickets []*flowTicket
		for range 3 {
			n := dead.batchBytes(900 << 10)
			ticket, err := dead.enter(ctx, n, n)
			check.OK(t, err)
			tickets = append(tickets, ticket)
		}
		sent := flood(ctx, l, f, 1, 3)
		time.Sleep(10 * time.Second)
		for _, ticket := range tickets {
			dead.leave(ticket, true)
		}
		if sent() < 50<<20 {
			t.Errorf("%d bytes sent in 10 s beside a broker that does not answer", sent())
		}
		end()
		if _, used := f.Limit(); used != 0 {
			t.Errorf("%d bytes are said to be on their way", used)
		}
	})
}

// A waiter that gives up occupies no place.
func TestFlowGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	f := NewFlow(FlowLimits{Share: 1.0 / 9})
	l := f.Lane(1)
	first, err := l.enter(t.Context(), flowFloor, flowFloor)
	check.OK(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.enter(ctx, flowFloor, flowFloor); err == nil {
		t.Error("sent beyond the limit")
	}
	l.leave(first, false)
	if _, used := f.Limit(); used != 0 || len(f.waiting[1]) != 0 {
		t.Errorf("%d bytes on their way, %d requests wait", used, len(f.waiting[1]))
	}
}
