package remote

import "time"

// Pace is how a client goes on while its store does not answer, and how often it looks when it has nothing to do.
type Pace struct {
	// BackoffMin and BackoffMax bound the pause between tries: see Backoff.
	BackoffMin, BackoffMax time.Duration
	// PingInterval is how often an idle client looks whether the store is there.
	PingInterval time.Duration
}

// NormalPace is a gateway's; tests are in a hurry.
func NormalPace() Pace {
	return Pace{BackoffMin: 100 * time.Millisecond, BackoffMax: 5 * time.Second, PingInterval: 5 * time.Second}
}
