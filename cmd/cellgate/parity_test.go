package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cellgate/auth"
	"cellgate/test/check"
)

// withoutCommand lists the calls that no command makes, and why.
var withoutCommand = map[string]string{
	"GET /healthz":               "for probes; `status` tells more",
	"GET /readyz":                "for probes; `status` tells more",
	"GET /metrics":               "for Prometheus",
	"GET /.well-known/jwks.json": "for whoever verifies the cell's tokens; `token rotate --list` shows the keys",
	"GET /v1/openapi.yaml":       "for programs that call the API",
}

// TestEveryCallHasACommand: what the API can do, an operator can do at the command line.
func TestEveryCallHasACommand(t *testing.T) {
	t.Parallel()
	rules := filepath.Join(t.TempDir(), "a.rules.yaml")
	check.OK(t, os.WriteFile(rules, []byte("rules: []\n"), 0o600))
	api := recordCalls(t)
	for _, line := range []string{
		"token issue --vin LTEST000000000001", "token revoke --sub LTEST000000000001",
		"vehicles", "vehicles LTEST000000000001", "vehicles disconnect LTEST000000000001",
		"sessions list", "sessions show a/b --role service", "sessions end a/b --role service",
		"gateways list", "losses list", "losses acknowledge", "gateways forget gw-2 --yes",
		"drain --rate 1", "drain --status", "drain --stop",
		"command send --vin LTEST000000000001 --name unlock", "command cancel A --vin LTEST000000000001", "command status A --vin LTEST000000000001",
		"command list", "rules status", "rules apply " + rules + " --allow-empty", "rules reload", "rules rollback", "rules lift r",
		"rules explain --vin LTEST000000000001", "trace --vin LTEST000000000001", "sync status", "sync skip p0", "sync pause p1", "sync resume p1",
		"rules history", "rules history a", "dev parts", "dev stop kafka",
		"events --vin V", "events --vin V --command A", "events --commands", "events --presence", "events --ledger", "status", "capacity",
	} {
		var out bytes.Buffer
		_ = run(append(strings.Fields(line), "--api", api.url, "--token", "t"), nil, strings.NewReader(""), &out, &out) // what is asked counts, not what is made of the answer
	}
	for _, e := range auth.EndpointScopes() {
		route := e.Method + " " + e.Path
		why, without := withoutCommand[route]
		switch called := api.called(route); {
		case !called && !without:
			t.Errorf("%s: no command of this test's calls it: write one, or say why there is none", route)
		case called && without:
			t.Errorf("%s: a command calls it, and it is said that none does: %s", route, why)
		}
	}
}

// calls are the requests of a server.
type calls struct {
	url  string
	mu   sync.Mutex
	seen []string
}

func recordCalls(t *testing.T) *calls {
	t.Helper()
	c := &calls{}
	mux := http.NewServeMux()
	for _, e := range auth.EndpointScopes() {
		mux.HandleFunc(e.Method+" "+e.Path, func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.seen = append(c.seen, r.Pattern)
			c.mu.Unlock()
			_, _ = w.Write([]byte("{}"))
		})
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *calls) called(route string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.seen, route)
}

// TestCompletion: the shell gets what the gateway knows, and fixed values.
func TestCompletion(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"/v1/gateways": `{"gateways": [{"node": "gw-1", "lives": true}, {"node": "gw-2"}], "waiting": [{"node": "gw-2"}, {"node": "gw-3"}]}`,
		"/v1/vehicles": `{"vehicles": [{"vin": "LTEST000000000001"}, {"vin": "LTEST000000000002"}, {"vin": "WTEST000000000003"}]}`,
		"/v1/rules":    `{"rules": [{"id": "alarms", "from": ["v1/+/up/alarm"]}, {"id": "low-battery", "from": ["v1/+/up/telemetry"]}]}`,
		"/v1/commands": `{"commands": [{"id": "A1"}, {"id": "B2"}]}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answers[r.URL.Path])) }))
	t.Cleanup(s.Close)
	for line, want := range map[string]string{
		"vehicles L":                             "LTEST000000000001 LTEST000000000002",
		"vehicles disconnect W":                  "WTEST000000000003",
		"trace --vin LTEST000000000002":          "LTEST000000000002",
		"trace --rule ":                          "alarms low-battery",
		"trace --topic v1/+/up/a":                "v1/+/up/alarm",
		"gateways forget g":                      "gw-2 gw-3",
		"rules lift l":                           "low-battery",
		"command send --vin W":                   "WTEST000000000003",
		"command cancel A":                       "A1",
		"command list --state s":                 "sent succeeded",
		"command list --state l":                 "late",
		"command watch B":                        "B2",
		"command list --vin W":                   "WTEST000000000003",
		"events --command A":                     "A1",
		"sessions show L":                        "LTEST000000000001 LTEST000000000002",
		"rules explain --vin W":                  "WTEST000000000003",
		"token revoke --sub W":                   "WTEST000000000003",
		"sync skip ":                             "p0 p1 p2",
		"token issue --service a --scope rules:": "rules:admin",
	} {
		words := strings.Split(line, " ")
		typed := words[len(words)-1]
		args := append([]string{"__complete"}, words[:len(words)-1]...)
		if !strings.HasPrefix(line, "token issue") && words[0] != "sync" {
			i := slices.IndexFunc(args, func(s string) bool { return strings.HasPrefix(s, "--") })
			if i < 0 {
				i = len(args)
			}
			args = slices.Insert(args, i, "--api="+s.URL, "--token=t")
		}
		check.Within(t, check.Patience, line, func() error { // an answer that is late completes nothing
			var out, errOut bytes.Buffer
			code := run(append(args, typed), nil, strings.NewReader(""), &out, &errOut)
			var got []string
			for l := range strings.Lines(out.String()) {
				if l = strings.TrimSpace(l); !strings.HasPrefix(l, ":") {
					got = append(got, l)
				}
			}
			if code != exitDone || strings.Join(got, " ") != want {
				return fmt.Errorf("exit %d, %q, want %q: %s", code, got, want, errOut.String())
			}
			return nil
		})
	}
}
