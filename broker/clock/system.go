package clock

import "time"

// System reads the machine's clocks.
func System() Source {
	begin := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now, now.Sub(begin)
	}
}
