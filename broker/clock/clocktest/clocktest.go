// Package clocktest provides a clock that tests set.
package clocktest

import (
	"sync"
	"time"

	"cellgate/broker/clock"
)

// Clock is a machine's clock that a test controls. Make one with Still or Running.
type Clock struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
	begin   time.Time // not zero: real time runs on top
}

// Still makes a clock that moves only when told to.
func Still(wall time.Time) *Clock { return &Clock{wall: wall} }

// Running makes a clock that runs like the machine's and can be set.
func Running() *Clock {
	now := time.Now()
	return &Clock{wall: now.Round(0), begin: now}
}

// Source returns the clock as the gateway reads it.
func (c *Clock) Source() clock.Source { return c.read }

func (c *Clock) read() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ran time.Duration
	if !c.begin.IsZero() {
		ran = time.Since(c.begin)
	}
	return c.wall.Add(ran), c.elapsed + ran
}

// Step moves the wall clock by d, backward if d is negative. No time passes.
func (c *Clock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = c.wall.Add(d)
}

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.elapsed = c.wall.Add(d), c.elapsed+d
}

// Wall reads the wall clock.
func (c *Clock) Wall() time.Time {
	wall, _ := c.read()
	return wall
}
