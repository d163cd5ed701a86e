package conformance

import (
	"fmt"
	"testing"
	"time"

	"cellgate/test/mqtt"
)

func willCases() []testCase {
	return []testCase{
		both("will/published", testWillPublished),
		both("will/normal_disconnect", testWillNormalDisconnect),
		only(mqtt.V5, "will/disconnect_with_will", testWillDisconnectWithWill),
		both("will/none", testWillNone),
		both("will/retain", testWillRetain),
		both("will/once", testWillOnce),
		both("will/violation", testWillViolation),
		both("will/takeover", testWillTakeover),
		only(mqtt.V5, "will/delay", testWillDelay),
		only(mqtt.V5, "will/delay_resumed", testWillDelayResumed),
		only(mqtt.V5, "will/delay_session_ends", testWillDelaySessionEnds),
		only(mqtt.V5, "will/properties", testWillProperties),
		both("will/not_permitted", testWillNotPermitted),
	}
}

// watched subscribes a watcher at QoS 2 to its own topic.
func (e *env) watched(t *testing.T, v byte, branch string) (*mqtt.T, string) {
	t.Helper()
	topic := branch + "/" + e.unique()
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter(topic, 2))
	return w, topic
}

// nothingBut publishes a marker and expects it as the next message: nothing else was sent before it.
func nothingBut(t *testing.T, c *mqtt.T, e *env, topic string) {
	t.Helper()
	e.client(t, c.Version).Publish(mqtt.Publish{Topic: topic, Payload: "marker", QoS: 2})
	equal(t, "next message", c.Message().Payload, "marker")
}

func withWill(v byte, id string, w *mqtt.Will) mqtt.Connect {
	return mqtt.Connect{Version: v, ID: id, Will: w}
}

func testWillPublished(t *testing.T, e *env, v byte) {
	for qos := range byte(3) {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: "gone\x00", QoS: qos}))
		c.Drop()
		p := w.Message()
		equal(t, "payload", p.Payload, "gone\x00")
		equal(t, "QoS", p.QoS(), qos)
		equal(t, "RETAIN", p.Retain(), false)
	}
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, QoS: 1}))
	c.Drop()
	equal(t, "empty payload", w.Message().Payload, "")
}

func testWillNormalDisconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	c, _ := e.open(t, withWill(v, id, &mqtt.Will{Topic: topic, Payload: "no", QoS: 2}))
	c.Disconnect()
	c, _ = e.open(t, mqtt.Connect{Version: v, ID: id})
	c.Drop()
	nothingBut(t, w, e, topic)
}

func testWillDisconnectWithWill(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x04, 0x80, 0x97} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: fmt.Sprint(reason), QoS: 1}))
		c.Send(mqtt.Frame(mqtt.DISCONNECT<<4, []byte{reason}))
		c.ExpectClosed()
		equal(t, "payload", w.Message().Payload, fmt.Sprint(reason))
	}
}

func testWillNone(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	c, _ := e.open(t, withWill(v, id, &mqtt.Will{Topic: topic, Payload: "no", QoS: 2}))
	c.Disconnect()
	c, _ = e.open(t, lasting(v, id))
	c.Drop()
	c, _ = e.open(t, lasting(v, id)) // by now the gateway has noticed the end
	c.Disconnect()
	nothingBut(t, w, e, topic)
}

func testWillRetain(t *testing.T, e *env, v byte) {
	for _, retain := range []bool{false, true} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: "gone", QoS: 1, Retain: retain}))
		c.Drop()
		equal(t, "RETAIN towards an established subscription", w.Message().Retain(), false)
		late := e.client(t, v)
		late.Subscribe(mqtt.Filter(topic, 2))
		if retain {
			p := late.Message()
			equal(t, "payload", p.Payload, "gone")
			equal(t, "RETAIN towards a new subscription", p.Retain(), true)
		}
		nothingBut(t, late, e, topic)
	}
}

func testWillOnce(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	o := lasting(v, e.unique())
	o.Will = &mqtt.Will{Topic: topic, Payload: "gone", QoS: 2}
	c, _ := e.open(t, o)
	c.Drop()
	equal(t, "payload", w.Message().Payload, "gone")
	o.Will = nil
	c, _ = e.open(t, o)
	c.Drop()
	c, _ = e.open(t, o)
	c.Disconnect()
	nothingBut(t, w, e, topic)
}

