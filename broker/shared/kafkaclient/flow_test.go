package kafkaclient

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cellgate/test/check"
)

// link carries requests one after the other at a rate, each answered half a round trip later, as a slow line does.
type link struct {
	rate float64 // bytes per second
	trip time.Duration
	mu   sync.Mutex
	free time.Time // when it has carried all that it was given
}

func (l *link) carry(size int) {
	l.mu.Lock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(size) / l.rate * float64(time.Second)))
	arrival := l.free.Add(l.trip)
	l.mu.Unlock()
	time.Sleep(time.Until(arrival))
}

// after is how many bytes the link has yet to carry.
func (l *link) after() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(max(0, time.Until(l.free).Seconds()*l.rate))
}

// flood has partitions of the lane send all the time, in batches as large as the flow lets them be, and returns
// what they have sent in all.
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

// flowing runs fn where time passes as soon as all wait. end ends its context and waits until all have noticed.
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

// Whatever a link carries, the first lane never finds more before it than that carries in a few times flowDelay, and
// the others still use the link.
func TestFlowBoundsWhatIsBeforeTheFirstLane(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*link{
		"1 MiB/s near":    {rate: 1 << 20, trip: time.Millisecond},
		"10 MB/s, 50 ms":  {rate: 10e6, trip: 50 * time.Millisecond},
		"100 MB/s near":   {rate: 100e6, trip: time.Millisecond},
		"2 MB/s, 200 ms":  {rate: 2e6, trip: 200 * time.Millisecond},
		"200 KiB/s, 5 ms": {rate: 200 << 10, trip: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			flowing(t, func(t *testing.T, ctx context.Context, end func()) {
				f := NewFlow()
				sent := flood(ctx, l, f, 1, 12)
				time.Sleep(5 * time.Second)
				was, began := sent(), time.Now()
				worst := 0
				for range 100 {
					time.Sleep(time.Second)
					worst = max(worst, l.after())
				}
				used := float64(sent()-was) / time.Since(began).Seconds() / l.rate
				if most := max(l.rate/3, 4*flowFloor); float64(worst) > most || used < 0.7 {
					t.Errorf("%d bytes before the first lane, want at most %.0f; %.0f %% of the link used", worst, most, 100*used)
				}
				end()
			})
		})
	}
}

// The third lane has its turn while the second has always something, and both go after the first.
func TestFlowTurns(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 1 << 20, trip: time.Millisecond}, NewFlow()
		second, third := flood(ctx, l, f, 1, 6), flood(ctx, l, f, 2, 6)
		time.Sleep(time.Minute)
		if ratio := float64(second()) / float64(third()); ratio < 6 || ratio > 12 {
			t.Errorf("the second lane sent %.1f times what the third did", ratio)
		}
		end()
	})
}

// A broker that does not answer holds no room that others need for longer than flowLost.
func TestFlowDoesNotWaitForADeadBroker(t *testing.T) {
	t.Parallel()
	flowing(t, func(t *testing.T, ctx context.Context, end func()) {
		l, f := &link{rate: 10 << 20, trip: time.Millisecond}, NewFlow()
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

// Who gives up waiting leaves no place taken.
func TestFlowGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	f := NewFlow()
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
