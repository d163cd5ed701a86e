package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// Run runs every scenario against the environment, each as a subtest of its own.
func Run(t *testing.T, e *Env) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, *Env)
	}{
		{"telemetry reaches Kafka and Redis", telemetry},
		{"a low battery reaches both Kafkas once", lowBattery},
		{"an alarm reaches both Kafkas", alarm},
		{"telemetry to the centre is sampled", sampled},
		{"MQTT 5 properties become headers", properties},
		{"3.1.1 publishes at QoS 0, 1 and 2", v3Publishes},
		{"a command goes to the vehicle and its result comes back", command},
		{"a command by Kafka does the same, once", kafkaCommand},
		{"a service hears what vehicles publish", serviceSubscribes},
		{"strangers are refused", refused},
		{"a vehicle reaches only its own topics", ownTopics},
		{"a broken rule file changes nothing", brokenRules},
		{"the ledger adds up", ledger},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, e) })
	}
}

// of returns the records that carry the key.
func of(key string, records []harness.Record) []harness.Record {
	var out []harness.Record
	for _, r := range records {
		if r.Key == key {
			out = append(out, r)
		}
	}
	return out
}

// await polls a topic until it holds n records with the key, and returns these.
func await(t *testing.T, k *harness.Kafka, topic, key string, n int) []harness.Record {
	t.Helper()
	// Two seconds are the promise for an alert; a shared CI machine gets more before it is called lost.
	return of(key, k.Await(topic, check.Patience, func(all []harness.Record) error {
		if got := len(of(key, all)); got < n {
			return fmt.Errorf("%d records of %s, want %d", got, key, n)
		}
		return nil
	}))
}

func vehicle(t *testing.T, e *Env) (vin string, v *V5) {
	t.Helper()
	vin = NewVIN()
	return vin, MustV5(t, e.Gateway, vin, e.VehicleToken(vin))
}

func telemetry(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	payload := `{"soc": 71.5, "speed": 63.2, "gear": "D", "charging": false, "nested": {"x": 1}}`
	before := time.Now().Add(-time.Second)
	if code := v.Send(t, "v1/"+vin+"/up/telemetry", payload); code != 0 {
		t.Fatalf("PUBACK reason 0x%02x", code)
	}
	got := await(t, e.Cell, "vehicle.telemetry", vin, 1)[0]
	if string(got.Value) != payload {
		t.Errorf("value %s, want the payload as sent", got.Value)
	}
	want := map[string]string{"cell": "cell-test-01", "vin": vin, "topic": "v1/" + vin + "/up/telemetry", "rule": "telemetry", "target": "0"}
	for name, value := range want {
		if got.Headers[name] != value {
			t.Errorf("header %s = %q, want %q", name, got.Headers[name], value)
		}
	}
	if !strings.HasPrefix(got.Headers["msg-id"], "gw-1-") {
		t.Errorf("msg-id %q does not begin with the node's name", got.Headers["msg-id"])
	}
	at, err := time.Parse("2006-01-02T15:04:05.000Z", got.Headers["received-at"])
	if err != nil || at.Before(before) || time.Until(at) > time.Minute {
		t.Errorf("received-at %q: %v", got.Headers["received-at"], err)
	}
	if !got.Timestamp.Equal(at) {
		t.Errorf("timestamp %v, want received-at %v", got.Timestamp, at)
	}
	latestState(t, e, vin)
}

// latestState expects the sample rule's hash: scalar fields only, and _at.
func latestState(t *testing.T, e *Env, vin string) {
	t.Helper()
	check.Within(t, check.Patience, "hash of the vehicle", func() error {
		hash, err := e.Redis.HGetAll(t.Context(), "veh:"+vin).Result()
		if err != nil {
			return err
		}
		for field, want := range map[string]string{"soc": "71.5", "speed": "63.2", "gear": "D", "charging": "false"} {
			if hash[field] != want {
				return fmt.Errorf("field %s is %q, want %q in %v", field, hash[field], want, hash)
			}
		}
		if hash["_at"] == "" || hash["nested"] != "" {
			return fmt.Errorf("want _at and no nested field: %v", hash)
		}
		return nil
	})
}

