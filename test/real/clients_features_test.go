//go:build real

package real

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"cellgate/test/check"
	"cellgate/test/scenario"
)

// feature is a test that every client runs on its own.
type feature struct {
	name string
	wss  bool
	test func(*testing.T, *caller)
}

func features() []feature {
	return []feature{
		{name: "connect", test: connects},
		{name: "refused", test: isRefused},
		{name: "QoS 0", test: publishes(0)},
		{name: "QoS 1", test: publishes(1)},
		{name: "QoS 2", test: publishes(2)},
		{name: "down", test: receives},
		{name: "resume", test: resumes},
		{name: "will", test: leavesWill},
		{name: "wss", wss: true, test: overWebSocket},
	}
}

// connects connects a vehicle; the gateway shows it with the right version until it leaves.
func connects(t *testing.T, c *caller) {
	j := c.vehicle(t)
	j.Subscribe, j.Stay = []subscription{{"v1/" + j.ClientID + "/sys/#", 1}}, true
	r := c.start(t, j)
	if e := r.next(t, "connected"); e.Code != 0 || c.present != (e.Present != nil) || (c.present && *e.Present) {
		t.Errorf("CONNACK %+v, want 0 without a session", e)
	}
	if codes := r.next(t, "subscribed").Codes; !slices.Equal(codes, []int{1}) {
		t.Errorf("SUBACK %v, want [1]", codes)
	}
	if status, v := c.presence(t, j.ClientID); status != http.StatusOK || !v.Connected || v.MQTT != c.speaks() {
		t.Errorf("the gateway says %d %+v, want it connected on %s", status, v, c.speaks())
	}
	r.done(t)
	check.Within(t, patience, "gone", func() error {
		if _, v := c.presence(t, j.ClientID); v.Connected {
			return fmt.Errorf("still %+v", v)
		}
		return nil
	})
}

// presence is the API's answer about a vehicle.
type presence struct {
	Connected bool
	MQTT      string
}

func (c *cell) presence(t *testing.T, vin string) (status int, p presence) {
	t.Helper()
	status, body, err := c.a.Get("/v1/vehicles/"+vin, c.operator)
	check.OK(t, err)
	_ = json.Unmarshal(body, &p) // a problem has neither field
	return status, p
}

// isRefused connects with wrong tokens; the client shows the standard's code.
func isRefused(t *testing.T, c *caller) {
	own := c.vehicle(t)
	own.Subscribe = []subscription{{"v1/" + own.ClientID + "/sys/#", 1}}
	for _, no := range []struct {
		password          string
		return311, reason int
	}{
		{"not.a.token", 4, 0x86},
		{c.token(t, scenario.NewVIN()), 5, 0x87}, // another vehicle's
		{own.Password[:len(own.Password)-4] + "AAAA", 4, 0x86},
	} {
		j := own
		j.Password = no.password
		r := c.start(t, j)
		if e, want := r.next(t, "refused"), c.code(no.return311, no.reason); e.Code != want {
			t.Errorf("%s: refused with 0x%02X, want 0x%02X", no.password, e.Code, want)
		}
		if told := r.rest(t, "connected"); len(told) > 0 {
			t.Errorf("%s: let in after all", no.password)
		}
	}
}

// publishes sends telemetry. The client completes every exchange, and cell.audit finds all messages in Kafka.
func publishes(qos byte) func(*testing.T, *caller) {
	return func(t *testing.T, c *caller) {
		const n = 50
		j := c.vehicle(t)
		j.Publish = up(j.ClientID, "telemetry", qos, 0, n)
		j.Publish[n-1].QoS = max(qos, 1) // its answer shows that the gateway has read all: a client that just leaves may lose messages under way
		r := c.start(t, j)
		r.next(t, "connected")
		for i, e := range r.all(t, "published", n) {
			if e.QoS != j.Publish[i].QoS || e.Code != 0 {
				t.Errorf("message %d: %+v", i, e)
			}
		}
		r.next(t, "left")
		if more := r.rest(t, "published"); len(more) != 0 {
			t.Errorf("%d messages too many: %+v", len(more), more)
		}
		c.expect(t, "vehicle.telemetry", j.ClientID, n)
	}
}

// receives runs the client as a vehicle that gets commands, at most at QoS 1, and as a service that gets a vehicle's
// messages at the QoS of their publication.
func receives(t *testing.T, c *caller) {
	j := c.vehicle(t)
	j.Subscribe, j.Stay = []subscription{{"v1/" + j.ClientID + "/cmd/#", 2}}, true
	vehicle := c.start(t, j)
	if codes := vehicle.next(t, "subscribed").Codes; !slices.Equal(codes, []int{1}) {
		t.Errorf("SUBACK %v, want [1]", codes)
	}
	for i := range 5 {
		name := fmt.Sprintf("honk%d", i)
		id := c.command(t, c.a, j.ClientID, name)
		c.isCommand(t, vehicle.next(t, "message"), j.ClientID, id, name)
		c.delivered(t, c.a, j.ClientID, id)
	}
	vehicle.done(t)

	vin := scenario.NewVIN()
	w := c.watcher()
	w.Subscribe, w.Stay = []subscription{{"v1/" + vin + "/up/#", 2}}, true
	service := c.start(t, w)
	if codes := service.next(t, "subscribed").Codes; !slices.Equal(codes, []int{2}) {
		t.Errorf("SUBACK %v, want [2]", codes)
	}
	sent := slices.Concat(up(vin, "event/door", 0, 0, 5), up(vin, "event/door", 1, 5, 5), up(vin, "event/door", 2, 10, 5))
	c.send(t, vin, sent)
	isSame(t, service.all(t, "message", len(sent)), sent)
	service.done(t)
}

