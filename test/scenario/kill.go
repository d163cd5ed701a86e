package scenario

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// PresenceEvent is a value on vehicle.presence.
type PresenceEvent struct {
	VIN    string `json:"vin"`
	Cell   string `json:"cell"`
	Node   string `json:"node"`
	Epoch  int64  `json:"epoch"`
	Seq    uint64 `json:"seq"`
	Event  string `json:"event"`
	At     string `json:"at"`
	Reason string `json:"reason,omitempty"`
}

// told returns a vehicle's events on the topic in order, with their reasons. Events shortly before a kill may
// be repeated. It fails the test when they are not written in order otherwise.
func told(t *testing.T, cell *harness.Kafka, vin string) (text string, last PresenceEvent) {
	t.Helper()
	type mark struct {
		epoch int64
		seq   uint64
	}
	seen := map[mark]bool{}
	for _, r := range cell.Read("vehicle.presence") {
		var e PresenceEvent
		check.OK(t, json.Unmarshal(r.Value, &e))
		if r.Key != vin {
			continue
		}
		if m := (mark{e.Epoch, e.Seq}); seen[m] {
			continue
		} else if seen[m] = true; e.VIN != vin || e.Node == "" || e.Cell == "" || e.At == "" ||
			cmp.Or(cmp.Compare(e.Epoch, last.Epoch), cmp.Compare(e.Seq, last.Seq)) < 0 {
			t.Fatalf("%+v after %+v", e, last)
		}
		text += fmt.Sprint(e.Event, " ", e.Reason, ",")
		last = e
	}
	return text, last
}

// arrive connects a vehicle that takes commands.
func arrive(t *testing.T, g *harness.Gateway, vin string) *mqtt.T {
	t.Helper()
	c := mqtt.DialT(t, g.Lab, 5, nil)
	c.Open(mqtt.Connect{Version: 5, ID: vin, Keepalive: 60})
	_, err := c.Client.Subscribe(nil, mqtt.Filter("v1/"+vin+"/cmd/#", 1))
	check.OK(t, err)
	return c
}

// PresenceThroughAKill kills the gateway while vehicles are connected; some reconnect. Kafka, Redis and the API must
// report the actual state, and every session must end.
func PresenceThroughAKill(t *testing.T, cell *harness.Kafka, redis string) {
	e := Start(t, cell, nil, redis, func(o *harness.Options) { o.Extra = "presence: {grace: 2s}\n" })
	const begun, killed, back = "connected ,ready ,", "disconnected gateway_lost,", "connected ,ready ,"
	vins := map[string]string{}
	for name := range map[string]bool{"leaves": true, "replaced": true, "returns": true, "stays away": true} {
		vins[name] = NewVIN()
	}
	await := func(name, want string) {
		t.Helper()
		check.Within(t, time.Minute, name, func() error {
			got, last := told(t, cell, vins[name])
			if got != want {
				return fmt.Errorf("told %s, want %s", got, want)
			}
			if have := e.Redis.HGet(t.Context(), "presence:"+vins[name], "event").Val(); have != last.Event {
				return fmt.Errorf("redis says %q, want %q", have, last.Event)
			}
			return sameInAPI(e, vins[name], last)
		})
	}
	conns := map[string]*mqtt.T{}
	for name, vin := range vins {
		conns[name] = arrive(t, e.Gateway, vin)
		await(name, begun)
	}
	conns["leaves"].Send(mqtt.Disconnect())
	arrive(t, e.Gateway, vins["replaced"])
	await("leaves", begun+"disconnected client,")
	await("replaced", begun+"disconnected takeover,"+back)
	e.Kill()
	e.Gateway.Start()
	arrive(t, e.Gateway, vins["returns"])
	await("returns", begun+killed+back)
	await("stays away", begun+killed)
	await("replaced", begun+"disconnected takeover,"+back+killed)
	await("leaves", begun+"disconnected client,")
}

// sameInAPI compares the API with the last event.
func sameInAPI(e *Env, vin string, last PresenceEvent) error {
	var v struct {
		Connected bool          `json:"connected"`
		Presence  PresenceEvent `json:"presence"`
	}
	status, body, err := e.Get("/v1/vehicles/"+vin, e.Operator)
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound && last.Event == "disconnected":
		return nil // its session has ended too
	case status != http.StatusOK:
		return fmt.Errorf("%d: %s", status, body)
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	if v.Presence.Event != last.Event || v.Connected != (last.Event != "disconnected") {
		return fmt.Errorf("the API says %s, want %s", body, last.Event)
	}
	return nil
}

// CommandsThroughAKill has commands from Kafka for vehicles that are there, and kills the gateway: as soon as a vehicle is
// back its commands come. It fails the test when more than one in ten does not come within its time to live, as on a busy
// machine, and says how many.
func CommandsThroughAKill(t *testing.T, cell *harness.Kafka, redis string, ttl time.Duration) {
	const vehicles, rounds = 5, 4
	cell.CreateTopic("vehicle.commands", nil) // before: a topic that is made later is found a moment later
	e := Start(t, cell, nil, redis)
	vins := make([]string, vehicles)
	for i := range vins {
		vins[i] = NewVIN()
	}
	expired := 0
	for round := range rounds {
		if round > 0 {
			e.Kill()
			e.Gateway.Start()
		}
		for _, vin := range vins {
			c := arrive(t, e.Gateway, vin)
			c.Patience = 3 * ttl
			id := fmt.Sprint("r", round, "-", vin)
			cell.Write("vehicle.commands", vin, fmt.Sprintf(`{"id":%q,"vin":%q,"name":"horn","ttl":%q}`, id, vin, ttl))
			if !comes(c, "v1/"+vin+"/cmd/"+id+"/horn") {
				expired++
			}
			c.Drop()
		}
	}
	t.Logf("%d of %d commands of %v expired at vehicles that were there", expired, rounds*vehicles, ttl)
	if expired*10 > rounds*vehicles {
		t.Errorf("%d of %d commands expired at vehicles that were there", expired, rounds*vehicles)
	}
}

// comes reports whether a command reaches the vehicle. What comes before it was sent before the kill, and comes again.
func comes(c *mqtt.T, topic string) bool {
	for {
		p, err := c.Client.Next()
		if err != nil || p.Topic == topic {
			return err == nil
		}
	}
}

// SyncThroughAKill kills the gateway while it forwards. Forwarding must continue as soon as the gateway is back,
// without waiting for the previous session to expire, and the group must show no lag.
func SyncThroughAKill(t *testing.T, cell, central *harness.Kafka, redis string) {
	e := Start(t, cell, central, redis)
	vin := NewVIN()
	for round := range 3 {
		if round > 0 {
			e.Kill()
			e.Gateway.Start()
		}
		began := time.Now()
		c := mqtt.DialT(t, e.Lab, 5, nil)
		c.Open(mqtt.Connect{Version: 5, ID: vin})
		for n := range 20 {
			_, err := c.Client.Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/alarm", QoS: 1, Payload: fmt.Sprintf(`{"code":"%d-%d"}`, round, n)})
			check.OK(t, err)
		}
		central.Await("fleet.alerts", time.Minute, func(all []harness.Record) error {
			different := map[string]bool{}
			for _, r := range all {
				if r.Key == vin {
					different[r.Headers["msg-id"]] = true
				}
			}
			if len(different) != 20*(round+1) {
				return fmt.Errorf("%d alarms of %d are at the centre", len(different), 20*(round+1))
			}
			return nil
		})
		t.Logf("%v after the gateway served, its alarms were at the centre", time.Since(began).Round(time.Millisecond))
	}
}
