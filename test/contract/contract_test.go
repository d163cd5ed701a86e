// Package contract holds what a running gateway answers against the OpenAPI document that it serves.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/goccy/go-yaml"

	"cellgate/test/check"
	"cellgate/test/harness"
)

const vin = "LTEST000000000001"

// TestAnswersAreAsDocumented calls every operation of the document on a running gateway, and holds status, media type and
// every field of the answer against it. A field that the document does not have is a failure too.
func TestAnswersAreAsDocumented(t *testing.T) {
	t.Parallel()
	kafka := harness.EmbeddedKafka(t)
	g := harness.StartGateway(t, harness.Options{Kafka: kafka, Central: harness.EmbeddedKafka(t), Redis: harness.EmbeddedRedis(t)})
	_, text, err := g.Get("/v1/openapi.yaml", "")
	check.OK(t, err)
	wellFormed(t, text)
	a := &api{t: t, g: g, operator: g.OperatorToken(), doc: load(t, strict(t, text)), answered: map[string]bool{}}
	fleet := g.Fleet("fleet", "--vehicles", "3", "--rate", "20", "--duration", "1m")
	check.Eventually(t, "all vehicles are connected", func() bool { return len(a.vehicles()) == 3 })
	defer fleet.Kill()
	for _, c := range a.calls() {
		a.try(c)
	}
	// They end something that does not exist here: a gap, a held rule, a lost gateway.
	for _, asked := range []string{"POST /v1/sync/skip", "POST /v1/rules/lift", "DELETE /v1/gateways/{node}"} {
		a.answered[asked] = true
	}
	a.answered["GET /v1/trace"] = true                                                    // lasts until the client ends it: TestTrace reads one
	a.answered["GET /v1/dev/parts"], a.answered["POST /v1/dev/parts/{part}"] = true, true // of cellgate dev alone, whose tests call them
	for path, item := range a.doc.Paths.Map() {
		for method := range item.Operations() {
			if key := method + " " + path; !a.answered[key] {
				t.Errorf("%s: no call of it in this test had an answer that is not an error", key)
			}
		}
	}
}

// api calls a gateway and holds its answers.
type api struct {
	t        *testing.T
	g        *harness.Gateway
	operator string
	doc      *openapi3.T
	answered map[string]bool // by method and path of the document: with a status under 400
}

// call is a request; path has no placeholders. status is the expected status.
type call struct {
	operation, path string
	body            any
	token           string // "": the operator's; "-": none
	status          int
}

