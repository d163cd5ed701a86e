package conformance

import (
	"testing"

	"cellgate/test/mqtt"
)

func qosCases() []testCase {
	return []testCase{
		both("qos1/identifier_used_again", testQoS1Again),
		both("qos2/exactly_once", testExactlyOnce),
		both("qos2/exactly_once_over_reconnect", testExactlyOnceReconnect),
		both("qos2/release_unknown", testReleaseUnknown),
		only(mqtt.V5, "qos2/refused_is_forgotten", testRefusedForgotten),
		only(mqtt.V5, "qos2/expired_in_exchange", testExpiredInExchange),
		both("qos/identifiers_of_server", testServerIdentifiers),
		both("qos/identifiers_of_both", testBothIdentifiers),
		both("qos2/to_client", testQoS2ToClient),
		only(mqtt.V5, "qos/reason_codes_of_client", testClientReasons),
		both("qos/unknown_acknowledgements", testUnknownAcks),
	}
}

func testQoS1Again(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos1")
	c := e.client(t, v)
	for _, p := range []mqtt.Publish{
		{Payload: "one"}, {Payload: "two"}, {Payload: "two", Dup: true}, {Payload: "three", Dup: true},
	} {
		p.Topic, p.QoS, p.ID = topic, 1, 9
		c.Send(p.Encode(v))
		c.ExpectAck(mqtt.PUBACK, 9, 0)
	}
	equalList(t, "messages", w.Messages(4), "one", "two", "two", "three")
}

// exchange sends a message of QoS 2 and ends its exchange.
func exchange(c *mqtt.T, v byte, p mqtt.Publish) {
	c.Send(p.Encode(v))
	c.ExpectAck(mqtt.PUBREC, p.ID, 0)
	c.Send(mqtt.Ack(mqtt.PUBREL, p.ID, 0))
	c.ExpectAck(mqtt.PUBCOMP, p.ID, 0)
}

func testExactlyOnce(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	p := mqtt.Publish{Topic: topic, Payload: "once", QoS: 2, ID: 3}
	c.Send(p.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 3, 0)
	for range 3 {
		p.Dup = true
		c.Send(p.Encode(v))
		c.ExpectAck(mqtt.PUBREC, 3, 0)
	}
	c.Send(mqtt.Ack(mqtt.PUBREL, 3, 0))
	c.ExpectAck(mqtt.PUBCOMP, 3, 0)
	p.Payload, p.Dup = "new", false
	exchange(c, v, p)
	equalList(t, "messages", w.Messages(2), "once", "new")
	nothingBut(t, w, e, topic)
}

func testExactlyOnceReconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	p := mqtt.Publish{Topic: topic, Payload: "once", QoS: 2, ID: 3}
	c.Send(p.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 3, 0)
	c.Drop()
	c, ack1 := e.open(t, o)
	equal(t, "session present", ack1.Present, 1)
	p.Dup = true
	c.Send(p.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 3, 0)
	c.Drop()
	c, _ = e.open(t, o)
	c.Send(mqtt.Ack(mqtt.PUBREL, 3, 0))
	c.ExpectAck(mqtt.PUBCOMP, 3, 0)
	c.Drop()
	c, _ = e.open(t, o)
	p.Payload = "new"
	exchange(c, v, p)
	equalList(t, "messages", w.Messages(2), "once", "new")
	nothingBut(t, w, e, topic)
}

func testReleaseUnknown(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.Send(mqtt.Ack(mqtt.PUBREL, 77, 0))
	c.ExpectAck(mqtt.PUBCOMP, 77, 0x92*(v-mqtt.V4))
}

func testRefusedForgotten(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	c.Send(mqtt.Publish{Topic: deniedPub, QoS: 2, ID: 5}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 5, 0x87)
	c.Send(mqtt.Publish{Topic: topic, Payload: "new", QoS: 2, ID: 5}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 5, 0)
	c.Send(mqtt.Ack(mqtt.PUBREL, 5, 0))
	c.ExpectAck(mqtt.PUBCOMP, 5, 0)
	equal(t, "payload", w.Message().Payload, "new")
}

// testExpiredInExchange: the exchange continues after the message has expired, in both directions.
func testExpiredInExchange(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	expiry := [][]byte{mqtt.Number(mqtt.MessageExpiry, 1)}
	c.Send(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2, ID: 5, Props: expiry}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 5, 0)
	p := w.Expect(mqtt.PUBLISH)
	waitOut(1200e6)
	c.Send(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2, ID: 5, Dup: true, Props: expiry}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 5, 0)
	c.Send(mqtt.Ack(mqtt.PUBREL, 5, 0))
	c.ExpectAck(mqtt.PUBCOMP, 5, 0)
	w.Send(mqtt.Ack(mqtt.PUBREC, p.ID, 0))
	w.ExpectAck(mqtt.PUBREL, p.ID, 0)
	w.Send(mqtt.Ack(mqtt.PUBCOMP, p.ID, 0))
	c.Send(mqtt.Publish{
		Topic: topic, Payload: "dead", QoS: 2, ID: 6,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, 0)},
	}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 6, 0)
	c.Send(mqtt.Ack(mqtt.PUBREL, 6, 0))
	c.ExpectAck(mqtt.PUBCOMP, 6, 0)
	nothingBut(t, w, e, topic)
}

