package app

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/auth/problem"
)

// drainer sends the vehicles away at a rate, and refuses new ones, so that another gateway of the cell, or
// another cell, can take over. It needs nothing from outside.
type drainer struct {
	mu       sync.Mutex // guards below
	on       bool
	rate     float64
	endpoint string
	since    time.Time
	sent     int // vehicles sent away
	cancel   context.CancelFunc
}

func (d *drainer) active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on
}

func (d *drainer) state(connected int) DrainStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DrainStatus{d.on, d.rate, d.endpoint, d.since, d.sent, connected}
}

// admit implements broker.Options.Admit: a vehicle that comes during a drain is answered at once with where
// to go.
func (d *drainer) admit(id *auth.Identity, _ string) (reason byte, endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on || id.Role != auth.RoleVehicle {
		return 0, ""
	}
	return reasonUseAnother, d.endpoint
}

// begin starts a drain, or changes the one under way.
func (d *drainer) begin(rate float64, endpoint string, run func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on {
		d.since, d.sent = time.Now().UTC(), 0
		ctx, cancel := context.WithCancel(context.Background())
		d.cancel = cancel
		go run(ctx)
	}
	d.on, d.rate, d.endpoint = true, rate, endpoint
}

func (d *drainer) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on {
		d.cancel()
	}
	d.on = false
}

// next says how long to wait before the next vehicle, and where it is to go.
func (d *drainer) next() (time.Duration, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(float64(time.Second) / d.rate), d.endpoint
}

func (d *drainer) count() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent++
}

// maxDrainRate bounds the rate: what a gateway can accept elsewhere is less.
const maxDrainRate = 10_000

func (a *App) startDrain(w http.ResponseWriter, r *http.Request) {
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

func (a *App) getDrain(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.drain.state(a.broker.Connections()))
}

func (a *App) stopDrain(w http.ResponseWriter, _ *http.Request) {
	a.drain.end()
	a.log.Info("drain ended")
	writeJSON(w, http.StatusOK, a.drain.state(a.broker.Connections()))
}

// evict sends the vehicles away one by one, in the order of their VINs, until none is connected or ctx
// ends.
func (a *App) evict(ctx context.Context) {
	for after := ""; ; {
		found := a.sessions.List(after, maxPage)
		if len(found) == 0 {
			if after = ""; !pause(ctx, time.Second) {
				return
			}
			continue
		}
		for i := range found {
			after = found[i].ClientID
			if !found[i].Vehicle || !found[i].Connected {
				continue
			}
			wait, endpoint := a.drain.next()
			if !pause(ctx, wait) {
				return
			}
			if a.sessions.Disconnect(found[i].ClientID, reasonUseAnother, endpoint) {
				a.drain.count()
			}
		}
	}
}