// calls are every operation as it goes well, and the errors that a client is likely to meet.
func (a *api) calls() []call {
	command := "/v1/vehicles/" + vin + "/commands"
	rules := map[string]any{"files": map[string]string{"a.rules.yaml": "rules: []\n"}, "allow_empty": true}
	return []call{
		{operation: "GET /healthz", token: "-", status: 200},
		{operation: "GET /readyz", token: "-", status: 200},
		{operation: "GET /metrics", token: "-", status: 200},
		{operation: "GET /.well-known/jwks.json", token: "-", status: 200},
		{operation: "GET /v1/openapi.yaml", token: "-", status: 200},
		{operation: "POST /v1/tokens", body: map[string]any{"vin": vin, "ttl": "1h"}, status: 201},
		{operation: "POST /v1/tokens", body: map[string]any{"vin": "no-vin"}, status: 201},
		{operation: "POST /v1/tokens", body: map[string]any{"ttl": "soon"}, status: 400},
		{operation: "POST /v1/revocations", body: map[string]any{"sub": "nobody", "reason": "lost"}, status: 201},
		{operation: "POST /v1/revocations", body: map[string]any{}, status: 400},
		{operation: "GET /v1/vehicles", status: 200},
		{operation: "GET /v1/vehicles", path: "/v1/vehicles?limit=1", status: 200},
		{operation: "GET /v1/vehicles", path: "/v1/vehicles?limit=x", status: 400},
		{operation: "GET /v1/vehicles", token: "-", status: 401},
		{operation: "GET /v1/vehicles/{vin}", path: "/v1/vehicles/" + a.vehicles()[0].VIN, status: 200},
		{operation: "GET /v1/vehicles/{vin}", path: "/v1/vehicles/" + vin, status: 404},
		{operation: "POST /v1/vehicles/{vin}/commands", path: command, body: map[string]any{"id": "a", "name": "unlock", "payload": map[string]any{"doors": "all"}, "ttl": "7d"}, status: 202},
		{operation: "POST /v1/vehicles/{vin}/commands", path: command, body: map[string]any{"id": "a", "name": "lock"}, status: 409},
		{operation: "POST /v1/vehicles/{vin}/commands", path: command, body: map[string]any{"name": "unlock", "ttl": "soon"}, status: 400},
		{operation: "GET /v1/vehicles/{vin}/commands/{id}", path: command + "/a", status: 200},
		{operation: "GET /v1/vehicles/{vin}/commands/{id}", path: command + "/b", status: 404},
		{operation: "GET /v1/commands", path: "/v1/commands?limit=1&state=queued", status: 200},
		{operation: "DELETE /v1/vehicles/{vin}/commands/{id}", path: command + "/a", status: 200},
		{operation: "GET /v1/commands", status: 200},
		{operation: "GET /v1/sessions", status: 200},
		{operation: "GET /v1/sessions", path: "/v1/sessions?cursor=!", status: 400},
		{operation: "GET /v1/sessions/{client}", path: "/v1/sessions/" + a.vehicles()[0].VIN, status: 200},
		{operation: "GET /v1/sessions/{client}", path: "/v1/sessions/billing?role=service", status: 404},
		{operation: "DELETE /v1/sessions/{client}", path: "/v1/sessions/" + a.vehicles()[0].VIN, status: 204},
		{operation: "GET /v1/trace", path: "/v1/trace", status: 400},
		{operation: "GET /v1/vehicles/{vin}/events", path: "/v1/vehicles/" + vin + "/events", status: 200},
		{operation: "GET /v1/vehicles/{vin}/commands/{id}/events", path: command + "/a/events", status: 200},
		{operation: "GET /v1/vehicles/{vin}/commands/{id}/events", path: command + "/b/events", status: 404},
		{operation: "GET /v1/events/commands", status: 200},
		{operation: "GET /v1/events/presence", status: 200},
		{operation: "GET /v1/events/ledger", status: 200},
		{operation: "GET /v1/rules", status: 200},
		{operation: "GET /v1/rules/history", status: 200},
		{operation: "GET /v1/rules/history/{hash}", path: "/v1/rules/history/none", status: 404},
		{operation: "GET /v1/rules/history/{hash}", path: "/v1/rules/history/" + a.rules(), status: 200},
		{operation: "GET /v1/dev/parts", status: 404},
		{operation: "POST /v1/dev/parts/{part}", path: "/v1/dev/parts/kafka", body: map[string]any{"running": false}, status: 404},
		{operation: "POST /v1/rules/explain", body: map[string]any{"topic": "v1/" + vin + "/up/telemetry", "payload": map[string]any{"soc": 9}}, status: 200},
		{operation: "PUT /v1/rules", body: rules, status: 200},
		{operation: "PUT /v1/rules", body: map[string]any{"files": map[string]string{"a.rules.yaml": "rules: [{}]\n"}}, status: 422},
		{operation: "POST /v1/rules/rollback", status: 200},
		{operation: "POST /v1/rules/reload", status: 200},
		{operation: "GET /v1/ledger", status: 200},
		{operation: "GET /v1/capacity", status: 200},
		{operation: "GET /v1/status", status: 200},
		{operation: "GET /v1/sync", status: 200},
		{operation: "POST /v1/sync/skip", status: 409},
		{operation: "POST /v1/sync/pause", body: map[string]any{"lane": "p1"}, status: 200},
		{operation: "POST /v1/sync/resume", body: map[string]any{"lane": "p1"}, status: 200},
		{operation: "POST /v1/rules/lift", body: map[string]any{"rule": "telemetry"}, status: 409},
		{operation: "GET /v1/gateways", status: 200},
		{operation: "DELETE /v1/gateways/{node}", path: "/v1/gateways/gw-9", status: 404},
		{operation: "DELETE /v1/gateways/{node}", path: "/v1/gateways/" + a.node(), status: 409},
		{operation: "GET /v1/losses", status: 200},
		{operation: "POST /v1/losses/acknowledge", status: 200},
		{operation: "POST /v1/drain", body: map[string]any{"rate": 1}, status: 202},
		{operation: "GET /v1/drain", status: 200},
		{operation: "DELETE /v1/drain", status: 200},
		{operation: "DELETE /v1/vehicles/{vin}/connection", path: "/v1/vehicles/" + vin + "/connection", status: 404},
		{operation: "DELETE /v1/vehicles/{vin}/connection", path: "/v1/vehicles/" + a.vehicles()[0].VIN + "/connection", status: 204},
	}
}

// rules is the hash of the rule set in force.
func (a *api) rules() string {
	_, body, err := a.g.Get("/v1/rules", a.operator)
	check.OK(a.t, err)
	var set struct{ Hash string }
	check.OK(a.t, json.Unmarshal(body, &set))
	return set.Hash
}

