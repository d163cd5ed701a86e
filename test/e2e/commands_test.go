package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// commandGateway returns a gateway with small bounds for commands, and its Kafka.
func commandGateway(t *testing.T, maxQueued int) (*harness.Gateway, *harness.Kafka) {
	t.Helper()
	cell := harness.EmbeddedKafka(t)
	return harness.StartGateway(t, harness.Options{
		Kafka: cell, Extra: fmt.Sprintf("commands: {max_queued: %d, max_payload: 64B, inflight: 2}\n", maxQueued),
	}), cell
}

// serviceToken issues a token that may send and read commands.
func serviceToken(g *harness.Gateway, name string, more ...string) string {
	return g.Cellgate(append([]string{"token", "issue", "--config", g.Config, "--service", name, "--scope", "command:send,command:read"}, more...)...)
}

func commandTopic(vin, id string) string { return "v1/" + vin + "/cmd/" + id + "/unlock" }

// audits returns the audit log's lines for a command, in order: entrance, sender, outcome and reason.
func audits(g *harness.Gateway, id string) (lines []string) {
	data, _ := os.ReadFile(filepath.Join(g.Dir, "data", "audit.log"))
	for line := range strings.Lines(string(data)) {
		var e struct{ At, Event, By, From, Origin, VIN, ID, Name, Outcome, Reason string }
		if json.Unmarshal([]byte(line), &e) == nil && e.ID == id && e.At != "" && e.VIN != "" {
			lines = append(lines, strings.TrimSpace(strings.Join([]string{e.Event, e.Origin, e.By, e.Outcome, e.Reason}, " ")))
		}
	}
	return lines
}

// TestRefusedCommandsOverMQTT5: the PUBACK has the decision on a command, and the audit log its sender.
func TestRefusedCommandsOverMQTT5(t *testing.T) {
	t.Parallel()
	g, _ := commandGateway(t, 3)
	vin := scenario.NewVIN()
	service := scenario.MustV5(t, g, "control", serviceToken(g, "control"))
	for _, c := range []struct {
		topic, payload string
		want           byte
		audit          string
	}{
		{commandTopic(vin, "a1"), "{}", 0x00, "command mqtt service control accepted"},
		{commandTopic(vin, "a1"), "{}", 0x00, "command mqtt service control repeated"},
		{commandTopic(vin, "a1"), `{"doors":"all"}`, 0x83, "command mqtt service control refused conflict"},
		{commandTopic(vin, "a2"), `"` + strings.Repeat("x", 64) + `"`, 0x97, "command mqtt service control refused too_large"},
		{commandTopic(vin, "a 3"), "{}", 0x90, "command mqtt service control refused topic"},
		{commandTopic(vin, "a4"), "{}", 0x00, "command mqtt service control accepted"},
		{commandTopic(vin, "a5"), "{}", 0x00, "command mqtt service control accepted"},
		{commandTopic(vin, "a6"), "{}", 0x97, "command mqtt service control refused queue_full"},
	} {
		if code := service.Send(t, c.topic, c.payload); code != c.want {
			t.Errorf("%s: PUBACK %#x, want %#x", c.topic, code, c.want)
		}
		id := strings.Split(c.topic, "/")[3]
		if got := audits(g, id); len(got) == 0 || got[len(got)-1] != c.audit {
			t.Errorf("%s: audited %q, want %q", c.topic, got, c.audit)
		}
	}
}

