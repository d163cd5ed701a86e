// Package clock separates the time that the wall clock shows from the time that has passed.
//
// The wall clock may be wrong, and boot, NTP or a person may set it. It is written into records and decides what is
// agreed by calendar time, such as the end of a token. What a wrong clock must not end (a session, a command, the
// memory of a revocation) is measured by the time that has passed: Clock.
package clock

import (
	"sync"
	"time"
)

// Source reads the wall clock and, at the same moment, a monotonic clock that cannot be set.
type Source func() (wall time.Time, elapsed time.Duration)

// Tolerance is the difference between the wall clock and its last reading plus the elapsed time from which it counts as
// a step. Clocks are read every second: slewing, with which NTP corrects a running clock (0.5 ms a second; chrony at
// most 83 ms), stays far below it; setting a clock by a second is above it.
const Tolerance = 500 * time.Millisecond

// longestStop is the longest stop of a gateway that is believed; if the wall clock moved further, the clock is
// considered wrong. It is below the day that revocations and keys are kept after their end.
const longestStop = 12 * time.Hour

// smallStep is the largest step that leaves deletion by calendar time safe.
const smallStep = time.Minute

// Saved is the state of a Clock that survives a restart. The zero value is a first start.
type Saved struct {
	// Wall is the wall clock, in ms since the Unix epoch.
	Wall int64 `json:"wall"`
	// Now and Latest are the results of these methods, in ms.
	Now    int64 `json:"now"`
	Latest int64 `json:"latest"`
	// Ahead is the sum of forward steps that were not taken back, in ms.
	Ahead int64 `json:"ahead,omitempty"`
	// Doubted is Now at the last moment that the wall clock was in doubt.
	Doubted int64 `json:"doubted"`
}

// Clock counts the time that the gateway runs, over restarts, whatever the wall clock does. Its methods are safe for
// concurrent use.
type Clock struct {
	source Source
	begin  time.Duration // elapsed, when start was now

	mu      sync.Mutex
	start   int64 // ms: now at begin
	gap     int64 // ms: Latest less Now
	ahead   int64 // ms; see Saved
	doubted int64
}

// New continues from saved. jump is the movement of the wall clock since then if a stop of the gateway cannot explain
// it (backward, or forward by more than longestStop), else 0.
func New(source Source, saved Saved) (c *Clock, jump time.Duration) {
	wall, elapsed := source()
	now := wall.UnixMilli()
	c = &Clock{source: source, begin: elapsed, start: now, doubted: now}
	if saved == (Saved{}) {
		return c, 0
	}
	c.start, c.gap, c.ahead, c.doubted = saved.Now, saved.Latest-saved.Now, saved.Ahead, saved.Doubted
	away := time.Duration(now-saved.Wall) * time.Millisecond
	if away > 0 {
		c.gap += away.Milliseconds()
	} else {
		c.back(-away.Milliseconds())
	}
	if away > longestStop || away <= -Tolerance {
		c.doubted = c.start
		return c, away
	}
	return c, 0
}

// Now is the time that the gateway has run, as a time for comparison: it started at the wall clock of the first start.
// Neither steps of the wall clock nor stops of the gateway move it. Use it for what must not end too early.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.nowLocked())
}

func (c *Clock) nowLocked() int64 {
	_, elapsed := c.source()
	return c.start + (elapsed - c.begin).Milliseconds()
}

// Latest is Now plus the time that the gateway stood still according to the wall clock. Use it for what must not be
// done too late. It goes back when the wall clock turns out to have been ahead at a start; a clock that was slow then
// goes unnoticed.
func (c *Clock) Latest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.nowLocked() + c.gap)
}

// Wall reads the wall clock.
func (c *Clock) Wall() time.Time {
	wall, _ := c.source()
	return wall
}

// Stepped records a step of the wall clock while the gateway ran.
func (c *Clock) Stepped(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if by > 0 {
		c.ahead += by.Milliseconds()
	} else {
		c.back(-by.Milliseconds())
	}
	if by.Abs() >= smallStep {
		c.doubted = c.nowLocked()
	}
}

// back reduces what the wall clock has been ahead: first by steps that were seen, then by what looked like a stop.
func (c *Clock) back(by int64) {
	seen := min(by, c.ahead)
	c.ahead -= seen
	c.gap -= min(by-seen, c.gap)
}

// Trusted is how long the gateway has run without doubt about the wall clock: no step of a minute or more, and no
// movement between two runs that a stop does not explain.
func (c *Clock) Trusted() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.nowLocked()-c.doubted) * time.Millisecond
}

// Save returns the state for New.
func (c *Clock) Save() Saved {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, elapsed := c.source()
	now := c.start + (elapsed - c.begin).Milliseconds()
	return Saved{Wall: wall.UnixMilli(), Now: now, Latest: now + c.gap, Ahead: c.ahead, Doubted: c.doubted}
}
