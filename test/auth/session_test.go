package authtest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"cellgate/auth"
	"cellgate/test/harness"
)

// TestMatrixClientID enumerates role × client identifier × version: who may connect as whom.
func TestMatrixClientID(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i, n := issuerOf(t, g), 0
	rows := []row{
		{"{me}", "V0TSRAOBL"},
		{"{me}/a/b", "0TSRAOBL"},
		{"", "0TSRAOL"},
		{"{me}x", ""},
		{"x/{me}", ""},
		{"{other}", ""},
		{vinA, "V"},
		{strings.ToLower(vinA), ""},
		{"svc", ""},
		{"auto-x", ""},
	}
	for _, a := range actors(i) {
		for _, r := range rows {
			for _, version := range []byte{4, 5} {
				if a.letter == "v" {
					continue // without a token, the identifier is who it is
				}
				m, code := open(t, g.MQTT, connect{id: r.at(a), user: a.name, password: a.token, version: version})
				if (code == 0) != r.allows(a) {
					t.Errorf("%s on %d as %q: 0x%02x, allowed %v", a.name, version, r.at(a), code, r.allows(a))
				}
				m.leave()
				n++
			}
		}
	}
	if _, code := open(t, g.MQTT, connect{id: vinA, user: vinB, password: i.vehicle(vinA), version: 5}); code != reasonBadCredentials {
		t.Errorf("a vehicle with another's user name: 0x%02x", code)
	}
	awaitAudit(t, g, `"event":"refuse"`, `"reason":"client-id"`, `"sub":"`+vinA, `"from":"127.0.0.1:`)
	t.Logf("%d client identifiers", n)
}

// TestMatrixResumedSession: a session that was filled under one token is held against the next one: what it
// subscribed to and what waits in its queue.
func TestMatrixResumedSession(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i := issuerOf(t, g)
	car := mustOpen(t, g.MQTT, connect{id: vinB, password: i.vehicle(vinB), version: 5})
	up, res := "v1/"+vinB+"/up/telemetry", "v1/"+vinB+"/res/c1/succeeded"
	wide := i.service("svc", auth.ScopeTelemetryRead, auth.ScopeCommandRead)
	operator, _ := i.issue(auth.IssueRequest{Subject: "svc", Role: auth.RoleOperator, Scopes: []string{auth.ScopeCommandRead}})
	narrow := map[string]string{
		"service-without-the-scope": i.service("svc", auth.ScopeCommandRead),
		"role-of-the-configuration": mustIssue(i, "svc", "bench"),
		"operator-without-scopes":   operator,
		"control":                   wide,
	}
	for name, token := range narrow {
		for _, version := range []byte{4, 5} {
			id := fmt.Sprintf("svc/%s/%d", name, version)
			first := mustOpen(t, g.MQTT, connect{id: id, password: wide, version: version, keep: true})
			if code := first.subscribe("v1/+/up/#"); code >= 0x80 {
				t.Fatalf("%s: subscribe 0x%02x", name, code)
			}
			first.leave()
			car.mustPublish(publish{topic: up, payload: "queued", qos: 1})
			m, connack := tryOpen(t, g.MQTT, connect{id: id, password: token, version: version, keep: true})
			present := byte(1) // for who has the same role
			if token == operator || name == "role-of-the-configuration" {
				present = 0
			}
			if len(connack) < 2 || connack[0] != present || connack[1] != 0 {
				t.Fatalf("%s on %d: CONNACK % x, want %d for the session", name, version, connack, present)
			}
			car.mustPublish(publish{topic: up, payload: "live", qos: 1})
			fence := res
			if name == "role-of-the-configuration" {
				fence = "bench/svc/fence"
				m.subscribe("bench/svc/#")
				m.mustPublish(publish{topic: fence, qos: 1})
			} else {
				m.subscribe("v1/+/res/#")
				car.mustPublish(publish{topic: res, payload: "fence", qos: 1})
			}
			m.await(fence)
			var payloads []string
			for _, d := range m.received() {
				if d.topic == up {
					payloads = append(payloads, d.payload)
				}
			}
			if want := map[bool]int{true: 2}[name == "control"]; len(payloads) != want {
				t.Errorf("%s on %d was sent %v from foreign topics, want %d", name, version, payloads, want)
			}
			m.leave()
		}
	}
}

// TestMatrixNarrowedInSession: a refreshed token, and a role that is reloaded, count from then on for subscriptions
// that exist.
func TestMatrixNarrowedInSession(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i := issuerOf(t, g)
	car := mustOpen(t, g.MQTT, connect{id: vinB, password: i.vehicle(vinB), version: 5})
	up, res := "v1/"+vinB+"/up/telemetry", "v1/"+vinB+"/res/c1/succeeded"
	m := mustOpen(t, g.MQTT, connect{id: "svc", password: i.service("svc", auth.ScopeTelemetryRead, auth.ScopeCommandRead), version: 5, method: "CELL-JWT"})
	m.subscribe("v1/+/up/#")
	m.subscribe("v1/+/res/#")
	car.mustPublish(publish{topic: up, qos: 1})
	m.await(up)
	if code, err := m.authenticate(i.service("svc", auth.ScopeCommandRead)); code != 0 || err != nil {
		t.Fatalf("AUTH: 0x%02x, %v", code, err)
	}
	before := len(m.received())
	car.mustPublish(publish{topic: up, payload: "crossing", qos: 1})
	car.mustPublish(publish{topic: res, qos: 1})
	m.await(res)
	if got := m.received()[before:]; len(got) != 1 {
		t.Errorf("crossing: after the refresh it was sent %+v", got)
	}

	lab := mustOpen(t, g.MQTT, connect{id: "lab-1", password: mustIssue(i, "lab-1", "lab"), version: 5})
	lab.subscribe("#")
	text, err := os.ReadFile(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `subscribe: ["#"], deny_subscribe: ["test/nosubscribe"]`, `subscribe: ["#"], deny_subscribe: ["v1/+/up/#"]`, 1)
	if changed == string(text) {
		t.Fatal("the configuration has no role lab")
	}
	if err := os.WriteFile(g.Config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Signal(syscall.SIGHUP)
	eventually(t, "reload", func() bool { return strings.Contains(logs(t, g), `"msg":"reloaded"`) })
	car.mustPublish(publish{topic: up, payload: "crossing", qos: 1})
	car.mustPublish(publish{topic: res, qos: 1})
	lab.await(res)
	for _, d := range lab.received() {
		if d.topic == up {
			t.Errorf("crossing: after the reload the role was sent %+v", d)
		}
	}
}
