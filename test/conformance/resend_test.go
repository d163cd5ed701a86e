package conformance

import (
	"fmt"
	"testing"
	"time"

	"cellgate/test/mqtt"
)

func resendCases() []testCase {
	return []testCase{
		both("resend/in_order", testResendOrder),
		both("resend/only_on_reconnect", testResendOnlyOnReconnect),
		only(mqtt.V5, "resend/not_when_refused", testResendRefused),
		only(mqtt.V5, "resend/though_expired", testResendExpired),
		both("resend/with_empty_window", testResendWithoutRoom),
	}
}

// unacknowledged returns a session with n messages in flight, of QoS 1 and 2 in turn, whose connection the gateway
// knows to have ended.
func (e *env) unacknowledged(t *testing.T, v byte, n int, props ...[]byte) (o mqtt.Connect, topic string, sent []mqtt.Packet) {
	t.Helper()
	topic = "resend/" + e.unique()
	o = lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	for i := range n {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: fmt.Sprint(i), QoS: byte(i%2) + 1, Props: props})
		sent = append(sent, c.Expect(mqtt.PUBLISH))
	}
	c.Disconnect()
	return o, topic, sent
}

// sameAgain expects a message again, unchanged except for DUP.
func sameAgain(c *mqtt.T, was mqtt.Packet) mqtt.Packet {
	c.TB.Helper()
	p := c.Expect(mqtt.PUBLISH)
	equal(c.TB, "payload", p.Payload, was.Payload)
	equal(c.TB, "identifier", p.ID, was.ID)
	equal(c.TB, "QoS", p.QoS(), was.QoS())
	equal(c.TB, "DUP", p.Dup(), true)
	return p
}

func testResendOrder(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 9)
	e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "new", QoS: 1})
	c, _ := e.open(t, o)
	var again []mqtt.Packet
	for _, p := range sent {
		again = append(again, sameAgain(c, p))
	}
	p := c.Message()
	equal(t, "payload", p.Payload, "new")
	equal(t, "DUP of a new message", p.Dup(), false)
	for _, p := range again {
		c.Acknowledge(p)
	}
	c.Disconnect()
	c, _ = e.open(t, o)
	nothingBut(t, c, e, topic)
}

func testResendOnlyOnReconnect(t *testing.T, e *env, v byte) {
	topic := "resend/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
	p := c.Expect(mqtt.PUBLISH)
	waitOut(1500 * time.Millisecond)
	nothingBut(t, c, e, topic)
	c.Send(mqtt.Ack(mqtt.PUBACK, p.ID, 0))
	nothingBut(t, c, e, topic)
}

func testResendRefused(t *testing.T, e *env, v byte) {
	topic := "resend/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	for qos, typ := range map[byte]byte{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: qos})
		c.Send(mqtt.Ack(typ, c.Expect(mqtt.PUBLISH).ID, 0x80))
	}
	c.Ping()
	c.Drop()
	c, _ = e.open(t, o)
	nothingBut(t, c, e, topic)
}

// testResendExpired: a message that was sent is resent although it has expired since.
func testResendExpired(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 2, mqtt.Number(mqtt.MessageExpiry, 1))
	e.client(t, v).Publish(mqtt.Publish{
		Topic: topic, Payload: "unsent", QoS: 1,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, 1)},
	})
	waitOut(1200 * time.Millisecond)
	c, _ := e.open(t, o)
	for _, p := range sent {
		again := sameAgain(c, p)
		if x, there := again.Prop(mqtt.MessageExpiry); !there || x.Num > 1 {
			t.Errorf("message expiry %d", x.Num)
		}
		c.Acknowledge(again)
	}
	nothingBut(t, c, e, topic)
}

// testResendWithoutRoom: retransmissions are sent though they fill the Receive Maximum, and no more than that.
func testResendWithoutRoom(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 4)
	if v == mqtt.V5 {
		o.Props = append(o.Props, mqtt.Number(mqtt.ReceiveMaximum, 2))
	}
	c, _ := e.open(t, o)
	for i := range sent {
		c.Acknowledge(sameAgain(c, sent[i]))
	}
	nothingBut(t, c, e, topic)
}
