package journal

import (
	"reflect"
	"time"
)

const (
	// arrivalPace is the least time between the starts of two commits while others keep publishing.
	arrivalPace = time.Millisecond
	// arrivalsSeen is the number of calls whose release is remembered. With as many waiters in a commit, the pause
	// between two commits is longer than arrivalPace anyway.
	arrivalsSeen = 64
	// arrivalsBack is how many of them may have returned at once: a vehicle may publish twice.
	arrivalsBack = arrivalsSeen / 8
	// soonCommits and soonTime bound how soon a caller that waits for its acknowledgement returns.
	soonCommits, soonTime = 2, 2 * arrivalPace
)

// arrivals predicts whether a commit should wait for other connections. That pays while many connections publish now and
// then, at least one of them per arrivalPace. A connection that waits for its acknowledgement before it publishes again
// returns soon after its release; while there is one, commits do not wait.
type arrivals struct {
	seen    [arrivalsSeen]caller
	calls   int // number of calls noted; seen has the last ones
	fresh   int // number of fresh callers in seen
	commits int
}

// caller is one waiting call that was committed.
type caller struct {
	waiter Waiter
	commit int
	ended  time.Time
	fresh  bool // it had not been released just before
}

// note records the waiters of a commit that ended at now.
func (c *arrivals) note(waiters []Waiter, now time.Time) {
	c.commits++
	if len(waiters) >= arrivalsSeen {
		*c = arrivals{commits: c.commits}
		return
	}
	for _, w := range waiters {
		fresh := c.isFresh(w, now)
		e := &c.seen[c.calls%arrivalsSeen]
		if e.fresh {
			c.fresh--
		}
		if fresh {
			c.fresh++
		}
		*e = caller{waiter: w, commit: c.commits, ended: now, fresh: fresh}
		c.calls++
	}
}

func (c *arrivals) isFresh(w Waiter, now time.Time) bool {
	if !reflect.TypeOf(w).Comparable() {
		return false
	}
	for i := range c.seen {
		e := &c.seen[i]
		if e.waiter == w && e.commit != c.commits && (c.commits-e.commit <= soonCommits || now.Sub(e.ended) < soonTime) {
			return false
		}
	}
	return true
}

// every reports whether, judging by the last calls, a fresh caller comes at least every d.
func (c *arrivals) every(d time.Duration, now time.Time) bool {
	if c.fresh < arrivalsSeen-arrivalsBack {
		return false
	}
	oldest := &c.seen[c.calls%arrivalsSeen] // the zero time until arrivalsSeen calls were noted
	return now.Sub(oldest.ended) <= time.Duration(c.fresh)*d
}
