package app

import (
	"strings"
	"testing"
	"time"
)

// TestALateLoopIsReported: /readyz names a loop that lags for too long, and by how much.
func TestALateLoopIsReported(t *testing.T) {
	t.Parallel()
	lag := func(age time.Duration) func() (uint64, time.Duration) {
		return func() (uint64, time.Duration) { return 7, age }
	}
	if all := late(nil, "fan-out", "their subscribers", lag(loopLate-time.Millisecond)); len(all) != 0 {
		t.Errorf("reported too early: %+v", all)
	}
	all := late(nil, "fan-out", "their subscribers", lag(90*time.Second))
	if len(all) != 1 || all[0].Name != "fan-out" || !strings.Contains(all[0].Reason, "7 messages wait for their subscribers, the oldest for 1m30s") ||
		time.Since(all[0].Since) < 90*time.Second {
		t.Errorf("%+v", all)
	}
}
