package command

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A command that was to be sent at once can be cancelled when the vehicle has left before it was.
func TestCancelOfWhatDidNotLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &leaving{engine: newEngine(5)}
		s := start(t, Options{Deliverer: e})
		create(t, s, Request{ID: "c1"})
		synctest.Wait()
		if cmd, err := s.Cancel(t.Context(), vin, "c1"); err != nil || cmd.State != Cancelled {
			t.Errorf("Cancel: %s, %v", cmd.State, err)
		}
		stop(t, s)
	})
}

// leaving is an engine whose vehicle is there when a command comes, and gone when it is to be sent.
type leaving struct {
	*engine
	asked atomic.Bool
}

func (e *leaving) Ready(vin string) (byte, bool) {
	if e.asked.Swap(true) {
		return 0, false
	}
	return e.engine.Ready(vin)
}