func (c *cell) isCommand(t *testing.T, e event, vin, id, name string) {
	t.Helper()
	if topic := "v1/" + vin + "/cmd/" + id + "/" + name; e.Topic != topic || e.QoS != 1 || !strings.Contains(e.Payload, name) {
		t.Errorf("%+v, want the command %s at QoS 1", e, topic)
	}
}

// isSame compares what a client received with what was published: everything, once, in order, at its QoS.
func isSame(t *testing.T, got []event, sent []letter) {
	t.Helper()
	for i, e := range got {
		if (letter{e.Topic, e.Payload, e.QoS}) != sent[i] {
			t.Errorf("message %d is %+v, want %+v", i, e, sent[i])
		}
	}
}

// send publishes as a vehicle, with the tests' own client.
func (c *cell) send(t *testing.T, vin string, letters []letter) {
	t.Helper()
	v := scenario.MustV5(t, c.a, vin, c.token(t, vin))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, l := range letters {
		_, err := v.Publish(ctx, &paho.Publish{Topic: l.Topic, Payload: []byte(l.Payload), QoS: l.QoS})
		check.OK(t, err)
	}
	_ = v.Disconnect(&paho.Disconnect{})
}

// resumes leaves without ending the session, as a vehicle and as a service. When the client returns, it gets the
// messages sent meanwhile without subscribing again.
func resumes(t *testing.T, c *caller) {
	j := c.vehicle(t)
	c.leaveSession(t, &j, "v1/"+j.ClientID+"/cmd/#", 1)
	id := c.command(t, c.a, j.ClientID, "wake")
	r := c.back(t, j)
	c.isCommand(t, r.next(t, "message"), j.ClientID, id, "wake")
	c.delivered(t, c.a, j.ClientID, id)
	r.done(t)

	vin := scenario.NewVIN()
	w := c.watcher()
	c.leaveSession(t, &w, "v1/"+vin+"/up/#", 2)
	sent := slices.Concat(up(vin, "event/door", 1, 0, 5), up(vin, "event/door", 2, 5, 5))
	c.send(t, vin, sent)
	r = c.back(t, w)
	isSame(t, r.all(t, "message", len(sent)), sent)
	r.done(t)
}

func (c *caller) leaveSession(t *testing.T, j *job, filter string, qos byte) {
	t.Helper()
	j.Clean, j.Subscribe = false, []subscription{{filter, qos}}
	r := c.start(t, *j)
	r.next(t, "subscribed")
	r.next(t, "left")
	r.rest(t, "left")
}

// back reconnects to the session.
func (c *caller) back(t *testing.T, j job) *running {
	t.Helper()
	j.Stay = true
	if c.present { // mosquitto_sub always subscribes again
		j.Subscribe = nil
	}
	r := c.start(t, j)
	if e := r.next(t, "connected"); c.present && !*e.Present {
		t.Errorf("CONNACK %+v, want the session present", e)
	}
	return r
}

// leavesWill leaves twice: after a DISCONNECT no will is sent; after a cut connection it is. A service gets it, and
// cell.audit finds it in Kafka.
func leavesWill(t *testing.T, c *caller) {
	j := c.vehicle(t)
	watcher := scenario.MustV5(t, c.a, "watch/"+scenario.NewVIN(), c.service)
	topic := "v1/" + j.ClientID + "/up/alarm"
	_, err := watcher.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: 1}}})
	check.OK(t, err)
	j.Subscribe = []subscription{{"v1/" + j.ClientID + "/sys/#", 1}}
	j.Will = &letter{topic, `{"n":-1}`, 1}
	orderly := c.start(t, j)
	orderly.next(t, "left")
	orderly.rest(t, "left")

	j.Stay, j.Will = true, &letter{topic, `{"n":0}`, 1}
	r := c.start(t, j)
	r.next(t, "subscribed")
	r.cut()
	select {
	case m := <-watcher.Messages:
		if string(m.Payload) != `{"n":0}` || m.QoS != 1 {
			t.Errorf("will %s at QoS %d", m.Payload, m.QoS)
		}
	case <-time.After(patience):
		t.Fatal("no will was sent")
	}
	c.expect(t, "vehicle.alerts", j.ClientID, 1)
}

// overWebSocket publishes and receives over wss.
func overWebSocket(t *testing.T, c *caller) {
	j := c.vehicle(t)
	j.Transport, j.Address, j.Stay = "wss", c.web, true
	j.Subscribe = []subscription{{"v1/" + j.ClientID + "/cmd/#", 1}}
	for qos := range byte(3) {
		j.Publish = append(j.Publish, up(j.ClientID, "telemetry", qos, 10*int(qos), 10)...)
	}
	r := c.start(t, j)
	r.next(t, "subscribed")
	r.all(t, "published", len(j.Publish))
	id := c.command(t, c.a, j.ClientID, "honk")
	c.isCommand(t, r.next(t, "message"), j.ClientID, id, "honk")
	c.delivered(t, c.a, j.ClientID, id)
	r.done(t)
	c.expect(t, "vehicle.telemetry", j.ClientID, len(j.Publish))

	j.Password = "not.a.token"
	r = c.start(t, j)
	if e := r.next(t, "refused"); e.Code != c.code(4, 0x86) {
		t.Errorf("refused with 0x%02X", e.Code)
	}
}
