package conformance

import (
	"fmt"
	"testing"
	"time"
)

func resendCases() []testCase {
	return []testCase{
		both("resend/in_order", testResendOrder),
		both("resend/only_on_reconnect", testResendOnlyOnReconnect),
		only(v5, "resend/not_when_refused", testResendRefused),
		only(v5, "resend/though_expired", testResendExpired),
		both("resend/with_empty_window", testResendWithoutRoom),
	}
}

// unacknowledged gives a session with n messages on their way, of QoS 1 and 2 in turn, whose connection has ended;
// the gateway knows that it has.
func (e *env) unacknowledged(t *testing.T, v byte, n int, props ...[]byte) (o connect, topic string, sent []packet) {
	t.Helper()
	topic = "resend/" + e.unique()
	o = lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	for i := range n {
		pub.publish(publish{topic: topic, payload: fmt.Sprint(i), qos: byte(i%2) + 1, props: props})
		sent = append(sent, c.expect(tPublish))
	}
	c.disconnect()
	return o, topic, sent
}

// sameAgain expects one message again, as it was but for DUP.
func (c *client) sameAgain(was packet) packet {
	c.t.Helper()
	p := c.expect(tPublish)
	equal(c.t, "payload", p.payload, was.payload)
	equal(c.t, "identifier", p.id, was.id)
	equal(c.t, "QoS", p.qos(), was.qos())
	equal(c.t, "DUP", p.dup(), true)
	return p
}

func testResendOrder(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 9)
	e.client(t, v).publish(publish{topic: topic, payload: "new", qos: 1})
	c, _ := e.open(t, o)
	var again []packet
	for _, p := range sent {
		again = append(again, c.sameAgain(p))
	}
	p := c.message()
	equal(t, "payload", p.payload, "new")
	equal(t, "DUP of a new message", p.dup(), false)
	for _, p := range again {
		c.acknowledge(p)
	}
	c.disconnect()
	c, _ = e.open(t, o)
	c.nothingBut(t, e, topic)
}

func testResendOnlyOnReconnect(t *testing.T, e *env, v byte) {
	topic := "resend/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 1})
	c.publish(publish{topic: topic, payload: "x", qos: 1})
	p := c.expect(tPublish)
	waitOut(1500 * time.Millisecond)
	c.nothingBut(t, e, topic)
	c.send(ack(tPuback, p.id, 0))
	c.nothingBut(t, e, topic)
}

func testResendRefused(t *testing.T, e *env, v byte) {
	topic := "resend/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	for qos, typ := range map[byte]byte{1: tPuback, 2: tPubrec} {
		pub.publish(publish{topic: topic, payload: "x", qos: qos})
		c.send(ack(typ, c.expect(tPublish).id, 0x80))
	}
	c.ping()
	c.drop()
	c, _ = e.open(t, o)
	c.nothingBut(t, e, topic)
}

// testResendExpired: what has been sent is resent although it has expired since.
func testResendExpired(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 2, num(pMessageExpiry, 1))
	e.client(t, v).publish(publish{topic: topic, payload: "unsent", qos: 1, props: [][]byte{num(pMessageExpiry, 1)}})
	waitOut(1200 * time.Millisecond)
	c, _ := e.open(t, o)
	for _, p := range sent {
		again := c.sameAgain(p)
		if x, there := again.prop(pMessageExpiry); !there || x.num > 1 {
			t.Errorf("message expiry %d", x.num)
		}
		c.acknowledge(again)
	}
	c.nothingBut(t, e, topic)
}

// testResendWithoutRoom: retransmissions come though they fill the Receive Maximum, and no more than that.
func testResendWithoutRoom(t *testing.T, e *env, v byte) {
	o, topic, sent := e.unacknowledged(t, v, 4)
	if v == v5 {
		o.props = append(o.props, num(pReceiveMaximum, 2))
	}
	c, _ := e.open(t, o)
	for i := range sent {
		c.acknowledge(c.sameAgain(sent[i]))
	}
	c.nothingBut(t, e, topic)
}
