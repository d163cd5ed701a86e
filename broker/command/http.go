package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/duration"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/trace"
)

// TTL is a duration in JSON: a string such as "60s", or a number of seconds.
type TTL time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (t *TTL) UnmarshalJSON(data []byte) error {
	text := string(data)
	if text == "null" {
		return nil
	}
	if unquoted, ok := strings.CutPrefix(text, `"`); ok {
		d, err := duration.Parse(strings.TrimSuffix(unquoted, `"`))
		if err != nil || d <= 0 {
			return fmt.Errorf("ttl %s is not a duration such as \"60s\" or \"7d\"", text)
		}
		*t = TTL(d)
		return nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || seconds <= 0 || seconds > 1e9 {
		return fmt.Errorf("ttl %s is neither a duration such as \"60s\" nor a number of seconds", text)
	}
	*t = TTL(seconds * float64(time.Second))
	return nil
}

// Scopes of the HTTP calls.
const (
	scopeSend = "command:send"
	scopeRead = "command:read"
)

// Handler serves the commands' part of the HTTP API.
type Handler struct {
	Service *Service
	// Require returns a handler that calls h only for requests with that scope. Required.
	Require func(scope string, h http.Handler) http.Handler
	// Caller returns the authenticated caller, whose idempotency keys are separate. Required.
	Caller func(*http.Request) Caller
	// MaxBody bounds a request's body, MaxWait the parameter wait.
	MaxBody int64
	MaxWait time.Duration
}

// Register mounts the handlers on mux.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.Handle("POST /v1/vehicles/{vin}/commands", h.Require(scopeSend, http.HandlerFunc(h.create)))
	mux.Handle("DELETE /v1/vehicles/{vin}/commands/{id}", h.Require(scopeSend, http.HandlerFunc(h.cancel)))
	mux.Handle("GET /v1/vehicles/{vin}/commands/{id}", h.Require(scopeRead, http.HandlerFunc(h.get)))
	mux.Handle("GET /v1/commands", h.Require(scopeRead, http.HandlerFunc(h.list)))
}

// body is the body of a POST, and with a VIN a record of vehicle.commands.
type body struct {
	ID            string          `json:"id"`
	Name          string          `json:"name"`
	Payload       json.RawMessage `json:"payload"`
	PayloadBase64 []byte          `json:"payload_base64"`
	TTL           TTL             `json:"ttl"`
	Urgent        bool            `json:"urgent"`
}

// decode reads a request for a command, from HTTP or Kafka, as one JSON object. A member that the gateway does not know is
// an error: a mistyped ttl must not become the default one.
func decode(from io.Reader, into any) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, rest := d.Token(); !errors.Is(rest, io.EOF) {
		return errors.New("there is data after the JSON object")
	}
	return nil
}

var errTwoPayloads = errors.New("payload and payload_base64 exclude each other")

func (b *body) twoPayloads() bool { return len(b.Payload) > 0 && len(b.PayloadBase64) > 0 }

func (b *body) request() Request {
	r := Request{ID: b.ID, Name: b.Name, Payload: b.Payload, JSON: len(b.Payload) > 0, TTL: time.Duration(b.TTL), Urgent: b.Urgent}
	if !r.JSON {
		r.Payload = b.PayloadBase64
	}
	return r
}

func (h *Handler) create(w http.ResponseWriter, r *http.Request) {
	wait, err := h.wait(r.URL.Query().Get("wait"))
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", err.Error(), nil)
		return
	}
	came := time.Now()
	req, status, err := h.request(w, r)
	req.came = came
	if err != nil {
		problem.Write(w, status, "", err.Error(), nil)
		return
	}
	cmd, _, err := h.Service.Create(r.Context(), req)
	if err != nil {
		fail(w, err, nil)
		return
	}
	w.Header().Set("Location", "/v1/vehicles/"+url.PathEscape(cmd.VIN)+"/commands/"+cmd.ID)
	if wait > 0 && !cmd.State.Final() {
		// The write timeout counts from the request's head: extend it by the wait.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		if cmd, err = h.Service.wait(ctx, cmd.VIN, cmd.ID); err != nil {
			fail(w, err, nil)
			return
		}
	}
	answer := http.StatusAccepted
	if wait > 0 && cmd.State.Final() {
		answer = http.StatusOK
	}
	problem.WriteJSON(w, answer, cmd)
}