func lowBattery(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	for _, soc := range []string{"9", "8", "17", "9", "25", "9"} { // fires at the first and the last 9
		v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": `+soc+`}`)
	}
	await(t, e.Cell, "vehicle.telemetry", vin, 6)
	alerts := await(t, e.Cell, "vehicle.alerts", vin, 2)
	centre := await(t, e.Central, "fleet.alerts", vin, 2)
	if len(alerts) != 2 || len(centre) != 2 {
		t.Errorf("%d alerts in the cell and %d in the centre, want 2 and 2", len(alerts), len(centre))
	}
	for _, header := range []string{"src-cell", "src-topic", "src-partition", "src-offset", "msg-id", "vin"} {
		if centre[0].Headers[header] == "" {
			t.Errorf("header %s is missing in the centre: %v", header, centre[0].Headers)
		}
	}
	if got := centre[0].Headers["src-topic"]; got != "central.p0" {
		t.Errorf("src-topic %q, want central.p0", got)
	}
}

func alarm(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	v.Send(t, "v1/"+vin+"/up/alarm", `{"code": "THERMAL", "level": 3}`)
	await(t, e.Cell, "vehicle.alerts", vin, 1)
	await(t, e.Central, "fleet.alerts", vin, 1)
}

func sampled(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	for range 5 {
		v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": 50}`)
	}
	want, next := 0, time.Time{}
	for _, r := range await(t, e.Cell, "vehicle.telemetry", vin, 5) {
		if !r.Timestamp.Before(next) { // a slow machine may take more than 10 s for them
			want, next = want+1, r.Timestamp.Add(10*time.Second)
		}
	}
	if got := await(t, e.Central, "fleet.telemetry", vin, want); len(got) != want {
		t.Errorf("%d records in the centre for 5 messages, want %d: one in 10 s", len(got), want)
	}
}

func properties(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	_, err := v.Publish(ctx, &paho.Publish{
		QoS: 1, Topic: "v1/" + vin + "/up/telemetry", Payload: []byte(`{}`),
		Properties: &paho.PublishProperties{
			ContentType: "application/json",
			User:        paho.UserProperties{{Key: "trace", Value: "abc"}, {Key: "msg-id", Value: "forged"}},
		},
	})
	check.OK(t, err)
	got := await(t, e.Cell, "vehicle.telemetry", vin, 1)[0].Headers
	if got["content-type"] != "application/json" || got["mqtt-trace"] != "abc" || got["mqtt-msg-id"] != "forged" || got["msg-id"] == "forged" {
		t.Errorf("headers %v", got)
	}
}

func v3Publishes(t *testing.T, e *Env) {
	vin := NewVIN()
	c, _, err := DialV3(t, e.Gateway, vin, e.VehicleToken(vin))
	check.OK(t, err)
	for qos := range 3 {
		token := c.Publish("v1/"+vin+"/up/telemetry", byte(qos), false, fmt.Sprintf(`{"seq": %d}`, qos))
		if !token.WaitTimeout(check.Patience) || token.Error() != nil {
			t.Fatalf("QoS %d: %v", qos, token.Error())
		}
	}
	for i, r := range await(t, e.Cell, "vehicle.telemetry", vin, 3) {
		if want := fmt.Sprintf(`{"seq": %d}`, i); string(r.Value) != want {
			t.Errorf("record %d is %s, want %s: the order of one vehicle is kept", i, r.Value, want)
		}
	}
}

// Command is what the HTTP API says about a command.
type Command struct {
	ID, State string
	Result    json.RawMessage
}

func command(t *testing.T, e *Env) {
	vin, v := listener(t, e)
	status, body, err := e.Do(http.MethodPost, "/v1/vehicles/"+vin+"/commands", e.Operator,
		map[string]any{"name": "unlock", "payload": map[string]any{"doors": "all"}, "ttl": "30s"})
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("POST: %d %s %v", status, body, err)
	}
	var sent Command
	if err := json.Unmarshal(body, &sent); err != nil || sent.ID == "" {
		t.Fatalf("no id in %s: %v", body, err)
	}
	succeeds(t, e, vin, v, sent.ID)
}

func kafkaCommand(t *testing.T, e *Env) {
	vin, v := listener(t, e)
	id := "by-kafka-" + vin
	value := fmt.Sprintf(`{"id":%q,"vin":%q,"name":"unlock","payload":{"doors":"all"},"ttl":"30s"}`, id, vin)
	e.Cell.Write("vehicle.commands", vin, value)
	e.Cell.Write("vehicle.commands", vin, value) // the service did not hear that the first one was written
	succeeds(t, e, vin, v, id)
	select {
	case m := <-v.Messages:
		t.Errorf("a second message: %s on %s", m.Payload, m.Topic)
	default:
	}
}

// listener is a connected vehicle that takes commands.
func listener(t *testing.T, e *Env) (vin string, v *V5) {
	t.Helper()
	vin, v = vehicle(t, e)
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	_, err := v.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "v1/" + vin + "/cmd/#", QoS: 1}}})
	check.OK(t, err)
	return vin, v
}

