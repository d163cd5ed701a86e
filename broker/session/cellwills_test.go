package session

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// noCell is a cell that knows nothing of any vehicle.
type noCell struct{}

func (noCell) Claim(context.Context, string) Claim {
	return Claim{Number: 1, Known: true, Epoch: func() uint64 { return 7 }}
}
func (noCell) Attached(string, uint64) bool   { return true }
func (noCell) Changed(string)                 {}
func (noCell) Stored(_ string, stored func()) { stored() }

// TestEpoch: vehicles' sessions have their connection's epoch, and those of services none.
func TestEpoch(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *Options) { o.Cell = noCell{} })
	v, _ := e.attach("v", vehicle)
	s, _ := e.attach("s")
	if v.s.Epoch() != 7 || s.s.Epoch() != 0 {
		t.Errorf("epochs %d and %d", v.s.Epoch(), s.s.Epoch())
	}
}

// TestRestoredWillWaits: after a kill the will of a vehicle waits for the cell to tell which gateway has the vehicle. A
// vehicle that has moved loses its will, and its session here.
func TestRestoredWillWaits(t *testing.T) {
	t.Parallel()
	for name, several := range map[string]bool{"several": true, "single": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, func(o *Options) {
				if several {
					o.Cell = noCell{}
				}
			})
			e.attach("v", vehicle, func(a *Attach) { a.Will = &Will{Topic: "v1/v/up/bye"} })
			e.checkpoint()
			e.kill()
			if !several {
				if got := e.m.RestoredWills(); len(got) > 0 {
					t.Errorf("without a cell %v wait for it", got)
				}
				return
			}
			if got := e.m.RestoredWills(); !slices.Equal(got, []string{"v"}) {
				t.Fatalf("%v wait", got)
			}
			st := e.m.lookup("v")
			st.mu.Lock()
			wait := time.Duration(st.willAt-e.m.now()) * time.Millisecond
			st.mu.Unlock()
			if wait < willGrace/2 {
				t.Errorf("the will waits for %v", wait)
			}
			e.m.Moved("v", 0)
			if _, known := e.m.Get("v"); known {
				t.Error("its session is still there")
			}
			if n := testutil.ToFloat64(e.o.Metrics.wills.WithLabelValues("cancelled")); n != 1 {
				t.Errorf("%v wills cancelled", n)
			}
			if got := e.journal.topics(1); slices.Contains(got, "v1/v/up/bye") {
				t.Error("the will was sent")
			}
		})
	}
}