// TestRefusedCommandsOverMQTT311: a 3.1.1 client finds refusals in the results, except for a conflict, which would
// appear there as the other command and is only in the audit log. Acknowledged commands survive a kill.
func TestRefusedCommandsOverMQTT311(t *testing.T) {
	t.Parallel()
	g, cell := commandGateway(t, 3)
	vin, token := scenario.NewVIN(), serviceToken(g, "control")
	c, _, err := scenario.DialV3(t, g, "control", token)
	check.OK(t, err)
	for _, m := range [][2]string{
		{"b1", "{}"}, {"b1", `{"doors":"all"}`}, {"b2", `"` + strings.Repeat("x", 64) + `"`}, {"b3", "{}"}, {"b4", "{}"}, {"b5", "{}"},
	} {
		sent := c.Publish(commandTopic(vin, m[0]), 1, false, m[1])
		if !sent.WaitTimeout(check.Patience) || sent.Error() != nil {
			t.Fatalf("%s: not acknowledged: %v", m[0], sent.Error())
		}
	}
	g.Kill()
	g.Start()
	want := map[string]string{"b1": "queued", "b2": "rejected", "b3": "queued", "b4": "queued", "b5": "rejected"}
	cell.Await("vehicle.command-results", check.Patience, func(all []harness.Record) error {
		got := map[string]string{}
		for _, r := range all {
			var e struct{ ID, State, By, Origin string }
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return err
			}
			if e.By != "control" || e.Origin != "mqtt" {
				t.Errorf("%s: no sender", r.Value)
			}
			got[e.ID] = e.State
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("states %v, want %v", got, want)
		}
		return nil
	})
	if got := audits(g, "b1"); len(got) != 2 || got[1] != "command mqtt service control refused conflict" {
		t.Errorf("audited of b1: %q", got)
	}
	c, lost, err := scenario.DialV3(t, g, "control", token)
	check.OK(t, err)
	c.Publish(commandTopic(vin, "b 6"), 1, false, "{}")
	select {
	case <-lost:
	case <-time.After(check.Patience):
		t.Error("a bad id is neither refused nor ends the connection")
	}
}

// TestInflightCommands: a vehicle that acknowledges nothing gets commands.inflight commands, and an urgent one before
// waiting ones.
func TestInflightCommands(t *testing.T) {
	t.Parallel()
	g, _ := commandGateway(t, 10)
	vin := scenario.NewVIN()
	v, err := scenario.DialV5(t, g, vin, g.VehicleToken(vin), func(c *paho.ClientConfig) { c.EnableManualAcknowledgment = true })
	check.OK(t, err)
	subscribe(t, v, "v1/"+vin+"/cmd/#")
	for _, args := range [][]string{{"c1"}, {"c2"}, {"c3"}} {
		g.Cellgate("command", "send", "--config", g.Config, "--vin", vin, "--name", "unlock", "--id", args[0], "--ttl", "1d")
	}
	first := receive(t, v, commandTopic(vin, "c1"))
	receive(t, v, commandTopic(vin, "c2"))
	g.Cellgate("command", "send", "--config", g.Config, "--vin", vin, "--name", "unlock", "--id", "u1", "--urgent")
	check.OK(t, v.Ack(first))
	receive(t, v, commandTopic(vin, "u1"))
}

func subscribe(t *testing.T, v *scenario.V5, filter string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	_, err := v.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}})
	check.OK(t, err)
}

// receive waits for the next message, which must be on that topic.
func receive(t *testing.T, v *scenario.V5, topic string) *paho.Publish {
	t.Helper()
	select {
	case m := <-v.Messages:
		if m.Topic != topic {
			t.Fatalf("got %s on %s, want one on %s", m.Payload, m.Topic, topic)
		}
		return m
	case <-time.After(check.Patience):
		t.Fatalf("nothing on %s", topic)
		return nil
	}
}

