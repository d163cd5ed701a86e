package conformance

import (
	"fmt"
	"testing"
	"time"
)

func willCases() []testCase {
	return []testCase{
		both("will/published", testWillPublished),
		both("will/normal_disconnect", testWillNormalDisconnect),
		only(v5, "will/disconnect_with_will", testWillDisconnectWithWill),
		both("will/none", testWillNone),
		both("will/retain", testWillRetain),
		both("will/once", testWillOnce),
		both("will/violation", testWillViolation),
		both("will/takeover", testWillTakeover),
		only(v5, "will/delay", testWillDelay),
		only(v5, "will/delay_resumed", testWillDelayResumed),
		only(v5, "will/delay_session_ends", testWillDelaySessionEnds),
		only(v5, "will/properties", testWillProperties),
		both("will/not_permitted", testWillNotPermitted),
	}
}

// watched subscribes a watcher at QoS 2 to a topic of its own.
func (e *env) watched(t *testing.T, v byte, branch string) (*client, string) {
	t.Helper()
	topic := branch + "/" + e.unique()
	w := e.client(t, v)
	w.subscribe(filter{topic, 2})
	return w, topic
}

// nothingBut publishes a marker and expects it as the next message: whatever was to come before it has not.
func (c *client) nothingBut(t *testing.T, e *env, topic string) {
	t.Helper()
	e.client(t, c.version).publish(publish{topic: topic, payload: "marker", qos: 2})
	equal(t, "next message", c.message().payload, "marker")
}

func withWill(v byte, id string, w *will) connect {
	return connect{version: v, id: id, clean: true, will: w}
}

func testWillPublished(t *testing.T, e *env, v byte) {
	for qos := range byte(3) {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "gone\x00", qos: qos}))
		c.drop()
		p := w.message()
		equal(t, "payload", p.payload, "gone\x00")
		equal(t, "QoS", p.qos(), qos)
		equal(t, "RETAIN", p.retain(), false)
	}
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, qos: 1}))
	c.drop()
	equal(t, "empty payload", w.message().payload, "")
}

func testWillNormalDisconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	c, _ := e.open(t, withWill(v, id, &will{topic: topic, payload: "no", qos: 2}))
	c.disconnect()
	c, _ = e.open(t, connect{version: v, id: id, clean: true})
	c.drop()
	w.nothingBut(t, e, topic)
}

func testWillDisconnectWithWill(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x04, 0x80, 0x97} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: fmt.Sprint(reason), qos: 1}))
		c.send(frame(tDisconnect<<4, []byte{reason}))
		c.expectClosed()
		equal(t, "payload", w.message().payload, fmt.Sprint(reason))
	}
}

func testWillNone(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	c, _ := e.open(t, withWill(v, id, &will{topic: topic, payload: "no", qos: 2}))
	c.disconnect()
	c, _ = e.open(t, lasting(v, id))
	c.drop()
	c, _ = e.open(t, lasting(v, id)) // by now the gateway has seen the end
	c.disconnect()
	w.nothingBut(t, e, topic)
}

func testWillRetain(t *testing.T, e *env, v byte) {
	for _, retain := range []bool{false, true} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "gone", qos: 1, retain: retain}))
		c.drop()
		equal(t, "RETAIN towards an established subscription", w.message().retain(), false)
		late := e.client(t, v)
		late.subscribe(filter{topic, 2})
		if retain {
			p := late.message()
			equal(t, "payload", p.payload, "gone")
			equal(t, "RETAIN towards a new subscription", p.retain(), true)
		}
		late.nothingBut(t, e, topic)
	}
}

func testWillOnce(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	o := lasting(v, e.unique())
	o.will = &will{topic: topic, payload: "gone", qos: 2}
	c, _ := e.open(t, o)
	c.drop()
	equal(t, "payload", w.message().payload, "gone")
	o.will = nil
	c, _ = e.open(t, o)
	c.drop()
	c, _ = e.open(t, o)
	c.disconnect()
	w.nothingBut(t, e, topic)
}

func testWillViolation(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "closed", qos: 1}))
	c.send([]byte{0xF0 | 9, 0})
	c.expectEnd(0x81)
	equal(t, "payload", w.message().payload, "closed")
}

func testWillTakeover(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	first, _ := e.open(t, withWill(v, id, &will{topic: topic, payload: "first", qos: 1}))
	second, _ := e.open(t, withWill(v, id, &will{topic: topic, payload: "second", qos: 1}))
	first.expectEnd(0x8E)
	equal(t, "payload", w.message().payload, "first")
	second.drop()
	equal(t, "payload", w.message().payload, "second")
}

// delayed is a CONNECT with a will that waits, and a session that outlives the connection.
func delayed(v byte, id, topic string, delay, expiry uint32) connect {
	o := withWill(v, id, &will{topic: topic, payload: "late", qos: 2, props: [][]byte{num(pWillDelay, delay)}})
	o.clean, o.props = false, [][]byte{num(pSessionExpiry, expiry)}
	return o
}

func testWillDelay(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, delayed(v, e.unique(), topic, 1, 600))
	begun := time.Now()
	c.drop()
	equal(t, "payload", w.message().payload, "late")
	if d := time.Since(begun); d < time.Second {
		t.Errorf("will published after %v", d)
	}
}

func testWillDelayResumed(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	o := delayed(v, e.unique(), topic, 1, 600)
	c, _ := e.open(t, o)
	c.drop()
	c, ack := e.open(t, o)
	equal(t, "session present", ack.present, 1)
	waitOut(1500 * time.Millisecond)
	w.nothingBut(t, e, topic)
	first := c // taken over within the delay: no will either
	c, _ = e.open(t, o)
	first.expectEnd(0x8E)
	waitOut(1500 * time.Millisecond)
	w.nothingBut(t, e, topic)
	o.clean = true // ends the session while a will waits: it is due then
	c.drop()
	e.open(t, o)
	equal(t, "payload", w.message().payload, "late")
}

func testWillDelaySessionEnds(t *testing.T, e *env, v byte) {
	for _, expiry := range []uint32{0, 1} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, delayed(v, e.unique(), topic, 600, expiry))
		c.drop()
		equal(t, "payload", w.message().payload, "late")
	}
}

func testWillProperties(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	props := [][]byte{
		pair("b", "1"), num(pPayloadFormat, 1), textual(pContentType, "text/plain"), pair("a", "2"),
		textual(pResponseTopic, "will/answer"), textual(pCorrelation, "\x00\xFF"), num(pMessageExpiry, 300), pair("b", "0"),
	}
	c, _ := e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "x", qos: 1, props: props}))
	c.drop()
	checkForwarded(t, w.message())
	c, _ = e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "x", qos: 1, props: presentButEmpty()}))
	c.drop()
	checkPresentButEmpty(t, w.message())
	// An expiry interval of 0 is one: the will, like any message, is over when it is published.
	c, _ = e.open(t, withWill(v, e.unique(), &will{topic: topic, payload: "x", qos: 1, props: [][]byte{num(pMessageExpiry, 0)}}))
	c.drop()
	w.nothingBut(t, e, topic)
}

// testWillNotPermitted: a will where the client may not publish is refused at CONNECT.
func testWillNotPermitted(t *testing.T, e *env, v byte) {
	c := e.dial(t, v)
	c.send(withWill(v, e.unique(), &will{topic: deniedPub}).encode())
	want := map[byte]byte{v4: 5, v5: 0x87}[v]
	equal(t, "reason", c.expect(tConnack).reason, want)
	c.expectClosed()
}