// request parses a POST. The status belongs to the error.
func (h *Handler) request(w http.ResponseWriter, r *http.Request) (Request, int, error) {
	var b body
	err := decode(http.MaxBytesReader(w, r.Body, h.MaxBody), &b)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return Request{}, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is longer than %d bytes", large.Limit)
	case err != nil:
		return Request{}, http.StatusBadRequest, fmt.Errorf("the body is not a JSON object {name, payload, ttl, urgent, id}: %w", err)
	case b.twoPayloads():
		return Request{}, http.StatusBadRequest, errTwoPayloads
	case b.ID != "" && r.Header.Get("Idempotency-Key") != "":
		// Each would name its own command: a repetition with one of them would be ambiguous.
		return Request{}, http.StatusBadRequest, errors.New("id and Idempotency-Key exclude each other: send one of them")
	}
	req := b.request()
	req.Key, req.VIN, req.Caller = r.Header.Get("Idempotency-Key"), r.PathValue("vin"), h.Caller(r)
	if parent := r.Header.Get(trace.ParentProperty); trace.Parent([]message.UserProperty{{Name: trace.ParentProperty, Value: parent}}) != "" {
		req.props.User = []message.UserProperty{{Name: trace.ParentProperty, Value: parent}}
	}
	return req, 0, nil
}

// wait parses ?wait=, a duration or a number of seconds, and bounds it.
func (h *Handler) wait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := duration.Parse(text)
	if err != nil {
		seconds, serr := strconv.ParseUint(text, 10, 31)
		d, err = time.Duration(seconds)*time.Second, serr
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("wait=%s is not a duration such as 10s", text)
	}
	return min(d, h.MaxWait), nil
}

func (h *Handler) get(w http.ResponseWriter, r *http.Request) {
	cmd, err := h.Service.Get(r.Context(), r.PathValue("vin"), r.PathValue("id"))
	if err != nil {
		fail(w, err, nil)
		return
	}
	problem.WriteJSON(w, http.StatusOK, cmd)
}

func (h *Handler) cancel(w http.ResponseWriter, r *http.Request) {
	cmd, err := h.Service.Cancel(r.Context(), h.Caller(r), r.PathValue("vin"), r.PathValue("id"))
	if err != nil {
		fail(w, err, map[string]any{"state": cmd.State})
		return
	}
	problem.WriteJSON(w, http.StatusOK, cmd)
}

// page is the response to a list.
type page struct {
	Commands []Command `json:"commands"`
	Next     string    `json:"next,omitempty"`   // the cursor of the next page
	Cursor   string    `json:"cursor,omitempty"` // the same; kept for older clients
}

func (h *Handler) list(w http.ResponseWriter, r *http.Request) {
	f, err := filter(r.URL.Query())
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", err.Error(), nil)
		return
	}
	commands, cursor, err := h.Service.List(r.Context(), f)
	if err != nil {
		fail(w, err, nil)
		return
	}
	p := page{Commands: commands}
	if p.Commands == nil {
		p.Commands = []Command{}
	}
	p.Next, p.Cursor = cursor, cursor
	problem.WriteJSON(w, http.StatusOK, p)
}

// filter parses ?state=, ?vin=, ?id=, ?limit= and ?cursor=.
func filter(q url.Values) (Filter, error) {
	f := Filter{State: State(q.Get("state")), VIN: q.Get("vin"), ID: q.Get("id")}
	if f.State != "" && !f.State.valid() {
		return f, fmt.Errorf("state=%s is not one of %v", f.State, States())
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxPage {
			return f, fmt.Errorf("limit=%s is not a number from 1 to %d", text, MaxPage)
		}
		f.Limit = n
	}
	f.Cursor = q.Get("cursor")
	return f, nil
}

// fail writes the problem for err.
func fail(w http.ResponseWriter, err error, ext map[string]any) {
	a, detail := verdictOn(err), err.Error()
	if a.label == "other" { // the caller went away, or an internal error
		detail = "the request could not be finished"
	}
	if !errors.Is(err, ErrNotCancellable) {
		ext = nil
	}
	if u, ok := errors.AsType[*unknownError](err); ok {
		ext = map[string]any{"id": u.ID}
	}
	if a.retry != "" {
		w.Header().Set("Retry-After", a.retry)
	}
	problem.Write(w, a.status, a.title, detail, ext)
}
