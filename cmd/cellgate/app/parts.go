package app

import (
	"fmt"
	"net"
	"net/http"

	"cellgate/broker/shared/problem"
)

// Parts are embedded by `cellgate dev`. Each can be stopped and started while the gateway runs.
type Parts interface {
	List() []Part
	// Set starts or stops a part.
	Set(name string, running bool) error
}

// Part is an embedded part.
type Part struct {
	Name    string `json:"name"` // kafka, redis or centre
	Address string `json:"address"`
	Running bool   `json:"running"`
}

// PartList is GET /v1/dev/parts.
type PartList struct {
	Parts []Part `json:"parts"`
}

// embedded returns the parts, or answers and returns nil: there are none but in dev, and only this machine may touch them.
func (a *gateway) embedded(w http.ResponseWriter, r *http.Request) Parts {
	host, _, _ := net.SplitHostPort(r.RemoteAddr) //nolint:errcheck // no address is not loopback
	if ip := net.ParseIP(host); a.parts == nil || ip == nil || !ip.IsLoopback() {
		problem.Write(w, http.StatusNotFound, "", "only `cellgate dev` has embedded parts, and only for callers on the same machine", nil)
		return nil
	}
	return a.parts
}

func (a *gateway) getParts(w http.ResponseWriter, r *http.Request) {
	if parts := a.embedded(w, r); parts != nil {
		writeJSON(w, http.StatusOK, PartList{parts.List()})
	}
}

// setPart starts or stops a part.
func (a *gateway) setPart(w http.ResponseWriter, r *http.Request) {
	parts := a.embedded(w, r)
	body := struct {
		Running *bool `json:"running"`
	}{}
	if parts == nil || !readJSON(w, r, &body) {
		return
	}
	if body.Running == nil {
		problem.Write(w, http.StatusBadRequest, "", "running is true or false", nil)
		return
	}
	for _, p := range parts.List() {
		if p.Name != r.PathValue("part") {
			continue
		}
		if err := parts.Set(p.Name, *body.Running); err != nil {
			problem.Write(w, http.StatusInternalServerError, "the part was not changed", err.Error(), nil)
			return
		}
		writeJSON(w, http.StatusOK, PartList{parts.List()})
		return
	}
	problem.Write(w, http.StatusNotFound, "", fmt.Sprintf("there is no part %q", r.PathValue("part")), nil)
}
