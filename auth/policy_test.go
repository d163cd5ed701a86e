package auth

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// The matrix covers every role, operation and form of topic, for the own VIN and another. Its cells are the contract,
// written by hand.
//
// The forms also cover other ways to the policy: a will, a resolved alias and a retained PUBLISH use Publish; shared,
// wildcard and resumed subscriptions use Subscribe; retained, live, queued and resumed deliveries use Receive.

var topicForms = []string{
	"up/telemetry", "up/alarm", "up/a/b/c", "up", "res/c1/succeeded", "res/c1/succeeded/x", "res/c1", "res",
	"token", "token/x", "cmd/c1/unlock", "cmd/c1", "cmd", "sys/reconnect", "sys/token-expiring", "sys", "other", "",
}

var filterForms = append([]string{"up/#", "up/+", "+/telemetry", "res/#", "res/+/+", "cmd/#", "cmd/+/+", "cmd/c1/+", "sys/#", "sys/+", "+", "#", "+/#", "token/#"}, topicForms...)

// wideFilters are filters and topics of no single VIN.
var wideFilters = []string{
	"#", "+", "+/#", "+/+/#", "v1/#", "v1/+", "v1/+/#", "v1/+/+", "v1/+/+/#", "+/" + testVIN + "/up/#", "v1/+/up/#",
	"v1/+/up/+", "v1/+/up/telemetry", "v1/+/res/#", "v1/+/res/+/+", "v1/+/cmd/#", "v1/+/cmd/+/+", "v1/+/sys/#",
	"v1/+/token", "$SYS/#", "$SYS/broker/uptime", "/v1/" + testVIN + "/up/x", "V1/" + testVIN + "/up/x", "v1//up/x",
}

type actor struct {
	name string
	id   Identity
	// publish and subscribe are the contract's grants, by VIN and the topic below it.
	publish, subscribe func(own bool, below string) bool
	// wide lists the allowed filters of no single VIN.
	wide []string
}

func oneOf(list ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(list, s) }
}

var (
	upTopics    = oneOf("up/telemetry", "up/alarm", "up/a/b/c", "up")
	upFilters   = oneOf("up/telemetry", "up/alarm", "up/a/b/c", "up", "up/#", "up/+")
	resFilters  = oneOf("res", "res/c1", "res/c1/succeeded", "res/c1/succeeded/x", "res/#", "res/+/+")
	ownPublish  = oneOf("up/telemetry", "up/alarm", "up/a/b/c", "up", "res/c1/succeeded", "token")
	ownReceive  = oneOf("cmd/c1/unlock", "cmd/c1", "cmd", "sys/reconnect", "sys/token-expiring", "sys", "cmd/#", "cmd/+/+", "cmd/c1/+", "sys/#", "sys/+")
	nothing     = func(bool, string) bool { return false }
	wideUp      = []string{"v1/+/up/#", "v1/+/up/+", "v1/+/up/telemetry", "v1//up/x"}
	wideRes     = []string{"v1/+/res/#", "v1/+/res/+/+"}
	sendCommand = func(_ bool, below string) bool { return below == "cmd/c1/unlock" }
)

func actors() []actor {
	scoped := func(role string, scopes ...string) Identity {
		return Identity{Subject: "backend", Role: role, Scopes: scopes}
	}
	readUp := func(_ bool, below string) bool { return upFilters(below) }
	readRes := func(_ bool, below string) bool { return resFilters(below) }
	vehicle := func(own bool, below string) bool { return own && ownPublish(below) }
	receive := func(own bool, below string) bool { return own && ownReceive(below) }
	out := []actor{
		{"vehicle", Identity{Subject: testVIN, Role: RoleVehicle}, vehicle, receive, nil},
		{"vehicle with scopes", Identity{Subject: testVIN, Role: RoleVehicle, Scopes: Scopes()}, vehicle, receive, nil},
		{"anonymous vehicle", Identity{Subject: testVIN, Role: RoleVehicle, Anonymous: true}, vehicle, receive, nil},
		{"unknown role", Identity{Subject: testVIN, Role: "ghost", Scopes: Scopes()}, nothing, nothing, nil},
		{"no role", Identity{Subject: testVIN}, nothing, nothing, nil},
		{
			"gateway of one vehicle",
			Identity{Subject: testVIN, Role: "twin"},
			func(own bool, below string) bool { return own && upTopics(below) && below != "up/alarm" },
			func(own bool, below string) bool { return own && ownReceive(below) && strings.HasPrefix(below, "cmd") },
			nil,
		},
	}
	for _, role := range []string{RoleService, RoleOperator} {
		out = append(out,
			actor{role + " without scope", scoped(role), nothing, nothing, nil},
			actor{role + " with others' scopes", scoped(role, ScopeVehicleAdmin, ScopeRulesAdmin, ScopeTokenIssue), nothing, nothing, nil},
			actor{role + " telemetry:read", scoped(role, ScopeTelemetryRead), nothing, readUp, wideUp},
			actor{role + " command:read", scoped(role, ScopeCommandRead), nothing, readRes, wideRes},
			actor{role + " command:send", scoped(role, ScopeCommandSend), sendCommand, nothing, nil},
			actor{
				role + " all", scoped(role, Scopes()...), sendCommand,
				func(_ bool, below string) bool { return upFilters(below) || resFilters(below) },
				append(slices.Clone(wideUp), wideRes...),
			})
	}
	return out
}