// TestCommandWithResponseTopic: the sender's properties reach the vehicle, except for the response topic: the gateway
// publishes the outcome there, if the sender may read it.
func TestCommandWithResponseTopic(t *testing.T) {
	t.Parallel()
	g, _ := commandGateway(t, 10)
	vin := scenario.NewVIN()
	v := scenario.MustV5(t, g, vin, g.VehicleToken(vin))
	subscribe(t, v, "v1/"+vin+"/cmd/#")
	service := scenario.MustV5(t, g, "control", serviceToken(g, "control"))
	subscribe(t, service, "v1/+/res/+/outcome")
	ask := func(c *scenario.V5, id, topic string) byte {
		ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
		defer cancel()
		p := &paho.Publish{QoS: 1, Topic: commandTopic(vin, id), Payload: []byte("{}"), Properties: &paho.PublishProperties{
			ResponseTopic: topic, CorrelationData: []byte("trip-" + id), User: paho.UserProperties{{Key: "trace", Value: "t-1"}},
		}}
		ack, err := c.Publish(ctx, p)
		if ack == nil {
			t.Fatal(err)
		}
		return ack.ReasonCode
	}
	outcome := "v1/" + vin + "/res/d1/outcome"
	if code := ask(service, "d1", outcome); code != 0 {
		t.Fatalf("PUBACK %#x", code)
	}
	m := receive(t, v, commandTopic(vin, "d1"))
	if p := m.Properties; string(p.CorrelationData) != "trip-d1" || p.User.Get("trace") != "t-1" || p.User.Get("issued-at") == "" || p.ResponseTopic != "" {
		t.Errorf("the vehicle got %+v", p)
	}
	v.Send(t, "v1/"+vin+"/res/d1/accepted", "")
	v.Send(t, "v1/"+vin+"/res/d1/succeeded", `{"locked":false}`)
	for _, state := range []string{"accepted", "succeeded"} {
		m := receive(t, service, outcome)
		var e struct{ ID, VIN, State, By, Origin string }
		if err := json.Unmarshal(m.Payload, &e); err != nil || e.ID != "d1" || e.VIN != vin || e.State != state || e.By != "control" {
			t.Errorf("outcome %s, %v", m.Payload, err)
		}
		if string(m.Properties.CorrelationData) != "trip-d1" || m.Properties.ContentType != "application/json" {
			t.Errorf("outcome with %+v", m.Properties)
		}
	}
	sender := scenario.MustV5(t, g, "sender", g.Cellgate("token", "issue", "--config", g.Config, "--service", "sender", "--scope", "command:send"))
	for _, c := range []struct {
		from  *scenario.V5
		topic string
	}{
		{service, "control/outcome"},                 // a topic that it may not read
		{service, "v1/" + vin + "/up/telemetry"},     // likewise
		{service, "v1/" + vin + "/res/d2/succeeded"}, // only for the vehicle
		{sender, "v1/" + vin + "/res/d2/outcome"},    // may send, not read
	} {
		if code := ask(c.from, "d2", c.topic); code != 0x87 {
			t.Errorf("response topic %s: PUBACK %#x", c.topic, code)
		}
	}
	if got := audits(g, "d2"); len(got) != 4 || got[0] != "command mqtt service control refused response_topic" {
		t.Errorf("audited %q", got)
	}
}

