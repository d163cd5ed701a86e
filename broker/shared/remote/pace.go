package remote

import "time"

// Pace is how often a client retries an unreachable store, and how often it pings when idle.
type Pace struct {
	// BackoffMin and BackoffMax bound the pause between tries: see Backoff.
	BackoffMin, BackoffMax time.Duration
	// PingInterval is how often an idle client pings the store.
	PingInterval time.Duration
}

// NormalPace returns a gateway's pace; tests use a shorter one.
func NormalPace() Pace {
	return Pace{BackoffMin: 100 * time.Millisecond, BackoffMax: 5 * time.Second, PingInterval: 5 * time.Second}
}