// node is the gateway's name.
func (a *api) node() string {
	_, body, err := a.g.Get("/v1/gateways", a.operator)
	check.OK(a.t, err)
	var list struct{ Gateways []struct{ Node string } }
	check.OK(a.t, json.Unmarshal(body, &list))
	return list.Gateways[0].Node
}

// vehicles are those of the fleet.
func (a *api) vehicles() []struct{ VIN string } {
	_, body, err := a.g.Get("/v1/vehicles", a.operator)
	check.OK(a.t, err)
	var page struct {
		Vehicles []struct{ VIN string }
	}
	check.OK(a.t, json.Unmarshal(body, &page))
	return page.Vehicles
}

// try makes a call and holds its answer.
func (a *api) try(c call) {
	a.t.Helper()
	method, path, _ := strings.Cut(c.operation, " ")
	if c.path != "" {
		path = c.path
	}
	var body io.Reader
	if c.body != nil {
		text, err := json.Marshal(c.body)
		check.OK(a.t, err)
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(a.t.Context(), method, "http://"+a.g.HTTP+path, body)
	check.OK(a.t, err)
	if r.Header.Set("Content-Type", "application/json"); c.token != "-" {
		r.Header.Set("Authorization", "Bearer "+a.operator)
	}
	resp, err := http.DefaultClient.Do(r)
	check.OK(a.t, err)
	text, err := harness.ReadAnswer(resp)
	check.OK(a.t, err)
	check.OK(a.t, resp.Body.Close())
	if resp.StatusCode != c.status {
		a.t.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, c.status, text)
	}
	if resp.StatusCode < http.StatusBadRequest {
		a.answered[c.operation] = true
	}
	if err := a.hold(c.operation, r, resp, text); err != nil {
		a.t.Errorf("%s %s: %d: %v\n%s", method, path, resp.StatusCode, err, text)
	}
}

// hold validates an answer by the document's operation.
func (a *api) hold(operation string, r *http.Request, resp *http.Response, text []byte) error {
	method, path, _ := strings.Cut(operation, " ")
	item := a.doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return errors.New("it is not in the document")
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: r, Route: &routers.Route{Spec: a.doc, Path: path, PathItem: item, Method: method, Operation: item.GetOperation(method)},
		},
		Status: resp.StatusCode, Header: resp.Header, Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if !strings.HasSuffix(kind, "json") {
		in.Options.ExcludeResponseBody = true
		if answer := item.GetOperation(method).Responses.Status(resp.StatusCode); len(text) > 0 && (answer == nil || answer.Value.Content.Get(kind) == nil) {
			return errors.New(kind + " is not in the document")
		}
	}
	return openapi3filter.ValidateResponse(a.t.Context(), in.SetBodyBytes(text))
}

// wellFormed holds the document against the OpenAPI specification, and against what generators of clients need.
func wellFormed(t *testing.T, text []byte) {
	t.Helper()
	doc := load(t, text)
	check.OK(t, doc.Validate(t.Context()))
	ids := map[string]string{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			key := method + " " + path
			if other := ids[op.OperationID]; op.OperationID == "" || other != "" {
				t.Errorf("%s: operationId %q, which %q has too", key, op.OperationID, other)
			}
			ids[op.OperationID] = key
			typed(t, key, op)
		}
	}
}

// typed holds that each answer of an operation says what is in it.
func typed(t *testing.T, key string, op *openapi3.Operation) {
	t.Helper()
	for code, answer := range op.Responses.Map() {
		if len(answer.Value.Content) == 0 && code != "204" {
			t.Errorf("%s: %s: the answer has no content", key, code)
		}
		for kind, media := range answer.Value.Content {
			if media.Schema == nil || bare(media.Schema.Value) {
				t.Errorf("%s: %s: %s: the schema is missing, or an object without properties", key, code, kind)
			}
		}
	}
}

func bare(s *openapi3.Schema) bool {
	return s.Type.Is("object") && len(s.Properties) == 0 && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil
}

func load(t *testing.T, text []byte) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(text)
	check.OK(t, err)
	return doc
}

// strict returns the document with every object closed to properties that it does not name.
func strict(t *testing.T, text []byte) []byte {
	t.Helper()
	var doc map[string]any
	check.OK(t, yaml.Unmarshal(text, &doc))
	closeObjects(doc, false)
	text, err := yaml.Marshal(doc)
	check.OK(t, err)
	return text
}

// closeObjects walks a document. Parts of an allOf are closed by the whole.
func closeObjects(v any, part bool) {
	switch v := v.(type) {
	case map[string]any:
		if _, has := v["properties"].(map[string]any); has && v["additionalProperties"] == nil && !part {
			v["additionalProperties"] = false
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			closeObjects(v[key], key == "allOf")
		}
	case []any:
		for _, item := range v {
			closeObjects(item, part)
		}
	}
}
