package app

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
)

// seen is an event of a stream.
type seen struct {
	name string
	data map[string]any
}

// listen opens a stream of events. The channel is closed at its end.
func listen(t *testing.T, a *App, path, token string) <-chan seen {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.HTTPURL()+path, nil)
	check.OK(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	check.OK(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d", path, resp.StatusCode)
	}
	all := make(chan seen, 1000)
	go func() {
		defer close(all)
		e := seen{}
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				e.name = name
			} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				_ = json.Unmarshal([]byte(data), &e.data)
				all <- e
				e = seen{}
			}
		}
	}()
	return all
}

// await returns the first event that matches.
func await(t *testing.T, from <-chan seen, what string, fits func(seen) bool) seen {
	t.Helper()
	late := time.After(check.Patience)
	for {
		select {
		case e, open := <-from:
			if !open {
				t.Fatalf("the stream ended before %s", what)
			}
			if fits(e) {
				return e
			}
		case <-late:
			t.Fatalf("no %s", what)
		}
	}
}

func TestStreamsShowWhatHappensToAVehicle(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	check.OK(t, err)
	vin := fleet.VIN(0)
	vehicle, presence, ledger := listen(t, a, "/v1/vehicles/"+vin+"/events", token), listen(t, a, "/v1/events/presence", token), listen(t, a, "/v1/events/ledger", token)
	commands := listen(t, a, "/v1/events/commands", token)
	is := func(name, field string, value any) func(seen) bool {
		return func(e seen) bool { return e.name == name && e.data[field] == value }
	}
	await(t, vehicle, "the presence at the beginning", is("presence", "event", "disconnected"))
	drive(t, a, 0)
	await(t, vehicle, "presence", is("presence", "event", "connected"))
	if m := await(t, vehicle, "message", is("message", "vin", vin)); m.data["payload"] == nil || m.data["received_at"] == nil {
		t.Errorf("%v", m.data)
	}
	await(t, presence, "presence of all", is("presence", "vin", fleet.VIN(1)))
	await(t, ledger, "ledger", func(e seen) bool { return e.name == "ledger" && e.data["sinks"] != nil })

	away := fleet.VIN(100) // has no session, so that its command stays where it is
	vehicle = listen(t, a, "/v1/vehicles/"+away+"/events", token)
	cmd, _, err := a.commands.Create(t.Context(), command.Request{ID: "c-1", VIN: away, Name: "unlock", Caller: command.Caller{By: "tester"}})
	check.OK(t, err)
	one := listen(t, a, "/v1/vehicles/"+away+"/commands/"+cmd.ID+"/events", token)
	await(t, one, "the state at the beginning", is("state", "state", "queued"))
	await(t, vehicle, "the vehicle's command", is("command", "state", "queued"))
	_, err = a.commands.Cancel(t.Context(), command.Caller{By: "tester"}, away, cmd.ID)
	check.OK(t, err)
	await(t, one, "the change", is("command", "state", "cancelled"))
	await(t, one, "the end", is("end", "reason", "final"))
	await(t, commands, "the change among all", is("command", "state", "cancelled"))
}

// TestStreamsEndWithTheTokenAndDoNotHoldUpAStop: revoking ends a stream, and so does a stop, at once.
func TestStreamsEndWithTheTokenAndDoNotHoldUpAStop(t *testing.T) {
	t.Parallel()
	a, log := boot(t, write(t, t.TempDir(), ""))
	issue := func(name string) string {
		token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: name, Role: auth.RoleService, Scopes: []string{auth.ScopeTelemetryRead}})
		check.OK(t, err)
		return token
	}
	operator, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "revoked", Role: auth.RoleOperator})
	check.OK(t, err)
	traced := listen(t, a, "/v1/trace?vin=X", operator)
	revoked, kept := listen(t, a, "/v1/events/ledger", issue("revoked")), listen(t, a, "/v1/vehicles/X/events", issue("kept"))
	_, err = a.Authority().Revoke(auth.Revocation{Subject: "revoked"}, auth.Caller{})
	check.OK(t, err)
	ended := func(reason string) func(seen) bool {
		return func(e seen) bool { return e.name == "end" && e.data["reason"] == reason }
	}
	await(t, revoked, "the end", ended("token"))
	await(t, traced, "the end of the trace", ended("token"))
	halt(t, a)
	await(t, kept, "the end", ended("shutdown"))
	if strings.Contains(log.String(), "http requests were cut off") {
		t.Error("the stop waited for a stream")
	}
}

func TestOneSubjectHasAShareOfTheStreams(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	check.OK(t, err)
	for range 7 {
		listen(t, a, "/v1/events/ledger", token)
	}
	listen(t, a, "/v1/trace?vin=X", token) // is one of them
	for _, path := range []string{"/v1/events/ledger", "/v1/trace?vin=Y"} {
		var no struct{ Status int }
		if code := get(t, a, path, token, &no); code != http.StatusTooManyRequests {
			t.Errorf("the ninth, %s: %d", path, code)
		}
	}
}
