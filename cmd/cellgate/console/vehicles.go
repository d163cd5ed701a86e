package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// vehicleLine is a vehicle in the list, and most of its page.
type vehicleLine struct {
	VIN           string
	Node          string // the gateway that has it, or had it last, in a cell of several
	Connected     bool
	Ready         bool
	MQTT          string
	Since         time.Time
	Queued        int
	Inflight      int
	QueuedBytes   int64     `json:"queued_bytes"`
	TokenEnds     time.Time `json:"token_ends"`
	SessionEnds   time.Time `json:"session_ends"`
	SessionExpiry string    `json:"session_expiry"`
	Will          bool
	Subscriptions []struct {
		Filter string
		QoS    int
	}
	Presence *struct {
		Event, Reason string
		At            time.Time
		Epoch         int64
		Seq           uint64
	}
	State      map[string]string
	StateError string `json:"state_error"`
}

// vehiclesBody is the list of vehicles.
type vehiclesBody struct {
	Prefix   string
	After    string
	Vehicles []vehicleLine
	Next     string
}

const pageLength = "50"

func (v *visit) vehicles() (any, error) {
	q := v.r.URL.Query()
	b := vehiclesBody{Prefix: strings.ToUpper(strings.TrimSpace(q.Get("vin"))), After: q.Get("after")}
	err := v.call("GET", "/v1/vehicles?"+url.Values{"prefix": {b.Prefix}, "cursor": {b.After}, "limit": {pageLength}}.Encode(), nil, &b)
	return b, err
}

// vehicleBody is the page of one vehicle.
type vehicleBody struct {
	vehicleLine
	Unknown bool // it has no session here
	// Elsewhere is the gateway that has the vehicle, if it is not this one.
	Elsewhere *gatewayLine
	Commands  []commandLine
	MaySend   bool
	MayRead   bool
}

func (v *visit) vehicle() (any, error) {
	vin := v.r.PathValue("vin")
	b := vehicleBody{vehicleLine: vehicleLine{VIN: vin}, MaySend: v.id.HasScope("command:send"), MayRead: v.id.HasScope("command:read")}
	var no *apiError
	err := v.call("GET", "/v1/vehicles/"+url.PathEscape(vin)+"?state=true", nil, &b.vehicleLine)
	if errors.As(err, &no) && no.Status == http.StatusNotFound {
		b.Unknown, err = true, nil
	}
	if b.Node != "" && b.Node != v.c.o.Node {
		b.Elsewhere = v.gateway(b.Node)
	}
	if err != nil || !b.MayRead {
		return b, err
	}
	err = v.call("GET", "/v1/commands?"+url.Values{"vin": {vin}, "limit": {"20"}}.Encode(), nil, &b)
	return b, err
}

// gateway returns what is known of a gateway of the cell; only its name for users who may not see more.
func (v *visit) gateway(node string) *gatewayLine {
	var status cellStatus
	_ = v.call("GET", "/v1/status", nil, &status) //nolint:errcheck // a link is missing then
	for i := range status.Gateways {
		if status.Gateways[i].Node == node {
			return &status.Gateways[i]
		}
	}
	return &gatewayLine{Node: node}
}

// pathOf is a vehicle's page.
func pathOf(vin string) string { return "/vehicles/" + url.PathEscape(vin) }

func (v *visit) sendCommand() (text, to string, err error) {
	vin, form := v.r.PathValue("vin"), v.r.PostForm
	body := map[string]any{"name": form.Get("name"), "urgent": form.Get("urgent") == "true"}
	if ttl := strings.TrimSpace(form.Get("ttl")); ttl != "" {
		body["ttl"] = ttl
	}
	if payload := strings.TrimSpace(form.Get("payload")); payload != "" {
		if !json.Valid([]byte(payload)) {
			return "", pathOf(vin), errors.New("the command was not sent: its payload is not JSON")
		}
		body["payload"] = json.RawMessage(payload)
	}
	var cmd commandLine
	if err := v.call("POST", "/v1/vehicles/"+url.PathEscape(vin)+"/commands", body, &cmd); err != nil {
		return "", pathOf(vin), fmt.Errorf("the command was not sent: %w", err)
	}
	return fmt.Sprintf("Command %s (%s) is %s.", cmd.Name, cmd.ID, cmd.State), pathOf(vin), nil
}

