package journal

import (
	"reflect"
	"time"
)

const (
	// companyPace is the least time between the starts of two commits while company is coming.
	companyPace = time.Millisecond
	// companySeen is of how many calls it is known when they were let go. With as many waiters in a commit the pause
	// between two of them is longer than companyPace anyway.
	companySeen = 64
	// companyBack is how many of them may have come back at once: a vehicle may publish twice.
	companyBack = companySeen / 8
	// soonCommits and soonTime are what a caller that waits for its acknowledgement takes at most to come back.
	soonCommits, soonTime = 2, 2 * companyPace
)

// company tells whether others are about to come, so that it pays to wait for them with a commit: connections of which
// each publishes now and then, at least one of them each companyPace. One that waits for its acknowledgement before it
// publishes again is back soon after it was let go: while there is one, nobody is waited for.
type company struct {
	seen    [companySeen]caller
	calls   int // noted; seen holds the last ones
	fresh   int // in seen
	commits int
}

// caller is one waiting call that was committed.
type caller struct {
	waiter Waiter
	commit int
	ended  time.Time
	fresh  bool // it had not been let go just before
}

// note takes the waiters of a commit that has ended at now.
func (c *company) note(waiters []Waiter, now time.Time) {
	c.commits++
	if len(waiters) >= companySeen {
		c.forget()
		return
	}
	for _, w := range waiters {
		fresh := c.isFresh(w, now)
		e := &c.seen[c.calls%companySeen]
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

func (c *company) isFresh(w Waiter, now time.Time) bool {
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

// every reports whether somebody comes each d, as far as the last calls tell.
func (c *company) every(d time.Duration, now time.Time) bool {
	if c.fresh < companySeen-companyBack {
		return false
	}
	oldest := &c.seen[c.calls%companySeen] // the zero time until as many have called
	return now.Sub(oldest.ended) <= time.Duration(c.fresh)*d
}

// forget lets go of the callers.
func (c *company) forget() { *c = company{commits: c.commits} }
