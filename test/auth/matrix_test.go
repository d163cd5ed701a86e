package authtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// matrixRoles are configured roles: one with templates and denials, and one that may do nearly everything.
const matrixRoles = `roles: {
  bench: {assigned_client_id: false, publish: ["bench/{name}/#"], deny_publish: ["bench/{name}/secret/#"],
          subscribe: ["bench/{name}/#", "bench/all/#"], deny_subscribe: ["bench/all/hidden"]},
  lab: {publish: ["#"], subscribe: ["#"], deny_subscribe: ["test/nosubscribe"]}}`

// actor is one identity of the matrix. Its letter stands for it in the tables. The lower-case v is a vehicle on the
// listener without tokens, with the permissions of V.
type actor struct {
	letter, name, token string
}

func (a actor) vehicle() bool { return a.letter == "V" || a.letter == "v" }

// connect returns the address and the CONNECT of the actor.
func (a actor) connect(g *harness.Gateway, id string, version byte) (string, connect) {
	if a.letter == "v" {
		return g.Lab, connect{id: id, version: version}
	}
	return g.MQTT, connect{id: id, user: a.name, password: a.token, version: version}
}

// actors returns all roles, with every set of scopes that grants topics.
func actors(i issuer) []actor {
	custom := func(name, role string) string {
		token, _ := i.issue(auth.IssueRequest{Subject: name, Role: role})
		return token
	}
	return []actor{
		{"V", vinA, i.vehicle(vinA)},
		{"v", "LTEST0000000000C3", ""},
		{"0", "svc-none", i.service("svc-none")},
		{"T", "svc-telemetry", i.service("svc-telemetry", auth.ScopeTelemetryRead)},
		{"S", "svc-send", i.service("svc-send", auth.ScopeCommandSend)},
		{"R", "svc-read", i.service("svc-read", auth.ScopeCommandRead)},
		{"A", "svc-all", i.service("svc-all", auth.Scopes()...)},
		{"O", "oper", custom("oper", auth.RoleOperator)},
		{"B", "bench-1", custom("bench-1", "bench")},
		{"L", "lab-1", custom("lab-1", "lab")},
	}
}

// row is a topic or filter, and the letters of those who may use it. {me} is the actor's own name, {other} another
// vehicle, {id} an id of the actor's own.
type row struct{ topic, allowed string }

func (r row) at(a actor) string {
	return strings.NewReplacer("{me}", a.name, "{other}", vinB, "{id}", a.letter).Replace(r.topic)
}

func (r row) allows(a actor) bool { return strings.Contains(r.allowed, strings.ToUpper(a.letter)) }

// commandRow is a command, which is stored as a command and not in the journal.
const commandRow = "v1/{other}/cmd/{id}/lock"

// publishRows say who may publish, or set a will, on which topics.
var publishRows = []row{
	{"v1/{me}/up/telemetry", "VL"},
	{"v1/{me}/up/a/b/c", "VL"},
	{"v1/{me}/up/../../{other}/up/telemetry", "VL"}, // dots have no meaning: it is below v1/{me}/up
	{"v1/{me}/res/c1/succeeded", "VL"},
	{"v1/{me}/res/c1", "L"},
	{"v1/{me}/res/c1/succeeded/more", "L"},
	{"v1/{me}/sys/reconnect", "L"},
	{"v1/{me}/Up/telemetry", "L"},
	{"v1/{me}", "L"},
	{"v1/{me}x/up/telemetry", "L"},
	{"/v1/{me}/up/telemetry", "L"},
	{"V1/{me}/up/telemetry", "L"},
	{"v1//up/telemetry", "L"},
	{"v1/{me}/cmd/c1/lock", "SAOL"},
	{"v1/{me}/cmd/c1", "L"},
	{"v1/{other}/up/telemetry", "L"},
	{"v1/{other}/up/{me}", "L"},
	{"v1/{other}/res/c1/succeeded", "L"},
	{commandRow, "SAOL"},
	{"v1/{other}/sys/reconnect", "L"},
	{"v1/{other}/token", ""},
	{"v1/{me}/../{other}/up/telemetry", "L"},
	{"v2/{me}/up/telemetry", "L"},
	{"bench/{me}/x", "BL"},
	{"bench/{me}/secret/x", "L"},
	{"bench/{other}/x", "L"},
	{"bench/all/x", "L"},
	{"$SYS/broker", ""},
	{"$share/g/v1/{other}/up/telemetry", ""},
}