func testWillViolation(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: "closed", QoS: 1}))
	c.Send([]byte{0xF0 | 9, 0})
	c.ExpectEnd(0x81)
	equal(t, "payload", w.Message().Payload, "closed")
}

func testWillTakeover(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	id := e.unique()
	first, _ := e.open(t, withWill(v, id, &mqtt.Will{Topic: topic, Payload: "first", QoS: 1}))
	second, _ := e.open(t, withWill(v, id, &mqtt.Will{Topic: topic, Payload: "second", QoS: 1}))
	first.ExpectEnd(0x8E)
	equal(t, "payload", w.Message().Payload, "first")
	second.Drop()
	equal(t, "payload", w.Message().Payload, "second")
}

// delayed is a CONNECT with a delayed will, and a session that survives the connection.
func delayed(v byte, id, topic string, delay, expiry uint32) mqtt.Connect {
	o := withWill(v, id, &mqtt.Will{
		Topic: topic, Payload: "late", QoS: 2,
		Props: [][]byte{mqtt.Number(mqtt.WillDelay, delay)},
	})
	o.Keep, o.Props = true, [][]byte{mqtt.Number(mqtt.SessionExpiry, expiry)}
	return o
}

func testWillDelay(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	c, _ := e.open(t, delayed(v, e.unique(), topic, 1, 600))
	begun := time.Now()
	c.Drop()
	equal(t, "payload", w.Message().Payload, "late")
	if d := time.Since(begun); d < time.Second {
		t.Errorf("will published after %v", d)
	}
}

func testWillDelayResumed(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	o := delayed(v, e.unique(), topic, 1, 600)
	c, _ := e.open(t, o)
	c.Drop()
	c, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 1)
	waitOut(1500 * time.Millisecond)
	nothingBut(t, w, e, topic)
	first := c // taken over within the delay: no will either
	c, _ = e.open(t, o)
	first.ExpectEnd(0x8E)
	waitOut(1500 * time.Millisecond)
	nothingBut(t, w, e, topic)
	o.Keep = false // ends the session during the delay: the will is due then
	c.Drop()
	e.open(t, o)
	equal(t, "payload", w.Message().Payload, "late")
}

func testWillDelaySessionEnds(t *testing.T, e *env, v byte) {
	for _, expiry := range []uint32{0, 1} {
		w, topic := e.watched(t, v, "will")
		c, _ := e.open(t, delayed(v, e.unique(), topic, 600, expiry))
		c.Drop()
		equal(t, "payload", w.Message().Payload, "late")
	}
}

func testWillProperties(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "will")
	props := [][]byte{
		mqtt.User("b", "1"), mqtt.Number(mqtt.PayloadFormat, 1), mqtt.String(mqtt.ContentType, "text/plain"),
		mqtt.User("a", "2"),
		mqtt.String(mqtt.ResponseTopic, "will/answer"), mqtt.String(mqtt.CorrelationData, "\x00\xFF"),
		mqtt.Number(mqtt.MessageExpiry, 300), mqtt.User("b", "0"),
	}
	c, _ := e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: "x", QoS: 1, Props: props}))
	c.Drop()
	checkForwarded(t, w.Message())
	c, _ = e.open(t, withWill(v, e.unique(), &mqtt.Will{Topic: topic, Payload: "x", QoS: 1, Props: presentButEmpty()}))
	c.Drop()
	checkPresentButEmpty(t, w.Message())
	// An expiry interval of 0 counts: the will, like any message, has expired when it is published.
	c, _ = e.open(t, withWill(v, e.unique(), &mqtt.Will{
		Topic: topic, Payload: "x", QoS: 1,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, 0)},
	}))
	c.Drop()
	nothingBut(t, w, e, topic)
}

// testWillNotPermitted: a will on a topic that the client may not publish to is refused at CONNECT.
func testWillNotPermitted(t *testing.T, e *env, v byte) {
	c := e.dial(t, v)
	c.Send(withWill(v, e.unique(), &mqtt.Will{Topic: deniedPub}).Encode())
	want := map[byte]byte{mqtt.V4: 5, mqtt.V5: 0x87}[v]
	equal(t, "reason", c.Expect(mqtt.CONNACK).Reason, want)
	c.ExpectClosed()
}
