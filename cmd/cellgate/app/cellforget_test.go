package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// lose ends a gateway permanently, with its disk, once another one knows it as a member.
func (r *rig) lose(gw, known int) {
	r.t.Helper()
	r.remembers(known, r.gw[gw].cfg.Cell.Node, true)
	halt(r.t, r.gw[gw])
	check.OK(r.t, os.RemoveAll(string(r.gw[gw].cfg.DataDir)))
}

// remembers waits until a name is, or is not, among the members that a gateway remembers.
func (r *rig) remembers(gw int, node string, want bool) {
	r.t.Helper()
	m := r.gw[gw].member
	check.Within(r.t, 2*time.Minute, "members that are remembered", func() error {
		m.work.Lock()
		defer m.work.Unlock()
		if got := slices.Contains(m.memory[0].Members, node); got != want {
			return fmt.Errorf("%v", m.memory[0].Members)
		}
		return nil
	})
}

// waitsFor waits until commands at a gateway are refused with the name of a missing member.
func (r *rig) waitsFor(gw int, node string) {
	r.t.Helper()
	check.Within(r.t, 2*time.Minute, "commands are refused", func() error {
		status, _, text := r.command(gw, "refused")
		if status != 503 || !strings.Contains(text, node) {
			return fmt.Errorf("%d: %s", status, text)
		}
		return nil
	})
	var list GatewayList
	if get(r.t, r.gw[gw], "/v1/gateways", operator(r.t, r.gw[gw]), &list); !slices.Contains(list.Waiting, WaitedFor{node, 1}) {
		r.t.Errorf("%+v", list)
	}
}

// securityLog returns the path of a gateway's security log.
func securityLog(t *testing.T, file string) string {
	t.Helper()
	var found string
	check.OK(t, filepath.WalkDir(filepath.Dir(file), func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, "-security.log") {
			found = path
		}
		return err
	}))
	return found
}

const absent = "LAWAY00000000001"

// command asks a gateway for a command to a vehicle that is not connected.
func (r *rig) command(gw int, id string) (status int, c command.Command, text string) {
	r.t.Helper()
	a := r.gw[gw]
	body := map[string]any{"id": id, "name": "lock", "ttl": "30s"}
	status, _, answer, err := harness.Call(r.t.Context(), http.MethodPost, a.HTTPURL()+"/v1/vehicles/"+absent+"/commands", operator(r.t, a), body)
	check.OK(r.t, err)
	if status < 300 {
		check.OK(r.t, json.Unmarshal(answer, &c))
	}
	return status, c, string(answer)
}

// forget asks a gateway to forget another one.
func (r *rig) forget(gw int, node string) (status int, done ForgottenGateway, text string) {
	r.t.Helper()
	a := r.gw[gw]
	status, _, answer, err := harness.Call(r.t.Context(), http.MethodDelete, a.HTTPURL()+"/v1/gateways/"+node, operator(r.t, a), nil)
	check.OK(r.t, err)
	if status < 300 {
		check.OK(r.t, json.Unmarshal(answer, &done))
	}
	return status, done, string(answer)
}

// TestForgetAfterAFlush: with a gateway's disk lost and Redis flushed, commands are refused until the gateway is
// forgotten.
func TestForgetAfterAFlush(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.opened()
	if status, _, text := r.command(0, "before"); status != 202 {
		t.Fatalf("%d: %s", status, text)
	}
	r.lose(1, 0)
	r.redis.FlushAll()
	r.waitsFor(0, "gw-2")
	check.Within(t, check.Patience, "it has had the time for a heartbeat", func() error { return knows(r.gw[0], "gw-1") })
	if status, done, text := r.forget(0, "gw-2"); status != 200 || done.Slots != 1 || len(done.Waiting) != 0 {
		t.Fatalf("%d: %s", status, text)
	}
	if status, _, text := r.command(0, "after"); status != 202 {
		t.Errorf("%d: %s", status, text)
	}
	if status, done, text := r.forget(0, "gw-2"); status != 200 || done.Slots != 0 {
		t.Errorf("once more: %d: %s", status, text)
	}
	var list GatewayList
	if get(t, r.gw[0], "/v1/gateways", operator(t, r.gw[0]), &list); len(list.Waiting) != 0 || len(list.Gateways) != 1 {
		t.Errorf("%+v", list)
	}
	text, err := os.ReadFile(securityLog(t, r.files[0]))
	if err != nil || !strings.Contains(string(text), `"gateway-forget"`) || !strings.Contains(string(text), "/v1/gateways/gw-2") || !strings.Contains(string(text), "olga") {
		t.Errorf("%v: %s", err, text)
	}
	halt(t, r.gw[0]) // it stays forgotten over a restart, and the next flush
	r.gw[0], _ = boot(t, r.files[0])
	r.opened()
	r.remembers(0, "gw-2", false)
	r.redis.FlushAll()
	check.Within(t, check.Patience, "commands go on", func() error {
		if status, _, text := r.command(0, "later"); status != 202 {
			return fmt.Errorf("%d: %s", status, text)
		}
		return nil
	})
}