// TestMatrixPublish enumerates role × topic × form: QoS 0, 1 and 2, retained, by alias, on both versions. It compares
// the code of every acknowledgement, and every record in the journal, with the table.
func TestMatrixPublish(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick + "commands: {from_kafka: false}\n"})
	all, operations, operator := actors(issuerOf(t, g)), 0, g.OperatorToken()
	for _, a := range all {
		operations += publishV5(t, g, a) + publishV4(t, g, a)
	}
	// Everything acknowledged is durable; a QoS 0 message of one more connection marks the end.
	granted := map[string]bool{}
	for _, rec := range records(t, g) {
		parts := strings.Split(string(rec.Payload), "|") // letter, row
		if len(parts) != 2 {
			continue
		}
		i := slices.IndexFunc(all, func(a actor) bool { return a.letter == parts[0] })
		client, _, _ := message.SplitSessionKey(rec.Client)
		r := publishRows[slices.IndexFunc(publishRows, func(r row) bool { return r.topic == parts[1] })]
		if !r.allows(all[i]) || rec.Topic != r.at(all[i]) || client != all[i].name {
			t.Errorf("journaled: %s of %s on %s", parts[1], rec.Client, rec.Topic)
		}
		if all[i].vehicle() && !strings.HasPrefix(rec.Topic, "v1/"+rec.Client+"/") {
			t.Errorf("crossing: vehicle %s on %s", rec.Client, rec.Topic)
		}
		granted[parts[0]+parts[1]] = true
		if parts[1] == commandRow {
			t.Errorf("journaled: %s of %s", rec.Topic, rec.Client)
		}
	}
	for _, a := range all {
		status, _, err := g.Get("/v1/vehicles/"+vinB+"/commands/"+a.letter, operator)
		check.OK(t, err)
		granted[a.letter+commandRow] = status == http.StatusOK
	}
	for _, a := range all {
		for _, r := range publishRows {
			if r.allows(a) != granted[a.letter+r.topic] {
				t.Errorf("%s on %s: allowed %v, journaled %v", a.name, r.topic, r.allows(a), granted[a.letter+r.topic])
			}
		}
	}
	t.Logf("%d publications by %d roles on %d topics", operations, len(all), len(publishRows))
}

// publishV5 publishes every row in every form on one connection, which must survive all refusals.
func publishV5(t *testing.T, g *harness.Gateway, a actor) (n int) {
	addr, c := a.connect(g, a.name, 5)
	m := mustOpen(t, addr, c)
	defer leave(m)
	for _, r := range publishRows {
		p := mqtt.Publish{Topic: r.at(a), Payload: a.letter + "|" + r.topic}
		alias := [][]byte{mqtt.Number(mqtt.TopicAlias, 3)}
		forms := []mqtt.Publish{{}, {QoS: 1}, {QoS: 2}, {QoS: 1, Retain: true}, {QoS: 1, Props: alias}, {QoS: 2, Props: alias}}
		for _, form := range forms {
			form.Payload = p.Payload
			if form.Topic = p.Topic; form.Props != nil && form.QoS == 2 {
				form.Topic = "" // the alias defined by the previous form
			}
			code, err := publish(m, form)
			n++
			if err != nil {
				t.Fatalf("%s on %s %+v: %v", a.name, p.Topic, form, err)
			}
			if form.QoS > 0 && (code < 0x80) != r.allows(a) || code >= 0x80 && code != reasonNotAuthorized {
				t.Errorf("%s on 5, %s, %+v: reason 0x%02x, allowed %v", a.name, p.Topic, form, code, r.allows(a))
			}
		}
	}
	return n
}

