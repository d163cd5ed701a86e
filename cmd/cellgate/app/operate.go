package app

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/problem"
	"cellgate/rules/doc"
	"cellgate/rules/workbench"
)

// Reason codes for a client that is disconnected (MQTT 5, 3.14.2.1).
const (
	reasonAdministrative byte = 0x98
	reasonUseAnother     byte = 0x9c
)

// Bounds of a list.
const (
	defaultPage = 100
	maxPage     = 1000
)

func (a *gateway) vehicleOf(i *session.Info, whole bool) Vehicle {
	v := Vehicle{VIN: i.Key, Ready: i.Ready, Held: heldOf(i)}
	if a.member != nil {
		v.Node = a.cfg.Cell.Node
	}
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
	prefix, after := r.URL.Query().Get("prefix"), r.URL.Query().Get("cursor")
	page := a.localVehicles(prefix, after, limit)
	a.cellVehicles(r.Context(), &page, prefix, after, limit)
	writeJSON(w, http.StatusOK, page)
}

func (a *gateway) getVehicle(w http.ResponseWriter, r *http.Request) {
	v, known := a.cellVehicle(r.Context(), r.PathValue("vin"))
	if !known {
		problem.Write(w, http.StatusNotFound, "", "there is no session of the vehicle", nil)
		return
	}
	if r.URL.Query().Get("state") == "true" {
		v.State, v.StateError = a.lastState(r.Context(), v.VIN)
	}
	writeJSON(w, http.StatusOK, v)
}

// localVehicle returns all about a vehicle of this gateway.
func (a *gateway) localVehicle(vin string) (Vehicle, bool) {
	info, ok := a.sessions.Get(vin)
	if !ok || !info.Vehicle {
		return Vehicle{}, false
	}
	v := a.vehicleOf(&info, true)
	v.Presence = &LastPresence{Event: presence.Disconnected.String()}
	if e, known := a.presence.Last(info.Key); known {
		at := e.Place()
		v.Presence = &LastPresence{e.Kind.String(), at.Epoch, at.Seq, e.Time(), e.Reason}
	}
	return v, true
}

// presenceShown returns the presence of a vehicle in Redis.
func presenceShown(v *cell.Vehicle) *LastPresence {
	if v.Event == "" {
		return nil
	}
	return &LastPresence{Event: v.Event, Epoch: v.Owner.Epoch, At: (&presence.Event{At: v.At}).Time(), Reason: v.Reason}
}

// statePatience is the timeout for reading a vehicle's last state.
const statePatience = 150 * time.Millisecond

// lastState returns what the sample rule latest-state has written of a vehicle, or why it is not known.
func (a *gateway) lastState(ctx context.Context, vin string) (state map[string]string, why string) {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	state, err := a.reading.HGetAll(ctx, "veh:"+vin).Result()
	if err != nil {
		return nil, "Redis does not answer"
	}
	return state, ""
}

func (a *gateway) disconnectVehicle(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Endpoint string `json:"endpoint"`
	}{Endpoint: r.URL.Query().Get("endpoint")}
	if !readJSON(w, r, &body) {
		return
	}
	if !a.disconnectAnywhere(r.Context(), r.PathValue("vin"), body.Endpoint) {
		problem.Write(w, http.StatusNotFound, "", "the vehicle is not connected", nil)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// disconnect ends a vehicle's connection to this gateway.
func (a *gateway) disconnect(vin, endpoint string) bool {
	reason := reasonAdministrative
	if endpoint != "" {
		reason = reasonUseAnother
	}
	return a.sendAway(vin, reason, endpoint, "administrative")
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
	var body struct {
		Hash string `json:"hash"`
	}
	if readJSON(w, r, &body) {
		a.changeRules(w, r, func(ctx context.Context) error { return a.rules.rollback(ctx, body.Hash) })
	}
}

// ruleHistory lists the rule sets that ran.
func (a *gateway) ruleHistory(w http.ResponseWriter, _ *http.Request) {
	sets, _, err := a.rules.ranSets()
	if err != nil {
		problem.Write(w, http.StatusInternalServerError, "the history cannot be read", err.Error(), nil)
		return
	}
	writeJSON(w, http.StatusOK, RuleHistory{sets})
}

// ranRules shows one of them.
func (a *gateway) ranRules(w http.ResponseWriter, r *http.Request) {
	ran, err := a.rules.ranRules(r.PathValue("hash"))
	switch {
	case err != nil:
		problem.Write(w, http.StatusInternalServerError, "the history cannot be read", err.Error(), nil)
	case ran == nil:
		problem.Write(w, http.StatusNotFound, "", "no rule set with this hash is kept: the history has the last "+strconv.Itoa(maxHistory), nil)
	default:
		writeJSON(w, http.StatusOK, ran)
	}
}

// changeRules answers with the rules in force, or with why nothing has changed.
func (a *gateway) changeRules(w http.ResponseWriter, r *http.Request, change func(context.Context) error) {
	err := change(r.Context())
	var found doc.Diagnostics
	switch {
	case errors.As(err, &found):
		problem.Write(w, http.StatusUnprocessableEntity, "the rules are not valid", "nothing has changed: "+err.Error(), map[string]any{"diagnostics": found})
	case errors.Is(err, errNoEarlierRules):
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
	all := a.dependencies()
	ready, _ := a.readinessOf(all)
	s := Status{
		Ready: ready.Status, Reason: ready.Reason, Restart: *a.waiting.Load(),
		Cell: a.cfg.Cell.ID, Region: a.cfg.Cell.Region, Node: a.cfg.Cell.Node, Build: a.build, Phase: a.phaseName(),
		Started: a.started.UTC(), Uptime: time.Since(a.started).Truncate(time.Second).String(), Connections: a.broker.Connections(),
		Journal: JournalStatus{
			Epoch: j.Epoch, First: j.First, Durable: j.Durable, Bytes: j.Bytes, MaxBytes: j.MaxBytes, Oldest: j.Oldest,
			Needed: j.Needed, Corruptions: j.Corruptions, DroppedQoS0: a.broker.DroppedQoS0(),
		},
		Rules: RulesStatus{rs.Hash, len(rs.Rules), rs.Since, rs.Error}, Sinks: a.sinkLoads(),
		Parked: a.dispatch.Parked(), Dependencies: all, Commands: a.commands.Stat(), Lanes: a.sync.lanes(), Gateways: a.gateways(),
	}
	if j.Full != nil {
		s.Journal.Full = j.Full.Error()
	}
	writeJSON(w, http.StatusOK, s)
}
