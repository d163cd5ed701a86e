package conformance

import (
	"testing"
	"time"

	"cellgate/test/mqtt"
)

func sessionCases() []testCase {
	return []testCase{
		both("session/clean", testClean),
		both("session/resumed", testResumed),
		both("session/new", testNewSession),
		both("session/identity", testIdentity),
		both("session/takeover_resumes", testTakeoverResumes),
		both("session/ends_with_connection", testEndsWithConnection),
		both("session/retained_outlive_it", testRetainedOutlive),
		only(mqtt.V5, "session/expiry", testExpiry),
		only(mqtt.V5, "session/expiry_at_disconnect", testExpiryAtDisconnect),
		both("session/kept_while_connected", testKeptWhileConnected),
	}
}

// lasting is a CONNECT whose session survives the connection.
func lasting(v byte, id string) mqtt.Connect {
	o := mqtt.Connect{Version: v, ID: id, Keep: true}
	if v == mqtt.V5 {
		o.Props = [][]byte{mqtt.Number(mqtt.SessionExpiry, 600)}
	}
	return o
}

func testClean(t *testing.T, e *env, v byte) {
	topic := "clean/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Disconnect()
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "queued", QoS: 1})
	o.Keep = false
	c, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 0)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "live", QoS: 1})
	c.Subscribe(mqtt.Filter(topic+"/marker", 1))
	pub.Publish(mqtt.Publish{Topic: topic + "/marker", Payload: "marker", QoS: 1})
	equal(t, "first message of the new session", c.Message().Payload, "marker")
	c.Disconnect()
	o.Keep = true
	_, ack = e.open(t, o)
	equal(t, "session present afterwards", ack.Present, v-mqtt.V4) // 3.1.1: clean sessions end with the connection
}

func testResumed(t *testing.T, e *env, v byte) {
	topic := "resumed/" + e.unique()
	o := lasting(v, e.unique())
	c, ack := e.open(t, o)
	equal(t, "session present at first", ack.Present, 0)
	c.Subscribe(mqtt.Filter(topic+"/1", 1), mqtt.Filter(topic+"/2", 2), mqtt.Filter(topic+"/0", 0))
	c.Disconnect()
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic + "/1", Payload: "one", QoS: 1})
	pub.Publish(mqtt.Publish{Topic: topic + "/2", Payload: "two", QoS: 2})
	c, ack = e.open(t, o)
	equal(t, "session present", ack.Present, 1)
	equalList(t, "stored messages", c.Messages(2), "one", "two")
	pub.Publish(mqtt.Publish{Topic: topic + "/0", Payload: "live"})
	equal(t, "by the old subscription", c.Message().Payload, "live")
	c.Disconnect()
}

func testNewSession(t *testing.T, e *env, v byte) {
	o := lasting(v, e.unique())
	c, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 0)
	c.Disconnect()
	_, ack = e.open(t, o)
	equal(t, "session present the second time", ack.Present, 1)
}

func testIdentity(t *testing.T, e *env, v byte) {
	topic := "identity/" + e.unique()
	one, two := lasting(v, e.unique()+"a"), lasting(v, e.unique()+"A")
	c, _ := e.open(t, one)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Disconnect()
	other, ack := e.open(t, two)
	equal(t, "session present for another identifier", ack.Present, 0)
	other.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
	c, ack = e.open(t, one)
	equal(t, "session present", ack.Present, 1)
	equal(t, "payload", c.Message().Payload, "x")
}

func testTakeoverResumes(t *testing.T, e *env, v byte) {
	topic := "takeover/" + e.unique()
	o := lasting(v, e.unique())
	first, _ := e.open(t, o)
	first.Subscribe(mqtt.Filter(topic, 1))
	e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
	unacked := first.Expect(mqtt.PUBLISH)
	second, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 1)
	first.ExpectEnd(0x8E)
	again := second.Message()
	equal(t, "identifier", again.ID, unacked.ID)
	equal(t, "DUP", again.Dup(), true)
}

func testEndsWithConnection(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique()}
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter("ends/"+e.unique(), 1))
	c.Drop()
	o.Keep = true
	c, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 0)
	if v == mqtt.V4 {
		return
	}
	c.Drop() // session expiry was absent, which is 0
	_, ack = e.open(t, o)
	equal(t, "session present without an expiry", ack.Present, 0)
}

func testRetainedOutlive(t *testing.T, e *env, v byte) {
	topic := "outlive/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	c.Disconnect()
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter(topic, 1))
	equal(t, "payload", w.Message().Payload, "kept")
}

// waitOut waits for time to pass at the gateway, for statements about time.
func waitOut(d time.Duration) { time.Sleep(d) }

func testExpiry(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique(), Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 1)}, Keep: true}
	keep := mqtt.Connect{
		Version: v, ID: e.unique(), Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 0xFFFFFFFF)},
		Keep: true,
	}
	c, ack := e.open(t, o)
	if p, there := ack.Prop(mqtt.SessionExpiry); there {
		t.Errorf("session expiry changed to %d", p.Num)
	}
	c.Drop()
	k, ack := e.open(t, keep)
	if p, _ := ack.Prop(mqtt.SessionExpiry); p.Num != 7*24*3600 {
		t.Errorf("session expiry %d, want the most that is kept", p.Num)
	}
	k.Drop()
	waitOut(2200 * time.Millisecond)
	_, ack = e.open(t, o)
	equal(t, "session present after its expiry", ack.Present, 0)
	_, ack = e.open(t, keep)
	equal(t, "session present of one that never expires", ack.Present, 1)
}

func testExpiryAtDisconnect(t *testing.T, e *env, v byte) {
	goodbye := func(expiry uint32) []byte {
		return mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0}, mqtt.Properties(mqtt.Number(mqtt.SessionExpiry, expiry)))
	}
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Send(goodbye(0))
	c.ExpectClosed()
	c, ack := e.open(t, o)
	equal(t, "session present after an expiry of 0", ack.Present, 0)
	c.Send(goodbye(1000))
	c.ExpectClosed()
	c, ack = e.open(t, o)
	equal(t, "session present after a longer expiry", ack.Present, 1)
	c.Drop()
	o.Props = nil // each CONNECT sets the expiry again
	c, ack = e.open(t, o)
	equal(t, "session present for a CONNECT without expiry", ack.Present, 1)
	c.Disconnect()
	_, ack = e.open(t, o)
	equal(t, "session present after it", ack.Present, 0)
	e.violates(t, v, goodbye(1), 0x82)
}

// testKeptWhileConnected has an expiry shorter than the connection.
func testKeptWhileConnected(t *testing.T, e *env, v byte) {
	topic := "kept/" + e.unique()
	o := lasting(v, e.unique())
	if v == mqtt.V5 {
		o.Props = [][]byte{mqtt.Number(mqtt.SessionExpiry, 1)}
	}
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 1))
	waitOut(time.Duration(v-mqtt.V4) * 2200 * time.Millisecond) // 3.1.1 has no expiry
	e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
	equal(t, "payload", c.Message().Payload, "x")
	c.Drop()
	_, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 1)
}
