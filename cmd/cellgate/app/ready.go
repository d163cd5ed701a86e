package app

import (
	"net/http"

	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/remote"
)

func (a *gateway) phaseName() string {
	switch a.phase.Load() {
	case phaseStarting:
		return "starting"
	case phaseStopping:
		return "stopping"
	}
	if a.drain.active() {
		return "draining"
	}
	return "serving"
}

// dependencies returns the health of everything that delivery depends on.
func (a *gateway) dependencies() []remote.Health {
	all := a.dispatch.Health()
	if d, stepped := a.clock.dependency(); stepped {
		all = append(all, d)
	}
	all = append(all, a.sync.health()...)
	all = append(all, a.delivery()...)
	if d, lost := a.losses.dependency(); lost {
		all = append(all, d)
	}
	if d, invalid := a.certificates.dependency(); invalid {
		all = append(all, d)
	}
	if d, short := a.ladder.dependency(); short {
		all = append(all, d)
	}
	all = append(all, a.rules.dependencies()...)
	all = append(all, a.cellHealth()...)
	for i := range all {
		all[i].Since = all[i].Since.UTC()
	}
	return all
}

// healthz is 200 while the process works at all.
func (a *gateway) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := a.journal.Err(); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "failed", "reason": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
}

// readiness is the answer of /readyz.
type readiness struct {
	Status   string          `json:"status"`
	Reason   string          `json:"reason,omitempty"`
	Degraded []remote.Health `json:"degraded"`
}

// readyz is 200 while vehicles can be served. It names what is degraded.
func (a *gateway) readyz(w http.ResponseWriter, _ *http.Request) {
	r, code := a.readiness()
	writeJSON(w, code, r)
}

func (a *gateway) readiness() (r readiness, code int) { return a.readinessOf(a.dependencies()) }

// readinessOf decides whether vehicles can be served, for /readyz and for the status.
func (a *gateway) readinessOf(all []remote.Health) (r readiness, code int) {
	r, code = readiness{Status: "ready", Degraded: []remote.Health{}}, http.StatusOK
	for _, d := range all {
		if !d.OK {
			r.Status = "degraded"
			r.Degraded = append(r.Degraded, d)
		}
	}
	if phase := a.phaseName(); phase != "serving" {
		r.Status, code = phase, http.StatusServiceUnavailable
	}
	err := a.journal.Err()
	if err == nil {
		err = a.journal.Stat().Full
	}
	if err != nil {
		r.Status, r.Reason, code = "unable to journal", err.Error(), http.StatusServiceUnavailable
	}
	return r, code
}

// readyReadings returns the metrics with the content of /readyz.
func (a *gateway) readyReadings() *metric.Readings {
	r := &metric.Readings{}
	ready := r.Add("ready", "1 while vehicles can be served, as /readyz reports.")
	degraded := r.Add("degraded", "1 for each part that /readyz reports as degraded.", "what")
	r.Read = func(to metric.Sample) {
		now, code := a.readiness()
		to.Flag(ready, code == http.StatusOK)
		named := make(map[string]bool)
		for _, d := range now.Degraded {
			if !named[d.Name] {
				named[d.Name] = true
				to.Gauge(degraded, 1, d.Name)
			}
		}
	}
	return r
}
