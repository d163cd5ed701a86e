package authtest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// TestMatrixClientID enumerates role × client identifier × version: who may use which identifier.
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
					continue // without a token, the identifier is the identity
				}
				m, code := open(t, g.MQTT, connect{id: r.at(a), user: a.name, password: a.token, version: version})
				if want := codeOf(r, a, version); code != want {
					t.Errorf("%s on %d as %q: 0x%02x, want 0x%02x", a.name, version, r.at(a), code, want)
				}
				leave(m)
				n++
			}
		}
	}
	if _, code := open(t, g.MQTT, connect{id: vinA, user: vinB, password: i.vehicle(vinA), version: 5}); code != reasonBadCredentials {
		t.Errorf("a vehicle with another's user name: 0x%02x", code)
	}
	for _, reason := range []string{"client-id", "user-name"} {
		awaitAudit(t, g, `"event":"refuse"`, `"reason":"`+reason+`"`, `"sub":"`+vinA, `"from":"127.0.0.1:`)
	}
	t.Logf("%d client identifiers", n)
}

// codeOf returns the code of the CONNACK for a client identifier.
func codeOf(r row, a actor, version byte) byte {
	switch {
	case r.allows(a):
		return 0
	case r.topic == "":
		return map[byte]byte{4: 2, 5: 0x85}[version]
	}
	return map[byte]byte{4: 5, 5: reasonNotAuthorized}[version]
}

// TestMatrixResumedSession checks a session that was filled under one token against the next one: its subscriptions and
// its queue.
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
			if code := subscribe(first, "v1/+/up/#"); code >= 0x80 {
				t.Fatalf("%s: subscribe 0x%02x", name, code)
			}
			leave(first)
			car.Publish(mqtt.Publish{Topic: up, Payload: "queued", QoS: 1})
			m, ack := tryOpen(t, g.MQTT, connect{id: id, password: token, version: version, keep: true})
			present := byte(1) // for an identity with the same role
			if token == operator || name == "role-of-the-configuration" {
				present = 0
			}
			if ack.Type == 0 || ack.Present != present || ack.Reason != 0 {
				t.Fatalf("%s on %d: %v, %d for the session, want %d", name, version, ack, ack.Present, present)
			}
			car.Publish(mqtt.Publish{Topic: up, Payload: "live", QoS: 1})
			fence := res
			if name == "role-of-the-configuration" {
				fence = "bench/svc/fence"
				subscribe(m, "bench/svc/#")
				m.Publish(mqtt.Publish{Topic: fence, QoS: 1})
			} else {
				subscribe(m, "v1/+/res/#")
				car.Publish(mqtt.Publish{Topic: res, Payload: "fence", QoS: 1})
			}
			m.AwaitTopic(fence)
			var payloads []string
			for _, d := range m.Received() {
				if d.Topic == up {
					payloads = append(payloads, d.Payload)
				}
			}
			if want := map[bool]int{true: 2}[name == "control"]; len(payloads) != want {
				t.Errorf("%s on %d was sent %v from foreign topics, want %d", name, version, payloads, want)
			}
			leave(m)
		}
	}
}

// TestMatrixNarrowedInSession checks that a refreshed token and a reloaded role apply at once to existing
// subscriptions.
func TestMatrixNarrowedInSession(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i := issuerOf(t, g)
	car := mustOpen(t, g.MQTT, connect{id: vinB, password: i.vehicle(vinB), version: 5})
	up, res := "v1/"+vinB+"/up/telemetry", "v1/"+vinB+"/res/c1/succeeded"
	m := mustOpen(t, g.MQTT, connect{id: "svc", password: i.service("svc", auth.ScopeTelemetryRead, auth.ScopeCommandRead), version: 5, method: "CELL-JWT"})
	subscribe(m, "v1/+/up/#")
	subscribe(m, "v1/+/res/#")
	car.Publish(mqtt.Publish{Topic: up, QoS: 1})
	m.AwaitTopic(up)
	if code, err := authenticate(m, i.service("svc", auth.ScopeCommandRead)); code != 0 || err != nil {
		t.Fatalf("AUTH: 0x%02x, %v", code, err)
	}
	before := len(m.Received())
	car.Publish(mqtt.Publish{Topic: up, Payload: "crossing", QoS: 1})
	car.Publish(mqtt.Publish{Topic: res, QoS: 1})
	m.AwaitTopic(res)
	if got := m.Received()[before:]; len(got) != 1 {
		t.Errorf("crossing: after the refresh it was sent %+v", got)
	}

	lab := mustOpen(t, g.MQTT, connect{id: "lab-1", password: mustIssue(i, "lab-1", "lab"), version: 5})
	subscribe(lab, "#")
	g.Change(`subscribe: ["#"], deny_subscribe: ["test/nosubscribe"]`, `subscribe: ["#"], deny_subscribe: ["v1/+/up/#"]`)
	g.Signal(syscall.SIGHUP)
	check.Eventually(t, "reload", func() bool { return strings.Contains(logs(t, g), `"msg":"reloaded"`) })
	car.Publish(mqtt.Publish{Topic: up, Payload: "crossing", QoS: 1})
	car.Publish(mqtt.Publish{Topic: res, QoS: 1})
	lab.AwaitTopic(res)
	for _, d := range lab.Received() {
		if d.Topic == up {
			t.Errorf("crossing: after the reload the role was sent %+v", d)
		}
	}
}
