package dev

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// operation is one call of the OpenAPI document.
type operation struct{ ID, Summary, Scope any }

// document fetches the OpenAPI document of a running gateway, by method and path.
func (g *gateway) document() map[string]operation {
	g.t.Helper()
	resp, err := http.Get(g.App.HTTPURL() + "/v1/openapi.yaml")
	check.OK(g.t, err)
	defer resp.Body.Close() //nolint:errcheck // read below
	body, err := io.ReadAll(resp.Body)
	check.OK(g.t, err)
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	check.OK(g.t, yaml.Unmarshal(body, &doc))
	all := make(map[string]operation)
	for path, methods := range doc.Paths {
		for method, about := range methods {
			if op, ok := about.(map[string]any); ok { // parameters of all methods are a list
				all[strings.ToUpper(method)+" "+path] = operation{op["operationId"], op["summary"], op["x-scope"]}
			}
		}
	}
	return all
}

// Every documented call answers, asks for the scope that it is documented with, and for no less; and the
// table of scopes knows it under the same scope.
func TestTheAPIIsAsDocumented(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	doc := g.document()
	if len(doc) < 20 {
		t.Fatalf("only %d calls in the document", len(doc))
	}
	nothing := g.issue(auth.IssueRequest{Subject: "nobody", Role: auth.RoleService})
	vehicle := g.vehicleToken("LTEST000000000001")
	for _, call := range slices.Sorted(maps.Keys(doc)) {
		op := doc[call]
		method, path, _ := strings.Cut(call, " ")
		e, known := auth.EndpointFor(method, path)
		if !known || e.Scope != op.Scope || op.Summary == nil || op.ID == nil {
			t.Errorf("%s: documented as %+v, the table says %+v", call, op, e)
		}
		path = strings.NewReplacer("{vin}", "LTEST000000000001", "{id}", "none").Replace(path)
		bare, poor, own := g.call(method, path, "", nil, nil), g.call(method, path, nothing, nil, nil), g.call(method, path, vehicle, nil, nil)
		switch op.Scope {
		case auth.ScopePublic:
			if bare != http.StatusOK {
				t.Errorf("%s without a token: %d", call, bare)
			}
			continue
		case auth.ScopeAny:
			if poor != http.StatusOK {
				t.Errorf("%s with a token without scopes: %d", call, poor)
			}
		default:
			if poor != http.StatusForbidden {
				t.Errorf("%s with a token without scopes: %d", call, poor)
			}
		}
		if bare != http.StatusUnauthorized || own != http.StatusUnauthorized {
			t.Errorf("%s: %d without a token and %d with a vehicle's, want 401", call, bare, own)
		}
	}
}

func TestErrorsAreProblemDocuments(t *testing.T) {
	t.Parallel()
	g := start(t, t.TempDir())
	for call, want := range map[string]int{
		"GET /nothing":        http.StatusNotFound,
		"PATCH /v1/rules":     http.StatusMethodNotAllowed,
		"GET /v1/vehicles/X":  http.StatusNotFound,
		"GET /debug/pprof/":   http.StatusOK,
		"POST /v1/drain":      http.StatusAccepted,
		"GET /v1/openapi.yml": http.StatusNotFound,
	} {
		method, path, _ := strings.Cut(call, " ")
		status, head, _, err := harness.Call(t.Context(), method, g.App.HTTPURL()+path, g.operator, nil)
		check.OK(t, err)
		kind := head.Get("Content-Type")
		if status != want || (want >= 400 && kind != "application/problem+json") {
			t.Errorf("%s: %d %s, want %d", call, status, kind, want)
		}
	}
	if status := g.call(http.MethodGet, "/debug/pprof/", "", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("the profiler answers strangers: %d", status)
	}
}
