package authtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestOperatorsAreAudited checks that disconnects, ends of sessions, drains and changes of rules or the configuration are in the file of
// security events, with name, role and issuer of the operator.
func TestOperatorsAreAudited(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{})
	operator := g.OperatorToken()
	for _, call := range []struct {
		method, path string
		body         any
		status       int
	}{
		{"DELETE", "/v1/vehicles/" + vinA + "/connection", nil, 404},
		{"POST", "/v1/drain", map[string]any{"rate": 7}, 202},
		{"DELETE", "/v1/drain", nil, 200},
		{"POST", "/v1/rules/reload", nil, 200},
		{"DELETE", "/v1/sessions/gone", nil, 404},
	} {
		if status, answer, err := g.Do(call.method, call.path, operator, call.body); err != nil || status != call.status {
			t.Fatalf("%s %s: %d %s %v", call.method, call.path, status, answer, err)
		}
	}
	config, err := os.ReadFile(g.Config)
	if err == nil {
		err = os.WriteFile(g.Config, append(config, "limits: {messages_per_second: 77}\n"...), 0o600)
	}
	check.OK(t, err)
	g.Signal(syscall.SIGHUP)
	who := `"by":"operator tester","by_role":"operator","by_iss":"cellgate/cell-test-01"`
	for _, want := range [][]string{
		{`"disconnect"`, `"sub":"` + vinA + `"`, `"outcome":"404"`, who},
		{`"drain"`, `POST /v1/drain {\"rate\":7}`, `"outcome":"202"`, who},
		{`"drain"`, `DELETE /v1/drain`, who},
		{`"rules"`, `POST /v1/rules/reload`, who},
		{`"session"`, `"outcome":"404"`, who},
		{`"configuration"`, "SIGHUP", "limits.messages_per_second"},
	} {
		check.Eventually(t, "security event with "+strings.Join(want, " "), func() bool {
			b, err := os.ReadFile(filepath.Join(g.Dir, "data", "audit-security.log"))
			return err == nil && anyLineHas(string(b), want)
		})
	}
}

func anyLineHas(text string, parts []string) bool {
lines:
	for line := range strings.Lines(text) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		return true
	}
	return false
}