// publishV4 publishes every row in every form of 3.1.1, where a refusal closes the connection.
func publishV4(t *testing.T, g *harness.Gateway, a actor) (n int) {
	addr, c := a.connect(g, a.name, 4)
	m := mustOpen(t, addr, c)
	for _, r := range publishRows {
		for _, form := range []mqtt.Publish{{}, {QoS: 1}, {QoS: 2}, {QoS: 1, Retain: true}} {
			form.Topic, form.Payload = r.at(a), a.letter+"|"+r.topic
			_, err := publish(m, form)
			if form.QoS == 0 {
				err = m.Client.Ping()
			}
			n++
			if (err == nil) != r.allows(a) {
				t.Errorf("%s on 3.1.1, %s, %+v: %v, allowed %v", a.name, form.Topic, form, err, r.allows(a))
			}
			if err != nil {
				m = mustOpen(t, addr, c)
			}
		}
	}
	leave(m)
	return n
}

// TestMatrixWill checks wills, which are decided at CONNECT like publications.
func TestMatrixWill(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i, n := issuerOf(t, g), 0
	for _, a := range actors(i) {
		for _, r := range publishRows {
			for _, version := range []byte{4, 5} {
				for _, kept := range []bool{false, true} {
					addr, c := a.connect(g, a.name, version)
					c.will, c.willKept = r.at(a), kept
					m, code := open(t, addr, c)
					want := byte(0)
					if !r.allows(a) {
						want = map[byte]byte{4: 5, 5: reasonNotAuthorized}[version]
					}
					if code != want {
						t.Errorf("%s on %d with a will on %s: CONNACK 0x%02x, want 0x%02x", a.name, version, r.at(a), code, want)
					}
					sendDisconnect(m)
					n++
				}
			}
		}
	}
	awaitAudit(t, g, `"event":"refuse"`, `"reason":"will"`, vinA)
	// A granted will is delivered.
	service := mustOpen(t, g.MQTT, connect{id: "svc-telemetry", password: i.service("svc-telemetry", auth.ScopeTelemetryRead), version: 5})
	subscribe(service, "v1/+/up/#")
	leave(mustOpen(t, g.MQTT, connect{id: vinA, password: i.vehicle(vinA), version: 5, will: "v1/" + vinA + "/up/gone"}))
	service.AwaitTopic("v1/" + vinA + "/up/gone")
	t.Logf("%d wills", n)
}

// subscribeRows say who may subscribe to which filters.
var subscribeRows = []row{
	{"v1/{me}/cmd/#", "VL"},
	{"v1/{me}/cmd/+/lock", "VL"},
	{"v1/{me}/cmd/c1/lock", "VL"},
	{"v1/{me}/sys/#", "VL"},
	{"v1/{me}/sys/reconnect", "VL"},
	{"v1/{me}/up/#", "TAOL"},
	{"v1/{me}/res/#", "RAOL"},
	{"v1/{me}/#", "L"},
	{"v1/{me}/+", "L"},
	{"v1/{me}/+/#", "L"},
	{"v1/{me}/token", ""},
	{"v1/{other}/cmd/#", "L"},
	{"v1/{other}/cmd/c1/lock", "L"},
	{"v1/{other}/sys/+", "L"},
	{"v1/{other}/up/#", "TAOL"},
	{"v1/{other}/up/telemetry", "TAOL"},
	{"v1/{other}/res/+/+", "RAOL"},
	{"v1/{other}/token", ""},
	{"v1/+/token", ""},
	{"v1/+/up/#", "TAOL"},
	{"v1/+/up/telemetry", "TAOL"},
	{"v1/+/res/#", "RAOL"},
	{"v1/+/cmd/#", "L"},
	{"v1/+/sys/#", "L"},
	{"v1/+/+/telemetry", "L"},
	{"v1/+/#", "L"},
	{"v1/#", "L"},
	{"+/{me}/cmd/#", "L"},
	{"+/+/up/#", "L"},
	{"+/#", "L"},
	{"/#", "L"},
	{"#", "L"},
	{"bench/{me}/#", "BL"},
	{"bench/all/#", "BL"}, // one of its topics is not delivered
	{"bench/all/hidden", "L"},
	{"bench/{other}/#", "L"},
	{"bench/+/x", "L"},
	{"bench/#", "L"},
	{"test/nosubscribe", ""},
	{"test/#", "L"},
	{"$SYS/#", ""},
	{"$CONTROL/x", ""},
}