func (v *visit) disconnect() (text, to string, err error) {
	vin := v.r.PathValue("vin")
	if err := v.call("DELETE", "/v1/vehicles/"+url.PathEscape(vin)+"/connection", nil, nil); err != nil {
		return "", pathOf(vin), fmt.Errorf("not disconnected: %w", err)
	}
	return vin + " is being disconnected; it may come back at once.", pathOf(vin), nil
}

// commandLine is a command.
type commandLine struct {
	ID, VIN, Name, State, Cause, Outcome, TTL, Origin, By string
	Urgent                                                bool
	Payload, Result                                       json.RawMessage
	CreatedAt                                             time.Time `json:"created_at"`
	ExpiresAt                                             time.Time `json:"expires_at"`
	SentAt                                                time.Time `json:"sent_at"`
	DeliveredAt                                           time.Time `json:"delivered_at"`
	AcceptedAt                                            time.Time `json:"accepted_at"`
	FinishedAt                                            time.Time `json:"finished_at"`
}

// Class returns the CSS class of the state.
func (c *commandLine) Class() string {
	switch c.State {
	case "succeeded":
		return "good"
	case "failed", "rejected", "expired":
		return "bad"
	case "late", "cancelled":
		return "warn"
	}
	return ""
}

// Path is the command's page.
func (c *commandLine) Path() string {
	return "/commands/" + url.PathEscape(c.VIN) + "/" + url.PathEscape(c.ID)
}

// commandsBody is the list of commands.
type commandsBody struct {
	State, VIN string
	States     []string
	Commands   []*commandLine
	Next       string
	After      string
}

func (v *visit) commands() (any, error) {
	q := v.r.URL.Query()
	b := commandsBody{
		State: q.Get("state"), VIN: strings.ToUpper(strings.TrimSpace(q.Get("vin"))), After: q.Get("after"),
		States: []string{"queued", "sent", "delivered", "accepted", "succeeded", "failed", "rejected", "expired", "cancelled", "late"},
	}
	ask := url.Values{"limit": {pageLength}}
	for name, value := range map[string]string{"state": b.State, "vin": b.VIN, "cursor": b.After} {
		if value != "" {
			ask.Set(name, value)
		}
	}
	state, vin := b.State, b.VIN
	err := v.call("GET", "/v1/commands?"+ask.Encode(), nil, &b)
	b.State, b.VIN = state, vin
	return b, err
}

// step is one state that a command has come to.
type step struct {
	Name string
	At   time.Time
}

// commandBody is the page of one command.
type commandBody struct {
	commandLine
	Steps   []step
	MayStop bool
}

func (v *visit) command() (any, error) {
	var b commandBody
	err := v.call("GET", "/v1/vehicles/"+url.PathEscape(v.r.PathValue("vin"))+"/commands/"+url.PathEscape(v.r.PathValue("id")), nil, &b.commandLine)
	for _, s := range []step{{"queued", b.CreatedAt}, {"sent", b.SentAt}, {"delivered", b.DeliveredAt}, {"accepted", b.AcceptedAt}, {b.State, b.FinishedAt}} {
		if !s.At.IsZero() {
			b.Steps = append(b.Steps, s)
		}
	}
	b.MayStop = b.State == "queued" && v.id.HasScope("command:send")
	return &b, err
}

func (v *visit) cancelCommand() (text, to string, err error) {
	c := commandLine{VIN: v.r.PathValue("vin"), ID: v.r.PathValue("id")}
	if err := v.call("DELETE", "/v1/vehicles/"+url.PathEscape(c.VIN)+"/commands/"+url.PathEscape(c.ID), nil, nil); err != nil {
		return "", c.Path(), fmt.Errorf("not cancelled: %w", err)
	}
	return "The command is cancelled.", c.Path(), nil
}

// setPart stops or starts what `cellgate dev` embeds.
func (v *visit) setPart() (text, to string, err error) {
	part, run := v.r.PostForm.Get("part"), v.r.PostForm.Get("do") == "start"
	if err := v.call("POST", "/v1/dev/parts/"+url.PathEscape(part), map[string]bool{"running": run}, nil); err != nil {
		return "", "/", err
	}
	if run {
		return part + " runs again: waiting messages are being delivered.", "/", nil
	}
	return part + " is stopped: vehicles are not affected, its messages wait.", "/", nil
}

// traceBody is the form of the trace.
type traceBody struct{ VIN, Topic, Rule string }

func (v *visit) trace() (any, error) {
	q := v.r.URL.Query()
	return traceBody{q.Get("vin"), q.Get("topic"), q.Get("rule")}, nil
}
