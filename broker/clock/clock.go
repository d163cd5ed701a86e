// Package clock keeps apart the time that a clock shows and the time that has passed.
//
// The machine's wall clock may be wrong and may be set: at boot, by NTP, by hand. What it shows is written
// down, and decides what was agreed upon by calendar time, such as the end of a token. What must not be ended by a
// wrong clock (a session, a command, the memory of a revocation) is measured by the time that has passed: Clock.
package clock

import (
	"sync"
	"time"
)

// Source reads the wall clock and, at the same moment, a clock that cannot be set: the time since some beginning.
type Source func() (wall time.Time, elapsed time.Duration)

// Tolerance is how far the wall clock may be off from what it showed at the last look plus the time that has
// passed since, before that is a step. Clocks are looked at each second: slewing, which is how NTP puts a running clock
// right (0.5 ms a second; chrony at most 83 ms), stays far below it, and a clock that is set by a second is above it.
const Tolerance = 500 * time.Millisecond

// longestStop is how long a gateway may have stood still by the wall clock before that is taken for a wrong clock
// rather than for a stop. It is below the day by which revocations and keys are kept beyond their time.
const longestStop = 12 * time.Hour

// smallStep is how far the wall clock may step without any doubt about what can be deleted by calendar time.
const smallStep = time.Minute

// Saved is what a Clock keeps over a restart. The zero value stands for a first start.
type Saved struct {
	// Wall is what the wall clock showed, in ms since the Unix epoch.
	Wall int64 `json:"wall"`
	// Now and Latest are what the methods of these names gave, in ms.
	Now    int64 `json:"now"`
	Latest int64 `json:"latest"`
	// Ahead is how far the wall clock stepped forward while the gateway ran and has not come back, in ms.
	Ahead int64 `json:"ahead,omitempty"`
	// Doubted is the Now at which the wall clock was last in doubt.
	Doubted int64 `json:"doubted"`
}

// Clock counts the time in which the gateway runs, over restarts, whatever the wall clock does. Its methods are safe
// for concurrent use.
type Clock struct {
	source Source
	begin  time.Duration // elapsed, when start was now

	mu      sync.Mutex
	start   int64 // ms: now at begin
	gap     int64 // ms: Latest less Now
	ahead   int64 // ms; see Saved
	doubted int64
}

// New goes on from what was saved. jump is how far the wall clock has moved meanwhile if that cannot have been a stop
// of the gateway: backward, or forward by more than half a day; else 0.
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

// Now is the time that has passed while the gateway ran, as a time that is easily compared: it began with the
// wall clock's at the first start. Steps of the wall clock do not move it, nor does time in which the gateway stood still:
// of that only the wall clock knows. What must not end too early ends by Now.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.nowLocked())
}

func (c *Clock) nowLocked() int64 {
	_, elapsed := c.source()
	return c.start + (elapsed - c.begin).Milliseconds()
}

// Latest is Now with the time in which the gateway stood still, as far as the wall clock tells. What must not
// be done too late is not done any more by Latest. When the wall clock turns out to have been ahead at a start, it
// goes back. That it was behind nobody can tell from a stop.
func (c *Clock) Latest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.nowLocked() + c.gap)
}

// Wall is what the wall clock shows.
func (c *Clock) Wall() time.Time {
	wall, _ := c.source()
	return wall
}

// Stepped tells the clock that the wall clock has stepped while the gateway ran.
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

// back takes back what the wall clock has been ahead: steps that were seen, then what looked like a stop.
func (c *Clock) back(by int64) {
	seen := min(by, c.ahead)
	c.ahead -= seen
	c.gap -= min(by-seen, c.gap)
}

// Trusted is for how long the gateway has run with a wall clock that nothing cast doubt upon: it has not stepped by a
// minute or more, nor moved between two runs in a way that no stop explains.
func (c *Clock) Trusted() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.nowLocked()-c.doubted) * time.Millisecond
}

// Save is what New goes on from.
func (c *Clock) Save() Saved {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, elapsed := c.source()
	now := c.start + (elapsed - c.begin).Milliseconds()
	return Saved{Wall: wall.UnixMilli(), Now: now, Latest: now + c.gap, Ahead: c.ahead, Doubted: c.doubted}
}
