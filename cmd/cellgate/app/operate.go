package app

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"time"

	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/problem"
	"cellgate/rules/doc"
	"cellgate/rules/workbench"
)

// Reason codes for a client that is sent away (MQTT 5, 3.14.2.1).
const (
	reasonAdministrative byte = 0x98
	reasonUseAnother     byte = 0x9c
)

// Bounds of a list.
const (
	defaultPage = 100
	maxPage     = 1000
)

func vehicleOf(i *session.Info, whole bool) Vehicle {
	v := Vehicle{VIN: i.Key, Ready: i.Ready, Held: heldOf(i)}
	if !whole {
		v.SessionExpiry = ""
		return v
	}
	v.Subscriptions = subscriptionsOf(i)
	return v
}

func heldOf(i *session.Info) Held {
	h := Held{
		Connected: i.Connected, Since: i.Since.UTC(), Queued: i.Queued, Inflight: i.Inflight, QueuedBytes: i.QueuedBytes,
		TokenEnds: i.TokenEnds, SessionEnds: i.EndsAt, Will: i.HasWill, SessionExpiry: i.Expiry.String(),
	}
	if i.Connected {
		h.MQTT = "5"
		if i.Version < 5 {
			h.MQTT = "3.1.1"
		}
	}
	if i.Expiry == session.MaxExpiry {
		h.SessionExpiry = "never"
	}
	return h
}

func subscriptionsOf(i *session.Info) []Subscription {
	var out []Subscription
	for _, s := range i.Subscriptions {
		out = append(out, Subscription{s.Filter, s.QoS})
	}
	return out
}

func (a *gateway) listVehicles(w http.ResponseWriter, r *http.Request) {
	limit, ok := pageLimit(w, r)
	if !ok {
		return
	}
	page := VehiclePage{Vehicles: []Vehicle{}}
	for after := r.URL.Query().Get("cursor"); ; {
		found := a.sessions.List(after, maxPage) // a listing costs by the sessions there are, not by its length
		for i := range found {
			if found[i].Vehicle && len(page.Vehicles) < limit {
				page.Vehicles = append(page.Vehicles, vehicleOf(&found[i], false))
			}
			after = found[i].Key
			if len(page.Vehicles) == limit {
				page.Next = after
				break
			}
		}
		if len(found) < maxPage || page.Next != "" {
			break
		}
	}
	writeJSON(w, http.StatusOK, page)
}

func (a *gateway) getVehicle(w http.ResponseWriter, r *http.Request) {
	info, ok := a.sessions.Get(r.PathValue("vin"))
	if !ok || !info.Vehicle {
		problem.Write(w, http.StatusNotFound, "", "this gateway has no session of the vehicle", nil)
		return
	}
	v := vehicleOf(&info, true)
	v.Presence = &PresenceTold{Event: presence.Disconnected.String()}
	if e, known := a.presence.Last(info.Key); known {
		v.Presence = &PresenceTold{e.Kind.String(), e.Epoch, e.Seq, e.Time(), e.Reason}
	}
	writeJSON(w, http.StatusOK, v)
}

func (a *gateway) disconnectVehicle(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Endpoint string `json:"endpoint"`
	}{Endpoint: r.URL.Query().Get("endpoint")}
	if !readJSON(w, r, &body) {
		return
	}
	reason := reasonAdministrative
	if body.Endpoint != "" {
		reason = reasonUseAnother
	}
	if !a.sendAway(r.PathValue("vin"), reason, body.Endpoint, "administrative") {
		problem.Write(w, http.StatusNotFound, "", "the vehicle is not connected here", nil)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *gateway) getRules(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.rules.state())
}

// applyRules puts the files in force.
func (a *gateway) applyRules(w http.ResponseWriter, r *http.Request) {
	var body struct {
		AllowEmpty bool `json:"allow_empty"`
		Strict     bool `json:"strict"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	a.changeRules(w, r, func(ctx context.Context) error { return a.rules.applyFiles(ctx, body.AllowEmpty, body.Strict) })
}

func (a *gateway) rollbackRules(w http.ResponseWriter, r *http.Request) {
	a.changeRules(w, r, a.rules.rollback)
}

// changeRules answers with the rules in force, or with why nothing has changed.
func (a *gateway) changeRules(w http.ResponseWriter, r *http.Request, change func(context.Context) error) {
	err := change(r.Context())
	var found doc.Diagnostics
	switch {
	case errors.As(err, &found):
		problem.Write(w, http.StatusUnprocessableEntity, "the rules are not valid", "nothing has changed: "+err.Error(), map[string]any{"diagnostics": found})
	case errors.Is(err, ErrNoEarlierRules):
		problem.Write(w, http.StatusConflict, "", err.Error(), nil)
	case err != nil && workbench.Refused(err):
		problem.Write(w, http.StatusUnprocessableEntity, workbench.Reason(err), "nothing has changed: "+err.Error(), nil)
	case err != nil:
		problem.Write(w, http.StatusInternalServerError, "the rules were not changed", err.Error(), nil)
	default:
		writeJSON(w, http.StatusOK, a.rules.state())
	}
}

func (a *gateway) getLedger(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, LedgerAnswer{Sinks: a.dispatch.Ledger()})
}

func shareOf(used, most int64) Share {
	s := Share{Used: used, Max: most}
	if most > 0 {
		s.Ratio = float64(used) / float64(most)
	}
	return s
}

func (a *gateway) sinkLoads() []SinkLoad {
	var loads []SinkLoad
	for _, l := range a.dispatch.Lag() {
		loads = append(loads, SinkLoad{l.Sink, l.Messages, l.Age.Seconds(), l.LogBytes, l.Live})
	}
	return loads
}

func (a *gateway) getCapacity(w http.ResponseWriter, _ *http.Request) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	j := a.journal.Stat()
	writeJSON(w, http.StatusOK, Capacity{
		Connections: shareOf(int64(a.broker.Connections()), int64(limitsOf(a.Config(), a.descriptors.clients).MaxConnections)),
		Journal:     shareOf(j.Bytes, j.MaxBytes), Sinks: a.sinkLoads(), Commands: a.commands.Stat().Open,
		Goroutines: runtime.NumGoroutine(), HeapBytes: mem.HeapAlloc, CPUs: runtime.NumCPU(),
	})
}

func (a *gateway) getStatus(w http.ResponseWriter, _ *http.Request) {
	j, rs := a.journal.Stat(), a.rules.state()
	s := Status{
		Cell: a.cfg.Cell.ID, Region: a.cfg.Cell.Region, Node: a.cfg.Cell.Node, Build: a.build, Phase: a.phaseName(),
		Started: a.started.UTC(), Uptime: time.Since(a.started).Truncate(time.Second).String(), Connections: a.broker.Connections(),
		Journal: JournalStatus{
			Epoch: j.Epoch, First: j.First, Durable: j.Durable, Bytes: j.Bytes, MaxBytes: j.MaxBytes, Oldest: j.Oldest,
			Needed: j.Needed, Corruptions: j.Corruptions, DroppedQoS0: a.broker.DroppedQoS0(),
		},
		Rules: RulesStatus{rs.Hash, len(rs.Rules), rs.Since, rs.Error}, Sinks: a.sinkLoads(),
		Parked: a.dispatch.Parked(), Dependencies: a.dependencies(), Commands: a.commands.Stat(), Lanes: a.sync.lanes(),
	}
	if j.Full != nil {
		s.Journal.Full = j.Full.Error()
	}
	writeJSON(w, http.StatusOK, s)
}