// TestForgottenCommandsAreUnknown: commands accepted by a forgotten gateway end as unknown after Redis was replaced:
// that gateway may have sent them. They are neither sent nor cancelled.
func TestForgottenCommandsAreUnknown(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	r.opened()
	if status, _, text := r.command(1, "its"); status != 202 {
		t.Fatalf("%d: %s", status, text)
	}
	r.remembers(2, "gw-2", true)
	r.lose(1, 0)
	r.redis.HSet("cellgate:cell-1:mark", "salt", "another") // a failover that loses nothing
	r.gw[0].member.joinAgain()
	r.waitsFor(0, "gw-2")
	check.Within(t, check.Patience, "it has had the time for a heartbeat", func() error { return knows(r.gw[0], "gw-1", "gw-3") })
	if status, _, text := r.forget(0, "gw-2"); status != 200 {
		t.Fatalf("%d: %s", status, text)
	}
	r.remembers(0, "gw-2", false)
	r.remembers(2, "gw-2", false)
	check.Within(t, check.Patience, "commands go on", func() error {
		if status, _, text := r.command(2, "after"); status != 202 {
			return fmt.Errorf("%d: %s", status, text)
		}
		return nil
	})
	check.Within(t, 2*time.Minute, "it ends", func() error {
		var c command.Command
		get(t, r.gw[0], "/v1/vehicles/"+absent+"/commands/its", operator(t, r.gw[0]), &c)
		if c.State != command.Expired || c.Cause != "unknown" {
			return fmt.Errorf("%s %s", c.State, c.Cause)
		}
		return nil
	})
}

// TestForgetRefuses: a living gateway, itself, an unknown one, and any while Redis is away.
func TestForgetRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.opened()
	for node, want := range map[string]int{"gw-2": 409, "gw-1": 409, "gw-9": 404} {
		if status, _, text := r.forget(0, node); status != want || !strings.Contains(text, node) {
			t.Errorf("%s: %d: %s", node, status, text)
		}
	}
	service, _, err := r.gw[0].Authority().Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{auth.ScopeTelemetryRead}})
	check.OK(t, err)
	if status, _, _, err := harness.Call(t.Context(), http.MethodDelete, r.gw[0].HTTPURL()+"/v1/gateways/gw-9", service, nil); err != nil || status != 403 {
		t.Errorf("without the scope: %d %v", status, err)
	}
	r.redis.SetError("LOADING")
	if status, _, text := r.forget(0, "gw-9"); status != 503 {
		t.Errorf("without Redis: %d: %s", status, text)
	}
	var list GatewayList
	if status := get(t, r.gw[0], "/v1/gateways", service, &list); status != 200 || len(list.Gateways) != 2 {
		t.Errorf("%d %+v", status, list)
	}
	r.redis.SetError("")
	check.Within(t, check.Patience, "Redis is back", func() error {
		if r.gw[0].member.allAway() {
			return errors.New("away")
		}
		return r.gw[0].member.ready(0)
	})
}

// TestGatewaysOfSingle: a cell with a single gateway lists only that one, and refuses to forget it.
func TestGatewaysOfSingle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, _ := boot(t, write(t, dir, ""))
	var list GatewayList
	get(t, a, "/v1/gateways", operator(t, a), &list)
	if len(list.Gateways) != 1 || list.Gateways[0].Node != "gw-1" || !list.Gateways[0].Lives || len(list.Waiting) != 0 {
		t.Errorf("%+v", list)
	}
	r := &rig{t: t, gw: []*App{a}}
	for node, want := range map[string]int{"gw-1": 409, "gw-2": 404} {
		if status, _, text := r.forget(0, node); status != want {
			t.Errorf("%s: %d: %s", node, status, text)
		}
	}
}
