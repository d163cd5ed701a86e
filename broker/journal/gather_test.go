package journal

import (
	"testing"
	"time"
)

const gatherInterval = 4 * time.Millisecond

// commits drives g through n commits. arrived returns the calls that have come in the time since the last commit. It
// returns the mean time between two commits when a sync takes a millisecond.
func commits(g *gathering, n int, waitersOf func(calls int) int, arrived func(time.Duration) int) time.Duration {
	var total time.Duration
	for range n {
		since := time.Millisecond
		for {
			calls := arrived(since)
			wait := g.more(calls, waitersOf(calls), since, gatherInterval)
			if wait <= 0 {
				break
			}
			since += wait
		}
		g.end()
		total += since
	}
	return total / time.Duration(n)
}

func each(calls int) int { return calls }

func TestGatherWhileConnectionsKeepComing(t *testing.T) {
	t.Parallel()
	open := func(since time.Duration) int { return int(since / (100 * time.Microsecond)) }
	if mean := commits(&gathering{}, 100, each, open); mean != gatherInterval {
		t.Fatalf("a commit each %v while 10 connections come each millisecond, want %v", mean, gatherInterval)
	}
}

func TestGatherNotForThoseThatWait(t *testing.T) {
	t.Parallel()
	lockstep := func(time.Duration) int { return 40 }
	if mean := commits(&gathering{}, 1000, each, lockstep); mean > 1100*time.Microsecond {
		t.Fatalf("a commit each %v for 40 connections in lockstep, of which the sync takes 1 ms", mean)
	}
	few := func(time.Duration) int { return crowd - 1 }
	if mean := commits(&gathering{}, 100, each, few); mean != time.Millisecond {
		t.Fatalf("a commit each %v for %d connections", mean, crowd-1)
	}
	slow := func(since time.Duration) int { return 3 + int(since/(500*time.Microsecond)) }
	if mean := commits(&gathering{}, 1000, each, slow); mean > 1100*time.Microsecond {
		t.Fatalf("a commit each %v while 2 connections come each millisecond", mean)
	}
	open := func(since time.Duration) int { return int(since / time.Microsecond) }
	if mean := commits(&gathering{}, 100, func(int) int { return 0 }, open); mean != time.Millisecond {
		t.Fatalf("a commit each %v for calls without a waiter", mean)
	}
}

func TestGatherAgainWhenTheyComeAgain(t *testing.T) {
	t.Parallel()
	var g gathering
	commits(&g, 1000, each, func(time.Duration) int { return 40 })
	open := func(since time.Duration) int { return int(since / (100 * time.Microsecond)) }
	commits(&g, maxMisses+2, each, open)
	if mean := commits(&g, 100, each, open); mean != gatherInterval {
		t.Fatalf("a commit each %v, want %v", mean, gatherInterval)
	}
}
