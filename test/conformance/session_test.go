package conformance

import (
	"testing"
	"time"
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
		only(v5, "session/expiry", testExpiry),
		only(v5, "session/expiry_at_disconnect", testExpiryAtDisconnect),
		both("session/kept_while_connected", testKeptWhileConnected),
	}
}

// lasting is a CONNECT whose session outlives the connection.
func lasting(v byte, id string) connect {
	o := connect{version: v, id: id}
	if v == v5 {
		o.props = [][]byte{num(pSessionExpiry, 600)}
	}
	return o
}

func testClean(t *testing.T, e *env, v byte) {
	topic := "clean/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 1})
	c.disconnect()
	pub := e.client(t, v)
	pub.publish(publish{topic: topic, payload: "queued", qos: 1})
	o.clean = true
	c, ack := e.open(t, o)
	equal(t, "session present", ack.present, 0)
	pub.publish(publish{topic: topic, payload: "live", qos: 1})
	c.subscribe(filter{topic + "/marker", 1})
	pub.publish(publish{topic: topic + "/marker", payload: "marker", qos: 1})
	equal(t, "first message of the new session", c.message().payload, "marker")
	c.disconnect()
	o.clean = false
	_, ack = e.open(t, o)
	equal(t, "session present afterwards", ack.present, v-v4) // 3.1.1: clean sessions end with the connection
}

func testResumed(t *testing.T, e *env, v byte) {
	topic := "resumed/" + e.unique()
	o := lasting(v, e.unique())
	c, ack := e.open(t, o)
	equal(t, "session present at first", ack.present, 0)
	c.subscribe(filter{topic + "/1", 1}, filter{topic + "/2", 2}, filter{topic + "/0", 0})
	c.disconnect()
	pub := e.client(t, v)
	pub.publish(publish{topic: topic + "/1", payload: "one", qos: 1})
	pub.publish(publish{topic: topic + "/2", payload: "two", qos: 2})
	c, ack = e.open(t, o)
	equal(t, "session present", ack.present, 1)
	equalList(t, "stored messages", c.messages(2), "one", "two")
	pub.publish(publish{topic: topic + "/0", payload: "live"})
	equal(t, "by the old subscription", c.message().payload, "live")
	c.disconnect()
}

func testNewSession(t *testing.T, e *env, v byte) {
	o := lasting(v, e.unique())
	c, ack := e.open(t, o)
	equal(t, "session present", ack.present, 0)
	c.disconnect()
	_, ack = e.open(t, o)
	equal(t, "session present the second time", ack.present, 1)
}

func testIdentity(t *testing.T, e *env, v byte) {
	topic := "identity/" + e.unique()
	one, two := lasting(v, e.unique()+"a"), lasting(v, e.unique()+"A")
	c, _ := e.open(t, one)
	c.subscribe(filter{topic, 1})
	c.disconnect()
	other, ack := e.open(t, two)
	equal(t, "session present for another identifier", ack.present, 0)
	other.publish(publish{topic: topic, payload: "x", qos: 1})
	c, ack = e.open(t, one)
	equal(t, "session present", ack.present, 1)
	equal(t, "payload", c.message().payload, "x")
}

func testTakeoverResumes(t *testing.T, e *env, v byte) {
	topic := "takeover/" + e.unique()
	o := lasting(v, e.unique())
	first, _ := e.open(t, o)
	first.subscribe(filter{topic, 1})
	e.client(t, v).publish(publish{topic: topic, payload: "x", qos: 1})
	unacked := first.expect(tPublish)
	second, ack := e.open(t, o)
	equal(t, "session present", ack.present, 1)
	first.expectEnd(0x8E)
	again := second.message()
	equal(t, "identifier", again.id, unacked.id)
	equal(t, "DUP", again.dup(), true)
}

func testEndsWithConnection(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), clean: true}
	c, _ := e.open(t, o)
	c.subscribe(filter{"ends/" + e.unique(), 1})
	c.drop()
	o.clean = false
	c, ack := e.open(t, o)
	equal(t, "session present", ack.present, 0)
	if v == v4 {
		return
	}
	c.drop() // session expiry was absent, which is 0
	_, ack = e.open(t, o)
	equal(t, "session present without an expiry", ack.present, 0)
}

func testRetainedOutlive(t *testing.T, e *env, v byte) {
	topic := "outlive/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	c.disconnect()
	w := e.client(t, v)
	w.subscribe(filter{topic, 1})
	equal(t, "payload", w.message().payload, "kept")
}

// waitOut waits for time to pass at the gateway, where that is what a statement is about.
func waitOut(d time.Duration) { time.Sleep(d) }

func testExpiry(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), props: [][]byte{num(pSessionExpiry, 1)}}
	keep := connect{version: v, id: e.unique(), props: [][]byte{num(pSessionExpiry, 0xFFFFFFFF)}}
	c, ack := e.open(t, o)
	if p, there := ack.prop(pSessionExpiry); there {
		t.Errorf("session expiry changed to %d", p.num)
	}
	c.drop()
	k, _ := e.open(t, keep)
	k.drop()
	waitOut(2200 * time.Millisecond)
	_, ack = e.open(t, o)
	equal(t, "session present after its expiry", ack.present, 0)
	_, ack = e.open(t, keep)
	equal(t, "session present of one that never expires", ack.present, 1)
}

func testExpiryAtDisconnect(t *testing.T, e *env, v byte) {
	goodbye := func(expiry uint32) []byte {
		return frame(tDisconnect<<4, []byte{0}, properties(num(pSessionExpiry, expiry)))
	}
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.send(goodbye(0))
	c.expectClosed()
	c, ack := e.open(t, o)
	equal(t, "session present after an expiry of 0", ack.present, 0)
	c.send(goodbye(1000))
	c.expectClosed()
	c, ack = e.open(t, o)
	equal(t, "session present after a longer expiry", ack.present, 1)
	c.drop()
	o.props = nil // each CONNECT sets the expiry anew
	c, ack = e.open(t, o)
	equal(t, "session present for a CONNECT without expiry", ack.present, 1)
	c.disconnect()
	_, ack = e.open(t, o)
	equal(t, "session present after it", ack.present, 0)
	e.violates(t, v, goodbye(1), 0x82)
}

// testKeptWhileConnected has an expiry shorter than the connection lasts.
func testKeptWhileConnected(t *testing.T, e *env, v byte) {
	topic := "kept/" + e.unique()
	o := lasting(v, e.unique())
	if v == v5 {
		o.props = [][]byte{num(pSessionExpiry, 1)}
	}
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 1})
	waitOut(time.Duration(v-v4) * 2200 * time.Millisecond) // 3.1.1 has no expiry to outwait
	e.client(t, v).publish(publish{topic: topic, payload: "x", qos: 1})
	equal(t, "payload", c.message().payload, "x")
	c.drop()
	_, ack := e.open(t, o)
	equal(t, "session present", ack.present, 1)
}