// TestMatrixSubscribe enumerates role × filter, plain and shared, on both versions. Then it publishes on all topics,
// retained and not, and compares what each client receives with what its role may receive. Later clients get the
// retained messages.
func TestMatrixSubscribe(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Auth: matrixRoles, Extra: quick})
	i := issuerOf(t, g)
	all := actors(i)
	other := mustOpen(t, g.MQTT, connect{id: vinB, password: i.vehicle(vinB), version: 5})
	subscribe(other, "v1/"+vinB+"/cmd/#")
	clients, n := map[string]*mqtt.T{vinB: other}, 0
	for _, a := range all {
		for _, version := range []byte{4, 5} {
			addr, c := a.connect(g, idOf(a, version), version)
			m := mustOpen(t, addr, c)
			n += subscribeAll(t, m, a)
			if a.vehicle() && version == 4 {
				leave(m)
				continue // a vehicle has one connection; keep that of version 5
			}
			clients[idOf(a, version)] = m
		}
	}
	lab := mustOpen(t, g.MQTT, connect{id: "lab-2", password: mustIssue(i, "lab-2", "lab"), version: 5})
	sent := deliveryTopics()
	for _, topic := range sent {
		if code, err := publish(lab, mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, Retain: true}); err != nil || code >= 0x80 {
			t.Fatalf("publish %s: 0x%02x, %v", topic, code, err)
		}
	}
	sender := mustOpen(t, g.MQTT, connect{id: "svc-send/commands", password: i.service("svc-send", auth.ScopeCommandSend), version: 5})
	sender.Publish(mqtt.Publish{Topic: "v1/" + vinA + "/cmd/c7/lock", Payload: "{}", QoS: 1})
	clients[vinA].AwaitTopic("v1/" + vinA + "/cmd/c7/lock")
	fence(t, lab, clients, all)
	for _, a := range all { // late: retained messages
		if a.vehicle() {
			continue
		}
		m := mustOpen(t, g.MQTT, connect{id: a.name + "/late", password: a.token, version: 5})
		subscribeAll(t, m, a)
		clients[a.name+"/late"] = m
	}
	fence(t, lab, clients, all)
	checkDelivered(t, clients, all)
	t.Logf("%d subscriptions, %d clients, %d retained messages", n, len(clients), len(sent))
}

func mustIssue(i issuer, name, role string) string {
	token, _ := i.issue(auth.IssueRequest{Subject: name, Role: role})
	return token
}

// idOf returns a client identifier, so that a service can have a connection of each version.
func idOf(a actor, version byte) string {
	if a.vehicle() {
		return a.name
	}
	return fmt.Sprintf("%s/%d", a.name, version)
}

func subscribeAll(t *testing.T, m *mqtt.T, a actor) (n int) {
	for _, r := range subscribeRows {
		for _, share := range []string{"", "$share/g/", "$share/g/$share/h/"} {
			allowed := r.allows(a) && (share == "" || share == "$share/g/" && !a.vehicle())
			code := subscribe(m, share+r.at(a))
			n++
			if (code < 0x80) != allowed {
				t.Errorf("%s on %d subscribes to %s: 0x%02x, allowed %v", a.name, m.Version, share+r.at(a), code, allowed)
			}
		}
	}
	return n
}

