package auth

import (
	"errors"
	"strings"
	"testing"

	"cellgate/test/check"
)

// A token's limits and those of its role apply to all commands; both must allow a command.
func TestCommandLimits(t *testing.T) {
	t.Parallel()
	roles := map[string]RolePolicy{"loader": {
		Publish: []string{"v1/+/cmd/+/+", "v1/+/up/x"}, Commands: CommandLimit{Names: []string{"load", "unload"}, VINs: []string{"@pilot"}},
	}}
	f := open(t, func(c *Config) { c.Roles, c.VINLists = roles, map[string][]string{"pilot": {testVIN, "B"}} })
	for name, c := range map[string]struct {
		req  IssueRequest
		want string // the allowed combinations
	}{
		"none":           {IssueRequest{Role: RoleService, Scopes: []string{ScopeCommandSend}}, "load,A load,B lock,A lock,B"},
		"names":          {IssueRequest{Role: RoleService, Commands: CommandLimit{Names: []string{"lock"}}}, "lock,A lock,B"},
		"VINs":           {IssueRequest{Role: RoleOperator, Commands: CommandLimit{VINs: []string{"A", "C"}}}, "load,A lock,A"},
		"a list":         {IssueRequest{Role: RoleService, Commands: CommandLimit{VINs: []string{"@pilot"}}}, "load,B lock,B"},
		"a list and one": {IssueRequest{Role: RoleService, Commands: CommandLimit{Names: []string{"load"}, VINs: []string{"@pilot", "A"}}}, "load,A load,B"},
		"nothing":        {IssueRequest{Role: RoleService, Commands: CommandLimit{Names: []string{}}}, ""},
		"the role":       {IssueRequest{Role: "loader"}, "load,B"},
		"role and token": {IssueRequest{Role: "loader", Commands: CommandLimit{VINs: []string{"A"}}}, ""},
	} {
		c.req.Subject = "svc"
		if c.req.Role == RoleService {
			c.req.Scopes = []string{ScopeCommandSend}
		}
		token, _ := f.issue(t, c.req)
		id, err := f.Verify([]byte(token), Peer{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		perm, got := f.Permissions(id), []string{}
		for _, command := range []string{"load", "lock"} {
			for _, vin := range []string{"A", "B"} {
				if perm.Command(vin, command) {
					got = append(got, command+","+vin)
				}
				topic := "v1/" + vin + "/cmd/c1/" + command
				if perm.Publish(topic) != perm.Command(vin, command) || !perm.Granted(topic) {
					t.Errorf("%s: PUBLISH on %s is allowed %v", name, topic, perm.Publish(topic))
				}
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
		if c.req.Role == "loader" && !perm.Publish("v1/A/up/x") {
			t.Errorf("%s: the limit holds for what is no command", name)
		}
	}
}

// A list applies as currently configured; a removed one counts as empty.
func TestListsOfVINsAreReloaded(t *testing.T) {
	t.Parallel()
	var cfg Config
	f := open(t, func(c *Config) { c.VINLists = map[string][]string{"pilot": {"A"}}; cfg = *c })
	_, id := f.issue(t, IssueRequest{Subject: "svc", Role: RoleService, Scopes: []string{ScopeCommandSend}, Commands: CommandLimit{VINs: []string{"@pilot"}}})
	kafka := CommandLimit{VINs: []string{"@pilot"}}
	for _, c := range []struct {
		list []string
		want string
	}{{[]string{"A"}, "A"}, {[]string{"B"}, "B"}, {nil, ""}} {
		if cfg.VINLists = map[string][]string{"pilot": c.list}; c.list == nil {
			cfg.VINLists = nil
		}
		check.OK(t, f.Reconfigure(cfg))
		for _, vin := range []string{"A", "B"} {
			if got := f.Permissions(id).Command(vin, "x"); got != (vin == c.want) {
				t.Errorf("list %v: %s is allowed %v", c.list, vin, got)
			}
			if got := f.AllowsCommand(kafka, vin, "x"); got != (vin == c.want) {
				t.Errorf("list %v: by Kafka %s is allowed %v", c.list, vin, got)
			}
		}
	}
	cfg.Roles = map[string]RolePolicy{"loader": {Commands: CommandLimit{VINs: []string{"@pilot"}}}}
	if err := f.Reconfigure(cfg); err == nil || !strings.Contains(err.Error(), `role loader: there is no list of VINs "pilot"`) {
		t.Errorf("a role that names a list which is gone: %v", err)
	}
}

// A malformed claim must not count as no limit.
func TestBadCommandClaimsAreRefused(t *testing.T) {
	t.Parallel()
	f := open(t)
	g := newForge(f)
	for _, v := range []any{nil, "lock", map[string]any{}, []any{1}, []any{""}, []any{"a/b"}, []any{"a+"}, make([]string, 300)} {
		for _, claim := range []string{"command_names", "command_vins"} {
			forged := *g
			forged.Claims = g.Claims.With(claim, v)
			if _, err := f.Verify([]byte(forged.Token()), Peer{}); !errors.Is(err, ErrBadToken) {
				t.Errorf("%s %v: %v", claim, v, err)
			}
		}
	}
}

// Limits that would have no effect, or name something that does not exist, are not issued.
func TestLimitsThatAreNotIssued(t *testing.T) {
	t.Parallel()
	f := open(t)
	limit := CommandLimit{Names: []string{"lock"}}
	for want, req := range map[string]IssueRequest{
		"add the scope command:send":      {Role: RoleService, Scopes: []string{ScopeTelemetryRead}, Commands: limit},
		"are for tokens that may send":    {Subject: testVIN, Role: RoleVehicle, Commands: limit},
		`there is no list of VINs "nope"`: {Role: RoleOperator, Commands: CommandLimit{VINs: []string{"@nope"}}},
		"not the name of a command":       {Role: RoleOperator, Commands: CommandLimit{Names: []string{"a/b"}}},
		"invalid subject":                 {Role: RoleOperator, Commands: CommandLimit{VINs: []string{"a/b"}}},
		"command_names: more than 64":     {Role: RoleOperator, Commands: CommandLimit{Names: make([]string, 65)}},
	} {
		if req.Subject == "" {
			req.Subject = "svc"
		}
		if _, _, err := f.Issue(req); !errors.Is(err, errInvalidRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", req, err, want)
		}
	}
}
