package clock

import "time"

// Step is a step of the wall clock, in ms since the Unix epoch: what it would have shown, and what it showed.
type Step struct{ From, To int64 }

// By is how far the clock has stepped; below 0 back.
func (s Step) By() time.Duration { return time.Duration(s.To-s.From) * time.Millisecond }

// Watch notices the steps of a wall clock. Between two looks it follows the clock that cannot be set, so it must look
// often: what is slewed between two looks adds up. Its owner guards it.
type Watch struct {
	source  Source
	wall    int64
	elapsed time.Duration
}

// NewWatch begins to watch now.
func NewWatch(source Source) Watch {
	w := Watch{source: source}
	wall, elapsed := source()
	w.wall, w.elapsed = wall.UnixMilli(), elapsed
	return w
}

// Look returns what the wall clock shows, in ms, and whether it has stepped since the last look. A step is
// believed at the second reading: a goroutine may be stopped between the readings of the two clocks.
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
