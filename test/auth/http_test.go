package authtest

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestEndpointScopes calls every endpoint of the table with every kind of token and without one.
func TestEndpointScopes(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles})
	i, calls := issuerOf(t, g), 0
	all := map[string]string{"": "", "vehicle": i.vehicle(vinA), "lab": mustIssue(i, "lab-1", "lab"), "none": i.service("svc-none")}
	for _, s := range auth.Scopes() {
		all[s] = i.service("svc-"+strings.ReplaceAll(s, ":", "-"), s)
	}
	for _, e := range auth.EndpointScopes() {
		if e.Path == "/v1/drain" && e.Method == "POST" {
			continue // it would end the test's connections; other rows have the same scope
		}
		path := strings.NewReplacer("{vin}", vinA, "{id}", "c1").Replace(e.Path)
		var content any
		if e.Path == "/v1/revocations" {
			content = map[string]string{"jti": "of-no-token"} // the least that token:issue may revoke
		}
		for name, token := range all {
			status, body, err := g.Do(e.Method, path, token, content)
			check.OK(t, err)
			calls++
			if want := expected(e, name); !fits(status, want) {
				t.Errorf("%s %s with %q: %d %.80s, want %d", e.Method, e.Path, name, status, body, want)
			}
		}
	}
	t.Logf("%d calls", calls)
}

// expected returns the expected status, or 0 for an admitted call.
func expected(e auth.Endpoint, token string) int {
	trusted := token == "none" || strings.Contains(token, ":")
	switch {
	case e.Scope == auth.ScopePublic, trusted && e.Admits(&auth.Identity{Scopes: []string{token}}):
		return 0
	case !trusted:
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

func fits(status, want int) bool {
	if want == 0 {
		return status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusMethodNotAllowed
	}
	return status == want
}

// TestRoutesAreInTheTable finds every route that the gateway's code mounts, by its text, in the table of scopes or
// among the profiler's, which are for operators.
func TestRoutesAreInTheTable(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(`"(GET|POST|PUT|PATCH|DELETE)(?: |", ")(/[^"]*)"`)
	found := 0
	for _, dir := range []string{"cmd/cellgate/app", "broker/command"} {
		err := filepath.WalkDir(filepath.Join(harness.Root(), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
				found++
				if _, ok := auth.EndpointFor(m[1], m[2]); !ok && !strings.HasPrefix(m[2], "/debug/pprof/") {
					t.Errorf("%s mounts %s %s, which the table of scopes does not have", filepath.Base(path), m[1], m[2])
				}
			}
			return err
		})
		check.OK(t, err)
	}
	if served := len(auth.EndpointScopes()); found < served {
		t.Errorf("%d routes found in the code, %d in the table", found, served)
	}
}

// TestOpenAPIScopes compares the served document with the table, in both directions.
func TestOpenAPIScopes(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	_, body, err := g.Get("/v1/openapi.yaml", "")
	check.OK(t, err)
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	check.OK(t, yaml.Unmarshal(body, &doc))
	documented := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, call := range methods {
			method = strings.ToUpper(method)
			about, isCall := call.(map[string]any)
			if !isCall || method == "PARAMETERS" {
				continue
			}
			documented[method+" "+path] = true
			e, ok := auth.EndpointFor(method, path)
			if !ok || about["x-scope"] != e.Scope {
				t.Errorf("%s %s: documented scope %v, table %q", method, path, about["x-scope"], e.Scope)
			}
		}
	}
	for _, e := range auth.EndpointScopes() {
		if key := e.Method + " " + e.Path; !documented[key] {
			t.Errorf("%s is not documented", key)
		}
	}
}

// TestProfilerIsTheOperators checks that paths outside the table are open to operators at most.
func TestProfilerIsTheOperators(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true})
	i := issuerOf(t, g)
	for token, want := range map[string]int{"": 401, i.vehicle(vinA): 401, i.service("svc", auth.Scopes()...): 403, i.operator(): 200} {
		if status, _, err := g.Get("/debug/pprof/cmdline", token); err != nil || status != want {
			t.Errorf("profiler: %d, want %d, %v", status, want, err)
		}
	}
}

// TestInsecureHTTP checks that the gateway does not start without TLS on other than loopback addresses unless the
// configuration allows it.
func TestInsecureHTTP(t *testing.T) {
	t.Parallel()
	g := harness.PrepareGateway(t, harness.Options{NoRules: true})
	g.Change(fmt.Sprintf("http: {address: %q}", g.HTTP), `http: {address: "0.0.0.0:0"}`)
	for _, command := range [][]string{{"config", "check", g.Config}, {"run", "--config", g.Config}} {
		if _, err := harness.RunCellgate(t, g.Dir, command...); err == nil || !strings.Contains(err.Error(), "http.address") || !strings.Contains(err.Error(), "allow_insecure") {
			t.Errorf("%v: %v", command, err)
		}
	}
	g.Change(`http: {address: "0.0.0.0:0"}`, `http: {address: "0.0.0.0:0", allow_insecure: true}`)
	out, err := harness.RunCellgate(t, g.Dir, "config", "check", g.Config)
	if err != nil || !strings.Contains(out, "warning:") || !strings.Contains(out, "http.allow_insecure") {
		t.Errorf("%s, %v", out, err)
	}
}