func testServerIdentifiers(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "ids")
	pub := e.client(t, v)
	seen := map[uint16]mqtt.Packet{}
	for i := range 12 {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: byte(i%2) + 1})
		p := w.Expect(mqtt.PUBLISH)
		if _, used := seen[p.ID]; used || p.ID == 0 {
			t.Errorf("packet identifier %d is 0 or in use", p.ID)
		}
		seen[p.ID] = p
	}
	for _, p := range seen {
		w.Acknowledge(p)
	}
	nothingBut(t, w, e, topic)
}

// testBothIdentifiers uses the same identifiers in both directions, and for SUBSCRIBE.
func testBothIdentifiers(t *testing.T, e *env, v byte) {
	topic := "ids/" + e.unique()
	o := lasting(v, e.unique())
	w, _ := e.open(t, o)
	w.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	var open []mqtt.Packet
	for range 4 {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
		open = append(open, w.Expect(mqtt.PUBLISH))
	}
	for _, p := range open {
		w.Send(mqtt.Publish{Topic: "ids/other", QoS: 1, ID: p.ID}.Encode(v))
		w.ExpectAck(mqtt.PUBACK, p.ID, 0)
		w.Send(mqtt.Subscribe(v, p.ID, nil, mqtt.Filter("ids/unused", 0)))
		equal(t, "SUBACK", w.Expect(mqtt.SUBACK).ID, p.ID)
		w.Send(mqtt.Publish{Topic: "ids/other", QoS: 2, ID: p.ID}.Encode(v))
		w.ExpectAck(mqtt.PUBREC, p.ID, 0)
		w.Send(mqtt.Ack(mqtt.PUBREL, p.ID, 0))
		w.ExpectAck(mqtt.PUBCOMP, p.ID, 0)
	}
	w.Drop()
	w, _ = e.open(t, o)
	for _, p := range open {
		w.Acknowledge(sameAgain(w, p)) // none counted as acknowledged
	}
	nothingBut(t, w, e, topic)
}

func testQoS2ToClient(t *testing.T, e *env, v byte) {
	topic := "qos2/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2})
	p := c.Expect(mqtt.PUBLISH)
	equal(t, "DUP", p.Dup(), false)
	c.Drop()
	c, _ = e.open(t, o) // no PUBREC: the PUBLISH comes again
	again := c.Expect(mqtt.PUBLISH)
	equal(t, "identifier", again.ID, p.ID)
	equal(t, "DUP", again.Dup(), true)
	equal(t, "payload", again.Payload, "x")
	c.Send(mqtt.Ack(mqtt.PUBREC, p.ID, 0))
	c.ExpectAck(mqtt.PUBREL, p.ID, 0)
	c.Drop()
	c, _ = e.open(t, o) // no PUBCOMP: the PUBREL comes again, the PUBLISH does not
	c.ExpectAck(mqtt.PUBREL, p.ID, 0)
	c.Send(mqtt.Ack(mqtt.PUBCOMP, p.ID, 0))
	c.Ping()
	c.Drop()
	c, _ = e.open(t, o) // complete: nothing comes again
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "marker", QoS: 2})
	equal(t, "payload", c.Message().Payload, "marker")
}

// testClientReasons sends every acknowledgement with the reason codes of its table, and with others.
func testClientReasons(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
		for _, typ := range []byte{mqtt.PUBACK, mqtt.PUBREC} {
			w, topic := e.watched(t, v, "reasons")
			e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: typ - mqtt.PUBACK + 1})
			p := w.Expect(mqtt.PUBLISH)
			w.Send(mqtt.Frame(typ<<4, mqtt.Uint16(p.ID), []byte{reason},
				mqtt.Properties(mqtt.String(mqtt.ReasonString, "why"), mqtt.User("a", "b"))))
			if typ == mqtt.PUBREC && reason < 0x80 {
				w.ExpectAck(mqtt.PUBREL, p.ID, 0)
				w.Send(mqtt.Frame(mqtt.PUBCOMP<<4, mqtt.Uint16(p.ID), []byte{0}))
			}
			nothingBut(t, w, e, topic)
		}
	}
	for _, typ := range []byte{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP} {
		first := typ << 4
		if typ == mqtt.PUBREL {
			first |= 2
		}
		for _, reason := range []byte{0x01, 0x8E, 0xFF} {
			e.violates(t, v, mqtt.Frame(first, mqtt.Uint16(1), []byte{reason}), 0x81, 0x82)
		}
	}
}

// testUnknownAcks: acknowledgements of unknown identifiers are harmless; PUBREC is answered.
func testUnknownAcks(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.Send(mqtt.Ack(mqtt.PUBACK, 9, 0), mqtt.Ack(mqtt.PUBCOMP, 9, 0), mqtt.Ack(mqtt.PUBREC, 9, 0))
	c.ExpectAck(mqtt.PUBREL, 9, 0x92*(v-mqtt.V4))
	c.Ping()
}
