package app

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/remote"
)

// drainer sends the vehicles away at a rate and refuses new ones, so that another gateway or another cell can take
// over. It needs no other service.
type drainer struct {
	mu       sync.Mutex // guards below
	on       bool
	rate     float64
	endpoint string
	since    time.Time
	sent     int  // vehicles sent away
	empty    bool // the last pass over the sessions found no vehicle connected
	cancel   context.CancelFunc
	changed  chan struct{} // signals a new rate or endpoint
	done     chan struct{} // closed when the drain's goroutine has ended
}

func (d *drainer) active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on
}

func (d *drainer) state(connected int) DrainStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := DrainStatus{Draining: d.on, Since: d.since, SentAway: d.sent, Connected: connected}
	if d.on {
		s.Rate, s.Endpoint, s.Empty = d.rate, d.endpoint, d.empty
	}
	return s
}

// admit implements broker.Options.Admit: during a drain a new vehicle is refused with the endpoint to use.
func (d *drainer) admit(id *auth.Identity, _ string) (reason byte, endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on || id.Role != auth.RoleVehicle {
		return 0, ""
	}
	return reasonUseAnother, d.endpoint
}

// disconnectReason returns the reason code and endpoint for clients at the stop of the gateway: those of a drain, if one set
// them.
func (d *drainer) disconnectReason() (reason byte, endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on || d.endpoint == "" {
		return 0, ""
	}
	return reasonUseAnother, d.endpoint
}

// begin starts a drain, carried out by run until its context ends, or changes the one under way.
func (d *drainer) begin(rate float64, endpoint string, run func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rate, d.endpoint = rate, endpoint
	if d.on {
		select {
		case d.changed <- struct{}{}:
		default:
		}
		return
	}
	d.on, d.since, d.sent, d.empty = true, time.Now().UTC(), 0, false
	d.changed, d.done = make(chan struct{}, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go func(done chan struct{}) {
		defer close(done)
		run(ctx)
	}(d.done)
}

// end stops the drain. When it returns, no more vehicles are sent away.
func (d *drainer) end() {
	d.mu.Lock()
	on, cancel, done := d.on, d.cancel, d.done
	d.on = false
	d.mu.Unlock()
	if on {
		cancel()
		<-done
	}
}

// turn waits until the next vehicle may be sent away, and returns its endpoint; false when ctx ends.
func (d *drainer) turn(ctx context.Context) (endpoint string, ok bool) {
	for began := time.Now(); ; {
		d.mu.Lock()
		wait, changed := time.Duration(min(float64(time.Second)/d.rate, float64(maxDrainPause))), d.changed
		endpoint = d.endpoint
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return "", false
		case <-time.After(wait - time.Since(began)):
			return endpoint, true
		case <-changed:
		}
	}
}

func (d *drainer) count() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent++
}

// passed records how many connected vehicles a pass over all sessions found.
func (d *drainer) passed(vehicles int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.empty = vehicles == 0
}

// maxDrainRate bounds the rate, in vehicles per second. No gateway accepts more elsewhere.
const maxDrainRate = 10_000

// maxDrainPause bounds the pause between two vehicles, and so the lowest rate.
const maxDrainPause = 24 * time.Hour

func (a *gateway) startDrain(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Rate     float64 `json:"rate"`
		Endpoint string  `json:"endpoint"`
	}{Rate: 10}
	if !readJSON(w, r, &body) {
		return
	}
	if !(body.Rate > 0 && body.Rate <= maxDrainRate) || math.IsInf(body.Rate, 0) {
		problem.Write(w, http.StatusBadRequest, "", "rate is vehicles per second, above 0 and at most 10000", nil)
		return
	}
	a.log.Warn("draining", slog.Float64("rate", body.Rate), slog.String("endpoint", body.Endpoint))
	a.drain.begin(body.Rate, body.Endpoint, a.evict)
	writeJSON(w, http.StatusAccepted, a.drain.state(a.broker.Connections()))
}

func (a *gateway) getDrain(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.drain.state(a.broker.Connections()))
}

func (a *gateway) stopDrain(w http.ResponseWriter, _ *http.Request) {
	a.drain.end()
	a.log.Info("drain ended")
	writeJSON(w, http.StatusOK, a.drain.state(a.broker.Connections()))
}

// evict sends the vehicles away one by one, in the order of their VINs, until none is connected or ctx ends.
func (a *gateway) evict(ctx context.Context) {
	for after, vehicles := "", 0; ; {
		found := a.sessions.List(after, maxPage)
		if len(found) == 0 {
			a.drain.passed(vehicles)
			if after, vehicles = "", 0; !remote.Pause(ctx, time.Second) {
				return
			}
			continue
		}
		for i := range found {
			after = found[i].Key
			if !found[i].Vehicle || !found[i].Connected {
				continue
			}
			vehicles++
			endpoint, ok := a.drain.turn(ctx)
			if !ok {
				return
			}
			if a.sendAway(found[i].Key, reasonUseAnother, endpoint, "drain") {
				a.drain.count()
			}
		}
	}
}