// deliveryTopics returns the topics of the published messages.
func deliveryTopics() []string {
	topics := []string{"bench/bench-1/x", "bench/bench-2/x", "bench/all/x", "bench/all/hidden", "test/nosubscribe", "test/x", "free"}
	for _, vin := range []string{vinA, vinB} {
		topics = append(topics, "v1/"+vin+"/up/telemetry", "v1/"+vin+"/up/a/b", "v1/"+vin+"/sys/reconnect", "v1/"+vin+"/x/y",
			"v1/"+vin+"/res/c9/succeeded", "v1/"+vin+"/res/c9/failed")
	}
	return topics
}

// fence waits until all clients have received what was published before: every client has a subscription that the last
// topics match, and the gateway delivers in order.
func fence(t *testing.T, lab *mqtt.T, clients map[string]*mqtt.T, all []actor) {
	t.Helper()
	for _, topic := range []string{"v1/" + vinB + "/up/fence", "v1/" + vinB + "/res/fence/succeeded", "bench/all/fence"} {
		if code, err := publish(lab, mqtt.Publish{Topic: topic, Payload: "x", QoS: 1}); err != nil || code >= 0x80 {
			t.Fatalf("publish %s: 0x%02x, %v", topic, code, err)
		}
	}
	for id, m := range clients {
		switch letterOf(id, all) {
		case "T", "A", "O", "L":
			m.AwaitTopic("v1/" + vinB + "/up/fence")
		case "R":
			m.AwaitTopic("v1/" + vinB + "/res/fence")
		case "B":
			m.AwaitTopic("bench/all/fence")
		}
		if !alive(m) {
			t.Errorf("%s has lost its connection", id)
		}
	}
}

func letterOf(id string, all []actor) string {
	name, _, _ := strings.Cut(id, "/")
	if name == vinB {
		return "V"
	}
	return all[slices.IndexFunc(all, func(a actor) bool { return a.name == name })].letter
}

// mayReceive restates the table of auth/README.md.
func mayReceive(letter, name, topic string) bool {
	l := strings.Split(topic, "/")
	branch := func(b string) bool { return len(l) >= 3 && l[0] == "v1" && l[2] == b }
	switch letter {
	case "V", "v":
		return (branch("cmd") || branch("sys")) && l[1] == name
	case "T":
		return branch("up")
	case "R":
		return branch("res")
	case "A", "O":
		return branch("up") || branch("res")
	case "B":
		return l[0] == "bench" && (l[1] == name || l[1] == "all" && topic != "bench/all/hidden")
	case "L":
		return topic != "test/nosubscribe" && !branch("token")
	}
	return false
}

func checkDelivered(t *testing.T, clients map[string]*mqtt.T, all []actor) {
	t.Helper()
	for id, m := range clients {
		letter := letterOf(id, all)
		name, _, _ := strings.Cut(id, "/")
		got := m.Received()
		for _, d := range got {
			if !mayReceive(letter, name, d.Topic) {
				t.Errorf("crossing: %s was sent %+v", id, d)
			}
		}
		for _, topic := range deliveryTopics() {
			missing := !slices.ContainsFunc(got, func(p mqtt.Packet) bool { return p.Topic == topic })
			if missing && !strings.EqualFold(letter, "V") && mayReceive(letter, name, topic) {
				t.Errorf("%s was not sent %s: the test proves less than it seems to", id, topic)
			}
		}
		if strings.HasSuffix(id, "/late") && strings.Contains("TRAOBL", letter) && !slices.ContainsFunc(got, mqtt.Packet.Retain) {
			t.Errorf("%s was sent nothing retained", id)
		}
	}
}