func matrixPolicy(t testing.TB) *policy {
	t.Helper()
	p, err := newPolicy(map[string]RolePolicy{
		"twin": {
			Publish: []string{"v1/{vin}/up/#"}, Subscribe: []string{"v1/{name}/cmd/#"}, DenyPublish: []string{"v1/+/up/alarm"},
		},
		"lab": {Publish: []string{"#"}, Subscribe: []string{"#"}, DenySubscribe: []string{"test/nosubscribe"}},
	}, nil)
	check.OK(t, err)
	return p
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	checked := 0
	check := func(what string, got, want bool) {
		checked++
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	for _, a := range actors() {
		perm := newPermissions(p, &a.id)
		for _, vin := range []string{testVIN, otherVIN, testVIN + "X", testVIN[:16], strings.ToLower(testVIN), "+" + testVIN, " " + testVIN} {
			own := vin == testVIN
			for _, below := range topicForms {
				topic := "v1/" + vin + "/" + below
				plain := message.ValidTopic(topic) == nil
				check(a.name+" publish "+topic, perm.Publish(topic), plain && a.publish(own, below))
				if plain {
					check(a.name+" receive "+topic, perm.Receive(topic), a.subscribe(own, below))
				}
			}
			for _, below := range filterForms {
				filter := "v1/" + vin + "/" + below
				valid := message.ValidFilter(filter) == nil
				want := valid && a.subscribe(own, below)
				check(a.name+" subscribe "+filter, perm.Subscribe(filter), want)
				shared := want && a.id.Role != RoleVehicle
				check(a.name+" subscribe $share/g/"+filter, perm.Subscribe("$share/g/"+filter), shared)
				for _, bad := range []string{"$share//" + filter, "$share/g+/" + filter, "$share/" + filter[:2], "$SHARE/g/" + filter, "$share/g/$share/h/" + filter} {
					check(a.name+" subscribe "+bad, perm.Subscribe(bad), false)
				}
			}
		}
		for _, filter := range wideFilters {
			want := slices.Contains(a.wide, filter)
			check(a.name+" subscribe "+filter, perm.Subscribe(filter), want)
			check(a.name+" subscribe $share/g/"+filter, perm.Subscribe("$share/g/"+filter), want)
			check(a.name+" publish "+filter, perm.Publish(filter), false)
		}
	}
	t.Logf("%d combinations", checked)
}

// TestNoCrossing checks that the matrix separates vehicles: no topic that a vehicle may subscribe to, publish or receive
// belongs to another.
func TestNoCrossing(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	perm := newPermissions(p, &Identity{Subject: testVIN, Role: RoleVehicle})
	levels := []string{"v1", testVIN, otherVIN, "up", "cmd", "sys", "res", "token", "+", "#", "", "x", "$share", "$SYS"}
	own := "v1/" + testVIN + "/"
	var walk func(prefix string, depth int)
	walk = func(prefix string, depth int) {
		if perm.Publish(prefix) && !strings.HasPrefix(prefix, own) {
			t.Errorf("publishes %q", prefix)
		}
		if perm.Receive(prefix) && !strings.HasPrefix(prefix, own) {
			t.Errorf("receives %q", prefix)
		}
		if perm.Subscribe(prefix) && !strings.HasPrefix(prefix, own) {
			t.Errorf("subscribes %q", prefix)
		}
		if depth == 0 {
			return
		}
		for _, l := range levels {
			walk(prefix+"/"+l, depth-1)
		}
	}
	for _, l := range levels {
		walk(l, 4)
	}
}

// TestTokenTopic checks that only its owner may use the topic that carries secrets, whatever a role grants.
func TestTokenTopic(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	lab := newPermissions(p, &Identity{Subject: "bench", Role: "lab", Anonymous: true})
	for _, topic := range []string{"v1/" + testVIN + "/token", "v1/x/token"} {
		if lab.Publish(topic) || lab.Receive(topic) || lab.Subscribe(topic) {
			t.Errorf("lab reaches %s", topic)
		}
	}
	if lab.Subscribe("v1/+/token") || lab.Subscribe("$share/g/v1/+/token") {
		t.Error("lab subscribes to all tokens")
	}
	if !lab.Publish("v1/bench/token") {
		t.Error("lab cannot refresh its own token")
	}
}

// TestLabRole checks the contract's example.
func TestLabRole(t *testing.T) {
	t.Parallel()
	lab := newPermissions(matrixPolicy(t), &Identity{Subject: "bench/1 +", Role: "lab", Anonymous: true})
	for _, topic := range []string{"a", "test/nosubscribe", "/a/b", "v1/x/up/y"} {
		if !lab.Publish(topic) {
			t.Errorf("publish %s refused", topic)
		}
	}
	for filter, want := range map[string]bool{
		"#": true, "test/#": true, "test/+": true, "$share/g/#": true, "test/nosubscribe": false,
		"$share/g/test/nosubscribe": false, "$SYS/#": false, "test/nosubscribe/x": true, "a+": false,
	} {
		if lab.Subscribe(filter) != want {
			t.Errorf("subscribe %s: %v", filter, !want)
		}
	}
	if lab.Receive("test/nosubscribe") || !lab.Receive("test/other") || lab.Receive("$SYS/x") {
		t.Error("a wide subscription does not hold the denied topic back")
	}
	if lab.Publish("$SYS/x") || lab.Publish("a/+") || lab.Publish("#") || lab.Publish("") {
		t.Error("publishes what is no ordinary topic name")
	}
}

func TestBuiltinGrants(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	for _, r := range append(slices.Clone(p.byScope[:]), p.vehicle) {
		for _, g := range slices.Concat(r.publish, r.subscribe) {
			if g.filter == "" && !g.bySubject {
				t.Errorf("a built-in grant did not compile: %+v", g)
			}
		}
	}
}

func TestZeroPermissions(t *testing.T) {
	t.Parallel()
	var p Permissions
	if p.Publish("a") || p.Subscribe("a") || p.Receive("a") || p.AssignedClientID() || p.ClientID("a") == nil {
		t.Error("the zero value allows something")
	}
}

func TestValidateRole(t *testing.T) {
	t.Parallel()
	good := []RolePolicy{
		{},
		{Publish: []string{"#"}, Subscribe: []string{"#"}, DenySubscribe: []string{"test/nosubscribe"}},
		{Publish: []string{"a/{vin}/#", "{name}/b", "dev-{name}/x", "+/{vin}/c", "{vin}"}},
	}
	for _, r := range good {
		if err := ValidateRole("lab", r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	bad := map[string]RolePolicy{
		`publish[1]: "a#"`:                 {Publish: []string{"ok", "a#"}},
		`subscribe[0]: "a/+b"`:             {Subscribe: []string{"a/+b"}},
		`subscribe[0]: "+{vin}"`:           {Subscribe: []string{"+{vin}"}},
		`deny_publish[0]: ""`:              {DenyPublish: []string{""}},
		`deny_subscribe[0]: "#/a"`:         {DenySubscribe: []string{"#/a"}},
		`subscribe[0]: "$share/g/a"`:       {Subscribe: []string{"$share/g/a"}},
		`publish[0]: "$SYS/#"`:             {Publish: []string{"$SYS/#"}},
		`publish[0]: "v1/{wine}/up"`:       {Publish: []string{"v1/{wine}/up"}},
		`publish[0]: "v1/{vin/up"`:         {Publish: []string{"v1/{vin/up"}},
		`publish: more than 64 filters`:    {Publish: slices.Repeat([]string{"a"}, 65)},
		`subscribe[0]: "` + "a\x00" + `"`:  {Subscribe: []string{"a\x00"}},
		`publish[0]: "a//{vin}}"`:          {Publish: []string{"a//{vin}}"}},
		`deny_subscribe[0]: "{{vin}}/up/"`: {DenySubscribe: []string{"{{vin}}/up/"}},
	}
	for want, r := range bad {
		err := ValidateRole("lab", r)
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(want, "\x00", `\x00`)) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	for _, name := range []string{"", "vehicle", "service", "operator", "Lab", "1lab", "a b", strings.Repeat("a", 33)} {
		if ValidateRole(name, RolePolicy{}) == nil {
			t.Errorf("role name %q accepted", name)
		}
	}
}

func TestWithheld(t *testing.T) {
	t.Parallel()
	p, err := newPolicy(map[string]RolePolicy{
		"lab": {Subscribe: []string{"a/#", "test/#"}, DenySubscribe: []string{"test/nosubscribe", "a/{name}/#"}},
	}, nil)
	check.OK(t, err)
	perm := newPermissions(p, &Identity{Subject: "me", Role: "lab"})
	for filter, want := range map[string]bool{
		"test/nosubscribe": true, "$share/g/test/nosubscribe": true, "a/me/x": true, "a/me/#": true,
		"test/other": false, "a/you": false, "elsewhere": false, "#": false, "test/#": false, "a/#/b": false, "": false,
	} {
		if got := perm.Withheld(filter); got != want {
			t.Errorf("%q: %v", filter, got)
		}
		if want && perm.Subscribe(filter) {
			t.Errorf("%q is withheld and granted", filter)
		}
	}
	if new(Permissions).Withheld("a") {
		t.Error("the zero value withholds something")
	}
}

// TestGrantForms checks that the three compiled forms of a grant are equivalent to plain substitution.
func TestGrantForms(t *testing.T) {
	t.Parallel()
	templates := []string{
		"a/{vin}/b/#", "a/{vin}", "{vin}/b", "{vin}", "a/{vin}/+/c", "a/{vin}/#", "+/{vin}/b", "a/{vin}/{vin}", "a-{vin}/b", "a/b", "#",
	}
	topics := []string{
		"a/S/b", "a/S/b/c", "a/S", "a/S/", "S/b", "S", "S/", "a/S/x/c", "a/SS", "a/S1/b", "x/S/b", "a/S/S", "a-S/b", "a/b", "", "a", "a//b",
		"a/S/b/#", "a/+/b", "+/S/b", "#", "a/S/+", "a/S/#", "+", "a/S/+/c",
	}
	for _, template := range templates {
		g, err := compileGrant(template)
		check.OK(t, err)
		g = g.expand("S")
		plain := strings.ReplaceAll(template, "{vin}", "S")
		for _, s := range topics {
			if !strings.ContainsAny(s, "+#") {
				if got, want := g.holds(message.Match, s, "S"), message.Match(plain, s); got != want {
					t.Errorf("%s matches %q: %v, want %v", template, s, got, want)
				}
			}
			if got, want := g.holds(message.Covers, s, "S"), message.Covers(plain, s); got != want {
				t.Errorf("%s covers %q: %v, want %v", template, s, got, want)
			}
		}
	}
}

func TestClientID(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	tests := []struct {
		id       Identity
		allowed  []string
		refused  []string
		assigned bool
	}{
		{
			Identity{Subject: testVIN, Role: RoleVehicle},
			[]string{testVIN},
			[]string{"", otherVIN, testVIN + "/x", strings.ToLower(testVIN), "x"},
			false,
		},
		{
			Identity{Subject: "dash", Role: RoleService},
			[]string{"dash", "dash/1", "dash/a/b", "dash/"},
			[]string{"", "dashboard", "das", "Dash", "x/dash", testVIN, otherVIN},
			true,
		},
		{
			Identity{Subject: "bench", Role: "lab", Anonymous: true},
			[]string{"bench", "bench/7"},
			[]string{"", testVIN, "other"},
			false,
		},
		{
			Identity{Subject: testVIN, Role: "lab", Anonymous: true},
			nil,
			[]string{testVIN, testVIN[:16]},
			false,
		},
		{Identity{Role: "lab", Anonymous: true}, nil, []string{"", "x", "/x"}, false},
	}
	for _, tt := range tests {
		perm := newPermissions(p, &tt.id)
		for _, id := range tt.allowed {
			if err := perm.ClientID(id); err != nil {
				t.Errorf("%s %q: %v", tt.id.Role, id, err)
			}
		}
		for _, id := range tt.refused {
			if perm.ClientID(id) == nil {
				t.Errorf("%s %q: %q accepted", tt.id.Role, tt.id.Subject, id)
			}
		}
		if perm.AssignedClientID() != tt.assigned {
			t.Errorf("%s: assigned %v", tt.id.Role, !tt.assigned)
		}
		if tt.assigned {
			if id := perm.NewClientID(); perm.ClientID(id) != nil || id == perm.NewClientID() {
				t.Errorf("%s: assigns %q", tt.id.Role, id)
			}
		}
	}
	vehicle := newPermissions(p, &tests[0].id)
	if vehicle.Username(testVIN) != nil || vehicle.Username("") != nil || vehicle.Username(otherVIN) == nil {
		t.Error("user name of a vehicle")
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) {
		c.Roles = map[string]RolePolicy{
			"lab":  {Publish: []string{"#"}, AssignedClientID: true},
			"twin": {Publish: []string{"v1/{vin}/up/#"}},
		}
	})
	tests := []struct {
		role, id string
		ok       bool
	}{
		{RoleVehicle, testVIN, true},
		{RoleVehicle, "any-name", true},
		{RoleVehicle, "a/b", false},
		{RoleVehicle, "+", false},
		{RoleVehicle, "", false},
		{"lab", "bench/1/+", true},
		{"lab", "", true},
		{"lab", testVIN, false}, // it would take over the vehicle's session
		{"twin", "a", true},
		{"twin", "#", false},
		{RoleService, "x", false},
		{RoleOperator, "x", false},
		{"ghost", "x", false},
	}
	for _, tt := range tests {
		id, err := f.Anonymous(tt.role, tt.id)
		if (err == nil) != tt.ok {
			t.Errorf("%s %q: %v", tt.role, tt.id, err)
		}
		if tt.ok && (!id.Anonymous || id.Subject != tt.id || !f.Deadline(id).IsZero() || f.Ended(id) != nil) {
			t.Errorf("%s %q: %+v", tt.role, tt.id, id)
		}
	}
}

func BenchmarkPermissions(b *testing.B) {
	p, err := newPolicy(nil, nil)
	check.OK(b, err)
	vehicle := newPermissions(p, &Identity{Subject: testVIN, Role: RoleVehicle})
	service := newPermissions(p, &Identity{Subject: "s", Role: RoleService, Scopes: Scopes()})
	b.Run("publish", func(b *testing.B) {
		topic := fmt.Sprintf("v1/%s/up/telemetry", testVIN)
		b.ReportAllocs()
		for b.Loop() {
			vehicle.Publish(topic)
		}
	})
	b.Run("receive", func(b *testing.B) {
		topic := fmt.Sprintf("v1/%s/up/telemetry", testVIN)
		b.ReportAllocs()
		for b.Loop() {
			service.Receive(topic)
		}
	})
}

// Outcomes of commands may go to topics that their sender can read, except where they would be mistaken for other
// messages.
func TestRespond(t *testing.T) {
	t.Parallel()
	p := matrixPolicy(t)
	sender := newPermissions(p, &Identity{Subject: "s", Role: RoleService, Scopes: []string{ScopeCommandSend}})
	reader := newPermissions(p, &Identity{Subject: "s", Role: RoleService, Scopes: Scopes()})
	lab := newPermissions(p, &Identity{Subject: "bench", Role: "lab", Anonymous: true})
	for topic, want := range map[string]string{
		"v1/V/res/c1/outcome": "reader lab ", "v1/V/res/c1/outcome/x": "reader lab ", "v1/V/res/c1": "reader lab ",
		"v1/V/res/c1/accepted": "", "v1/V/res/c1/succeeded": "", "v1/V/res/c1/failed": "", "v1/V/res/c1/rejected": "",
		"v1/V/up/telemetry": "", "v1/V/cmd/c1/lock": "", "v1/V/sys/reconnect": "", "v1/s/token": "",
		"outcomes/s": "lab ", "v1/s/outcomes": "lab ", "": "", "$SYS/x": "", "v1/+/res/c1/outcome": "", "a/#": "", "a\x00": "",
	} {
		got := ""
		for _, who := range []struct {
			name string
			perm *Permissions
		}{{"sender ", sender}, {"reader ", reader}, {"lab ", lab}} {
			if who.perm.Respond(topic) {
				got += who.name
			}
		}
		if got != want {
			t.Errorf("%q: %q may, want %q", topic, got, want)
		}
	}
}
