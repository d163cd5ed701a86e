package auth

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestReadmeTable compares the documentation's table of scopes with EndpointScopes.
func TestReadmeTable(t *testing.T) {
	t.Parallel()
	b := check.Read(t, "README.md")
	var documented []Endpoint
	row := regexp.MustCompile("(?m)^\\| ([A-Z]+) \\| `([^`]+)` \\| ([a-z: ]+) \\|$")
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		documented = append(documented, Endpoint{m[1], m[2], m[3]})
	}
	if !slices.Equal(documented, EndpointScopes()) {
		t.Errorf("README.md has %d rows that differ from the %d of EndpointScopes", len(documented), len(EndpointScopes()))
	}
}

func TestEndpointScopes(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, e := range EndpointScopes() {
		call := e.Method + " " + e.Path
		if !knownScope(strings.TrimSuffix(e.Scope, ScopeReading)) && e.Scope != ScopePublic && e.Scope != ScopeAny {
			t.Errorf("%s: scope %q", call, e.Scope)
		}
		if seen[call] {
			t.Errorf("%s occurs twice", call)
		}
		seen[call] = true
		if e.Scope == ScopePublic && strings.HasPrefix(e.Path, "/v1/") && e.Path != "/v1/openapi.yaml" {
			t.Errorf("%s is open to anyone", call)
		}
		if got, ok := EndpointFor(e.Method, e.Path); !ok || got != e {
			t.Errorf("%s is not found", call)
		}
	}
	if _, ok := EndpointFor("GET", "/nowhere"); ok {
		t.Error("found what is not there")
	}
	for _, s := range Scopes() {
		if !knownScope(s) {
			t.Errorf("scope %s is not known", s)
		}
	}
}
