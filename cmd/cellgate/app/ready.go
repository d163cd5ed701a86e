package app

import (
	"net/http"
)

func (a *App) phaseName() string {
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

// dependencies lists everything that delivery depends on.
func (a *App) dependencies() []Dependency {
	var all []Dependency
	for _, h := range a.dispatch.Health() {
		all = append(all, Dependency{h.Name, h.OK, h.Since.UTC(), h.Reason})
	}
	if d, stepped := a.clock.dependency(); stepped {
		all = append(all, d)
	}
	all = append(all, a.syncDependencies()...)
	all = append(all, a.delivery()...)
	if d, short := a.ladder.dependency(); short {
		all = append(all, d)
	}
	return append(all, a.rules.dependencies()...)
}

// healthz is 200 while the process can do anything at all.
func (a *App) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := a.journal.Err(); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "failed", "reason": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
}

// readiness is what /readyz answers.
type readiness struct {
	Status   string       `json:"status"`
	Reason   string       `json:"reason,omitempty"`
	Degraded []Dependency `json:"degraded"`
}

// readyz is 200 while vehicles can be served, and names what is degraded.
func (a *App) readyz(w http.ResponseWriter, _ *http.Request) {
	r, code := readiness{Status: "ready", Degraded: []Dependency{}}, http.StatusOK
	for _, d := range a.dependencies() {
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
	writeJSON(w, code, r)
}