// TestLimitedSender: a service is limited to command names and VINs by its token, Kafka by the configuration, at every
// entrance, and refusals are audited.
func TestLimitedSender(t *testing.T) {
	t.Parallel()
	cell, mine, other := harness.EmbeddedKafka(t), scenario.NewVIN(), scenario.NewVIN()
	g := harness.StartGateway(t, harness.Options{
		Kafka: cell, Auth: "vin_lists: {pilot: [" + mine + "]}",
		Extra: "commands: {from_kafka_names: [load], from_kafka_vins: [\"@pilot\"]}\n",
	})
	token := serviceToken(g, "loader", "--command-names", "load,unload", "--command-vins", "@pilot")
	if out := g.Cellgate("token", "inspect", "--config", g.Config, token); !strings.Contains(out, "@pilot") || !strings.Contains(out, "load unload") {
		t.Errorf("inspect: %s", out)
	}
	post := func(token, vin, id, name string) int {
		status, _, err := g.Do("POST", "/v1/vehicles/"+vin+"/commands", token, map[string]any{"id": id, "name": name})
		check.OK(t, err)
		return status
	}
	cancel := func(vin, id string) int {
		status, _, err := g.Do("DELETE", "/v1/vehicles/"+vin+"/commands/"+id, token, nil)
		check.OK(t, err)
		return status
	}
	operator := g.OperatorToken()
	if a, b := post(operator, mine, "o1", "lock"), post(operator, other, "o2", "load"); a != 202 || b != 202 {
		t.Fatalf("the operator: %d, %d", a, b)
	}
	for what, c := range map[string]struct{ got, want int }{
		"allowed":         {post(token, mine, "e1", "load"), 202},
		"another name":    {post(token, mine, "e2", "lock"), 403},
		"another VIN":     {post(token, other, "e3", "load"), 403},
		"cancel":          {cancel(mine, "e1"), 200},
		"cancel, name":    {cancel(mine, "o1"), 403},
		"cancel, VIN":     {cancel(other, "o2"), 403},
		"cancel, unknown": {cancel(other, "o9"), 404},
	} {
		if c.got != c.want {
			t.Errorf("HTTP, %s: %d, want %d", what, c.got, c.want)
		}
	}
	v5 := scenario.MustV5(t, g, "loader", token)
	for topic, want := range map[string]byte{
		"v1/" + mine + "/cmd/f1/unload": 0, "v1/" + mine + "/cmd/f2/lock": 0x87, "v1/" + other + "/cmd/f3/load": 0x87,
	} {
		if code := v5.Send(t, topic, "{}"); code != want {
			t.Errorf("MQTT, %s: PUBACK %#x, want %#x", topic, code, want)
		}
	}
	for _, c := range [][3]string{{"k1", mine, "load"}, {"k2", mine, "lock"}, {"k3", other, "load"}} {
		cell.Write("vehicle.commands", c[1], fmt.Sprintf(`{"id":%q,"vin":%q,"name":%q}`, c[0], c[1], c[2]))
	}
	want := map[string]string{
		"e2": "command http service loader refused not_permitted", "e3": "command http service loader refused not_permitted",
		"f1": "command mqtt service loader accepted", "f2": "command mqtt service loader refused not_permitted",
		"f3": "command mqtt service loader refused not_permitted", "k1": "command kafka kafka accepted",
		"k2": "command kafka kafka refused not_permitted", "k3": "command kafka kafka refused not_permitted",
	}
	check.Within(t, check.Patience, "every request audited", func() error {
		for id, line := range want {
			if got := audits(g, id); len(got) != 1 || got[0] != line {
				return fmt.Errorf("%s: %q, want %q", id, got, line)
			}
		}
		return nil
	})
}

// TestManyCommandsOverOneConnection: commands published close together are handled separately.
func TestManyCommandsOverOneConnection(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{Extra: "limits: {messages_per_second: 0}\n"})
	service := scenario.MustV5(t, g, "control", serviceToken(g, "control"))
	const senders, each = 16, 20
	var sent sync.WaitGroup
	for n := range senders {
		sent.Go(func() {
			for i := range each {
				id := fmt.Sprintf("id-%d-%d", n, i)
				ack, err := service.Publish(t.Context(), &paho.Publish{QoS: 1, Topic: "v1/V" + id + "/cmd/" + id + "/" + id, Payload: []byte(`"` + id + `"`)})
				if err != nil {
					t.Errorf("%s: %v, %+v", id, err, ack)
				}
			}
		})
	}
	sent.Wait()
	_, body, err := g.Get("/v1/commands?limit=1000", g.OperatorToken())
	check.OK(t, err)
	var page struct {
		Commands []struct{ ID, VIN, Name, Payload string }
	}
	if err := json.Unmarshal(body, &page); err != nil || len(page.Commands) != senders*each {
		t.Fatalf("%d commands, %v", len(page.Commands), err)
	}
	for _, c := range page.Commands {
		if c.VIN != "V"+c.ID || c.Name != c.ID || c.Payload != c.ID {
			t.Errorf("mixed up: %+v", c)
		}
	}
}
