package clock

import "time"

// Step is a step of the wall clock, in ms since the Unix epoch: the expected reading and the actual one.
type Step struct{ From, To int64 }

// By is the size of the step, negative for backward.
func (s Step) By() time.Duration { return time.Duration(s.To-s.From) * time.Millisecond }

// Watch detects steps of a wall clock by comparing it with the monotonic clock. It must look often, because slewing
// between two looks adds up. It is not safe for concurrent use.
type Watch struct {
	source  Source
	wall    int64
	elapsed time.Duration
}

// NewWatch starts watching now.
func NewWatch(source Source) Watch {
	w := Watch{source: source}
	wall, elapsed := source()
	w.wall, w.elapsed = wall.UnixMilli(), elapsed
	return w
}

// Look returns the wall clock, in ms, and whether it has stepped since the last look. It reads twice before it reports
// a step: the goroutine may be suspended between reading the two clocks.
func (w *Watch) Look() (now int64, step Step, stepped bool) {
	for try := 0; ; try++ {
		wall, elapsed := w.source()
		now = wall.UnixMilli()
		step = Step{From: w.wall + (elapsed - w.elapsed).Milliseconds(), To: now}
		stepped = step.By().Abs() >= Tolerance
		if !stepped || try > 0 {
			w.wall, w.elapsed = now, elapsed
			return now, step, stepped
		}
	}
}