// succeeds has the vehicle carry a command out, and checks what its sender learns.
func succeeds(t *testing.T, e *Env, vin string, v *V5, id string) {
	t.Helper()
	answerCommand(t, vin, v, id)
	check.Within(t, check.Patience, "command succeeded", func() error {
		_, body, err := e.Get("/v1/vehicles/"+vin+"/commands/"+id, e.Operator)
		if err != nil {
			return err
		}
		var now Command
		if err := json.Unmarshal(body, &now); err != nil || now.State != "succeeded" {
			return fmt.Errorf("%s: %w", body, errors.Join(err, errors.New("not succeeded")))
		}
		return nil
	})
	results := e.Cell.Await("vehicle.command-results", check.Patience, func(all []harness.Record) error {
		if !strings.Contains(states(of(vin, all)), "succeeded") {
			return fmt.Errorf("states so far: %s", states(of(vin, all)))
		}
		return nil
	})
	if got := states(of(vin, results)); !strings.HasSuffix(got, "delivered accepted succeeded") {
		t.Errorf("states in Kafka: %s", got)
	}
}

// answerCommand waits for the command at the vehicle and answers accepted, then succeeded.
func answerCommand(t *testing.T, vin string, v *V5, id string) {
	t.Helper()
	select {
	case m := <-v.Messages:
		if want := "v1/" + vin + "/cmd/" + id + "/unlock"; m.Topic != want || string(m.Payload) != `{"doors":"all"}` {
			t.Fatalf("got %s on %s, want the payload on %s", m.Payload, m.Topic, want)
		}
		if m.Properties.MessageExpiry == nil || m.Properties.User.Get("issued-at") == "" || m.Properties.User.Get("expires-at") == "" {
			t.Errorf("the command lacks its expiry: %+v", m.Properties)
		}
	case <-time.After(check.Patience):
		t.Fatal("the command did not reach the vehicle")
	}
	v.Send(t, "v1/"+vin+"/res/"+id+"/accepted", "")
	v.Send(t, "v1/"+vin+"/res/"+id+"/succeeded", `{"locked":false}`)
}

func states(records []harness.Record) string {
	var out []string
	for _, r := range records {
		var event struct{ State string }
		_ = json.Unmarshal(r.Value, &event)
		out = append(out, event.State)
	}
	return strings.Join(out, " ")
}

func serviceSubscribes(t *testing.T, e *Env) {
	service := MustV5(t, e.Gateway, "dashboard", e.Cellgate("token", "issue", "--config", e.Config, "--service", "dashboard", "--scope", "telemetry:read"))
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	_, err := service.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "v1/+/up/#", QoS: 1}}})
	check.OK(t, err)
	vin, v := vehicle(t, e)
	v.Send(t, "v1/"+vin+"/up/event/door", `{"open":true}`)
	for {
		select {
		case m := <-service.Messages:
			if m.Topic == "v1/"+vin+"/up/event/door" && string(m.Payload) == `{"open":true}` {
				return
			}
		case <-ctx.Done():
			t.Fatal("the service was not sent what the vehicle published")
		}
	}
}

func refused(t *testing.T, e *Env) {
	vin, other := NewVIN(), NewVIN()
	expired := expiredToken(t, e, vin)
	for _, c := range []struct {
		name, token string
		v5          byte
		v3          byte
	}{
		{"no token", "", 0x86, 4},
		{"an expired token", expired, 0x86, 4},
		{"another vehicle's token", e.VehicleToken(other), 0x87, 5},
		{"garbage", "not.a.token", 0x86, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := DialV5(t, e.Gateway, vin, c.token)
			if err == nil {
				t.Fatal("let in over MQTT 5")
			}
			if v.Connack == nil || v.Connack.ReasonCode != c.v5 {
				t.Errorf("MQTT 5: %+v (%v), want reason 0x%02x", v.Connack, err, c.v5)
			}
			_, _, err = DialV3(t, e.Gateway, vin, c.token)
			if want := map[byte]string{4: "bad user name or password", 5: "not Authorized"}[c.v3]; err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
				t.Errorf("3.1.1: %v, want %q", err, want)
			}
		})
	}
	if got := of(vin, e.Cell.Read("vehicle.telemetry")); len(got) != 0 {
		t.Errorf("%d records of a vehicle that was never let in", len(got))
	}
}

