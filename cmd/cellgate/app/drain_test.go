package app

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestDrainStopped: after a drain was stopped only its start time and the number of vehicles remain.
func TestDrainStopped(t *testing.T) {
	t.Parallel()
	d := &drainer{}
	d.begin(5, "gw-2:8883", func(ctx context.Context) { <-ctx.Done() })
	if got := d.state(3); !got.Draining || got.Rate != 5 || got.Endpoint != "gw-2:8883" || got.Since.IsZero() || got.Connected != 3 {
		t.Errorf("during the drain: %+v", got)
	}
	if reason, endpoint := d.disconnectReason(); reason != reasonUseAnother || endpoint != "gw-2:8883" {
		t.Errorf("a stop during the drain tells 0x%02x and %q", reason, endpoint)
	}
	d.count()
	d.passed(1)
	if d.state(3).Empty {
		t.Error("empty while a vehicle is connected")
	}
	if d.passed(0); !d.state(2).Empty {
		t.Error("not empty after a pass that found no vehicle")
	}
	d.end()
	if reason, endpoint := d.disconnectReason(); reason != 0 || endpoint != "" {
		t.Errorf("a stop after the drain tells 0x%02x and %q", reason, endpoint)
	}
	if got := d.state(2); got.Draining || got.Rate != 0 || got.Endpoint != "" || got.Since.IsZero() || got.SentAway != 1 {
		t.Errorf("after it was stopped: %+v, want no rate and no endpoint", got)
	}
	d.end()
	d.begin(1, "", func(ctx context.Context) { <-ctx.Done() })
	defer d.end()
	if got := d.state(0); got.SentAway != 0 || got.Endpoint != "" || got.Empty {
		t.Errorf("a new drain begins with %+v", got)
	}
}

// TestDrainFaster checks that a running drain uses a new rate and endpoint at once, not after the pause of the previous
// rate.
func TestDrainFaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, sent := &drainer{}, make(chan string)
		d.begin(0.001, "old:8883", func(ctx context.Context) {
			for {
				endpoint, ok := d.turn(ctx)
				if !ok {
					return
				}
				sent <- endpoint
			}
		})
		defer d.end()
		time.Sleep(time.Second)
		began := time.Now()
		d.begin(2, "new:8883", nil)
		for range 3 {
			if got := <-sent; got != "new:8883" {
				t.Errorf("sent to %q", got)
			}
		}
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("three vehicles at 2 per second took %v", took)
		}
	})
}

// TestDrainEndWaits checks that no vehicle is redirected after the end of a drain.
func TestDrainEndWaits(t *testing.T) {
	t.Parallel()
	d, ended := &drainer{}, false
	d.begin(1, "", func(ctx context.Context) {
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		ended = true
	})
	d.end()
	if !ended {
		t.Error("the drain still runs")
	}
}

// TestDrainSlowest checks a drain at the lowest rate.
func TestDrainSlowest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{1e-300, 1e-12} {
			d := &drainer{}
			d.begin(rate, "", func(ctx context.Context) {
				if _, ok := d.turn(ctx); ok {
					t.Errorf("rate %g: a vehicle was sent away at once", rate)
				}
			})
			time.Sleep(time.Hour)
			d.end()
		}
	})
}
