package app

import (
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// TestSessionOfAServiceStays: a service's session belongs to one gateway. Another one has neither its subscriptions nor its
// messages, and its connection there does not end the first session; what is queued is delivered when the service is back.
func TestSessionOfAServiceStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	token, _, err := r.gw[0].Authority().Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{auth.ScopeTelemetryRead}})
	check.OK(t, err)
	check.Within(t, 20*time.Second, "the other gateway accepts the token", func() error {
		_, err := r.gw[1].Authority().Verify([]byte(token), auth.Peer{})
		return err
	})
	enter := func(gw int) *mqtt.T {
		c := mqtt.DialT(t, r.gw[gw].Addrs()["services"].String(), mqtt.V5, nil)
		c.Open(mqtt.Connect{
			Version: mqtt.V5, ID: "billing", User: "billing", Password: token, Keep: true, Keepalive: 600,
			Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)},
		})
		return c
	}
	topic := "v1/" + roamer + "/up/telemetry"
	first := enter(0)
	first.Subscribe(mqtt.Filter("v1/+/up/#", 1))
	first.Disconnect()
	car := r.connect(0, roamer, mqtt.V5)
	car.Publish(mqtt.Publish{Topic: topic, QoS: 1, ID: 1, Payload: `{"n":1}`})
	second := enter(1)
	if second.Ack.Present&1 != 0 {
		t.Error("another gateway has the session")
	}
	elsewhere := r.connect(1, "LROAM000000000002", mqtt.V5)
	elsewhere.Publish(mqtt.Publish{Topic: "v1/LROAM000000000002/up/telemetry", QoS: 1, ID: 1, Payload: `{"n":2}`})
	second.Ping() // what it was sent before would be read here
	if len(second.Got) != 0 {
		t.Errorf("another gateway has the subscriptions: %v", second.Got)
	}
	first = enter(0)
	if first.Ack.Present&1 != 1 {
		t.Error("the session is gone")
	}
	if p := first.Expect(mqtt.PUBLISH); p.Topic != topic || p.Payload != `{"n":1}` {
		t.Errorf("%v", p)
	}
	second.Ping() // a session elsewhere is another one
}