// expiredToken returns a token that was good and has run out; the test's gateway has a leeway of 1 s.
func expiredToken(t *testing.T, e *Env, vin string) string {
	t.Helper()
	ttl := 2 * time.Second
	token := e.VehicleToken(vin, "--ttl", ttl.String())
	for {
		_, err := DialV5(t, e.Gateway, vin, token)
		if err == nil {
			break
		}
		if ttl *= 2; ttl > check.Patience { // a slow machine may take longer than a token lasts
			t.Fatalf("a fresh token of %v: %v", ttl/2, err)
		}
		token = e.VehicleToken(vin, "--ttl", ttl.String())
	}
	check.Within(t, 2*check.Patience, "the token to expire", func() error {
		if v, err := DialV5(t, e.Gateway, vin, token); err == nil {
			_ = v.Disconnect(&paho.Disconnect{})
			return errors.New("still let in")
		}
		return nil
	})
	return token
}

func ownTopics(t *testing.T, e *Env) {
	vin, v := vehicle(t, e)
	other := NewVIN()
	if code := v.Send(t, "v1/"+other+"/up/telemetry", `{"soc": 1}`); code != 0x87 {
		t.Errorf("PUBACK 0x%02x for another vehicle's topic, want 0x87", code)
	}
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	for _, filter := range []string{"v1/" + other + "/cmd/#", "v1/+/cmd/#", "#", "$share/g/v1/" + other + "/cmd/#"} {
		ack, err := v.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}})
		if ack == nil || len(ack.Reasons) != 1 || ack.Reasons[0] != 0x87 {
			t.Errorf("SUBSCRIBE %s: %+v %v, want 0x87", filter, ack, err)
		}
	}
	old, lost, err := DialV3(t, e.Gateway, vin, e.VehicleToken(vin))
	check.OK(t, err)
	ownTopicsV3(t, old, lost, other)
	if got := of(other, e.Cell.Read("vehicle.telemetry")); len(got) != 0 {
		t.Errorf("%d records of %s, which never published", len(got), other)
	}
}

// ownTopicsV3: 3.1.1 has no reason codes; a SUBSCRIBE is answered 0x80, a PUBLISH ends the connection.
func ownTopicsV3(t *testing.T, c mqtt3.Client, lost <-chan struct{}, other string) {
	t.Helper()
	sub := c.Subscribe("v1/"+other+"/cmd/#", 1, nil)
	if !sub.WaitTimeout(check.Patience) {
		t.Error("no SUBACK")
	} else if got := sub.(*mqtt3.SubscribeToken).Result()["v1/"+other+"/cmd/#"]; got != 0x80 {
		t.Errorf("3.1.1 SUBACK 0x%02x, want 0x80", got)
	}
	c.Publish("v1/"+other+"/up/telemetry", 1, false, `{"soc": 1}`)
	select {
	case <-lost:
	case <-time.After(check.Patience):
		t.Error("the 3.1.1 connection was not closed")
	}
}

func brokenRules(t *testing.T, e *Env) {
	file := filepath.Join(e.Dir, "rules", "scenario.rules.yaml")
	t.Cleanup(func() { _ = os.Remove(file) })
	const good = `rules:
  - id: scenario
    from: ["v1/+/up/scenario"]
    when: payload.n > 1
    to:
      - kafka: {topic: vehicle.scenario}
`
	write := func(text string) {
		check.OK(t, os.WriteFile(file, []byte(text), 0o600))
	}
	write(strings.Replace(good, "payload.n > 1", "payload.n >", 1))
	check.Within(t, check.Patience, "the error in the log", func() error {
		if log := e.Tail(200); !strings.Contains(log, "scenario.rules.yaml:4:") {
			return errors.New("no line names scenario.rules.yaml:4")
		}
		return nil
	})
	vin, v := vehicle(t, e)
	v.Send(t, "v1/"+vin+"/up/telemetry", `{"soc": 50}`)
	await(t, e.Cell, "vehicle.telemetry", vin, 1)
	write(good)
	check.Within(t, check.Patience, "the mended rule at work", func() error {
		v.Send(t, "v1/"+vin+"/up/scenario", `{"n": 2}`)
		if len(of(vin, e.Cell.Read("vehicle.scenario"))) == 0 {
			return errors.New("nothing in vehicle.scenario")
		}
		return nil
	})
}

func ledger(t *testing.T, e *Env) {
	check.Within(t, check.Patience, "a settled ledger", func() error { return e.Settled(e.Operator) })
	lines, err := e.Ledger(e.Operator)
	check.OK(t, err)
	for _, sink := range []string{"kafka", "redis", "central"} {
		if line, ok := lines[sink]; !ok || line.Received == 0 || line.Delivered == 0 || !line.Balanced {
			t.Errorf("ledger of %s: %+v", sink, line)
		}
	}
}
