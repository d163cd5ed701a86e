package conformance

import "testing"

func qosCases() []testCase {
	return []testCase{
		both("qos1/identifier_used_again", testQoS1Again),
		both("qos2/exactly_once", testExactlyOnce),
		both("qos2/exactly_once_over_reconnect", testExactlyOnceReconnect),
		both("qos2/release_unknown", testReleaseUnknown),
		only(v5, "qos2/refused_is_forgotten", testRefusedForgotten),
		only(v5, "qos2/expired_in_exchange", testExpiredInExchange),
		both("qos/identifiers_of_server", testServerIdentifiers),
		both("qos/identifiers_of_both", testBothIdentifiers),
		both("qos2/to_client", testQoS2ToClient),
		only(v5, "qos/reason_codes_of_client", testClientReasons),
		both("qos/unknown_acknowledgements", testUnknownAcks),
	}
}

func testQoS1Again(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos1")
	c := e.client(t, v)
	for _, p := range []publish{
		{payload: "one"}, {payload: "two"}, {payload: "two", dup: true}, {payload: "three", dup: true},
	} {
		p.topic, p.qos, p.id = topic, 1, 9
		c.send(p.encode(v))
		c.expectAck(tPuback, 9, 0)
	}
	equalList(t, "messages", w.messages(4), "one", "two", "two", "three")
}

func testExactlyOnce(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	p := publish{topic: topic, payload: "once", qos: 2, id: 3}
	c.send(p.encode(v))
	c.expectAck(tPubrec, 3, 0)
	for range 3 {
		p.dup = true
		c.send(p.encode(v))
		c.expectAck(tPubrec, 3, 0)
	}
	c.send(ack(tPubrel, 3, 0))
	c.expectAck(tPubcomp, 3, 0)
	p.payload, p.dup = "new", false
	c.send(p.encode(v))
	c.expectAck(tPubrec, 3, 0)
	c.send(ack(tPubrel, 3, 0))
	c.expectAck(tPubcomp, 3, 0)
	equalList(t, "messages", w.messages(2), "once", "new")
	w.nothingBut(t, e, topic)
}

func testExactlyOnceReconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	p := publish{topic: topic, payload: "once", qos: 2, id: 3}
	c.send(p.encode(v))
	c.expectAck(tPubrec, 3, 0)
	c.drop()
	c, ack1 := e.open(t, o)
	equal(t, "session present", ack1.present, 1)
	p.dup = true
	c.send(p.encode(v))
	c.expectAck(tPubrec, 3, 0)
	c.drop()
	c, _ = e.open(t, o)
	c.send(ack(tPubrel, 3, 0))
	c.expectAck(tPubcomp, 3, 0)
	c.drop()
	c, _ = e.open(t, o)
	p.payload = "new"
	c.send(p.encode(v))
	c.expectAck(tPubrec, 3, 0)
	c.send(ack(tPubrel, 3, 0))
	c.expectAck(tPubcomp, 3, 0)
	equalList(t, "messages", w.messages(2), "once", "new")
	w.nothingBut(t, e, topic)
}

func testReleaseUnknown(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.send(ack(tPubrel, 77, 0))
	c.expectAck(tPubcomp, 77, 0x92*(v-v4))
}

func testRefusedForgotten(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	c.send(publish{topic: deniedPub, qos: 2, id: 5}.encode(v))
	c.expectAck(tPubrec, 5, 0x87)
	c.send(publish{topic: topic, payload: "new", qos: 2, id: 5}.encode(v))
	c.expectAck(tPubrec, 5, 0)
	c.send(ack(tPubrel, 5, 0))
	c.expectAck(tPubcomp, 5, 0)
	equal(t, "payload", w.message().payload, "new")
}

// testExpiredInExchange: the exchange goes on though the message has expired, in both directions.
func testExpiredInExchange(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "qos2")
	c := e.client(t, v)
	expiry := [][]byte{num(pMessageExpiry, 1)}
	c.send(publish{topic: topic, payload: "x", qos: 2, id: 5, props: expiry}.encode(v))
	c.expectAck(tPubrec, 5, 0)
	p := w.expect(tPublish)
	waitOut(1200e6)
	c.send(publish{topic: topic, payload: "x", qos: 2, id: 5, dup: true, props: expiry}.encode(v))
	c.expectAck(tPubrec, 5, 0)
	c.send(ack(tPubrel, 5, 0))
	c.expectAck(tPubcomp, 5, 0)
	w.send(ack(tPubrec, p.id, 0))
	w.expectAck(tPubrel, p.id, 0)
	w.send(ack(tPubcomp, p.id, 0))
	c.send(publish{topic: topic, payload: "dead", qos: 2, id: 6, props: [][]byte{num(pMessageExpiry, 0)}}.encode(v))
	c.expectAck(tPubrec, 6, 0)
	c.send(ack(tPubrel, 6, 0))
	c.expectAck(tPubcomp, 6, 0)
	w.nothingBut(t, e, topic)
}

func testServerIdentifiers(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "ids")
	pub := e.client(t, v)
	seen := map[uint16]packet{}
	for i := range 12 {
		pub.publish(publish{topic: topic, payload: "x", qos: byte(i%2) + 1})
		p := w.expect(tPublish)
		if _, used := seen[p.id]; used || p.id == 0 {
			t.Errorf("packet identifier %d is 0 or in use", p.id)
		}
		seen[p.id] = p
	}
	for _, p := range seen {
		w.acknowledge(p)
	}
	w.nothingBut(t, e, topic)
}

// testBothIdentifiers has the same identifiers in use in both directions, and for SUBSCRIBE.
func testBothIdentifiers(t *testing.T, e *env, v byte) {
	topic := "ids/" + e.unique()
	o := lasting(v, e.unique())
	w, _ := e.open(t, o)
	w.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	var open []packet
	for range 4 {
		pub.publish(publish{topic: topic, payload: "x", qos: 1})
		open = append(open, w.expect(tPublish))
	}
	for _, p := range open {
		w.send(publish{topic: "ids/other", qos: 1, id: p.id}.encode(v))
		w.expectAck(tPuback, p.id, 0)
		w.send(subscribe(v, p.id, nil, filter{"ids/unused", 0}))
		equal(t, "SUBACK", w.expect(tSuback).id, p.id)
		w.send(publish{topic: "ids/other", qos: 2, id: p.id}.encode(v))
		w.expectAck(tPubrec, p.id, 0)
		w.send(ack(tPubrel, p.id, 0))
		w.expectAck(tPubcomp, p.id, 0)
	}
	w.drop()
	w, _ = e.open(t, o)
	for _, p := range open {
		w.acknowledge(w.sameAgain(p)) // none was taken for acknowledged
	}
	w.nothingBut(t, e, topic)
}

func testQoS2ToClient(t *testing.T, e *env, v byte) {
	topic := "qos2/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	pub.publish(publish{topic: topic, payload: "x", qos: 2})
	p := c.expect(tPublish)
	equal(t, "DUP", p.dup(), false)
	c.drop()
	c, _ = e.open(t, o) // no PUBREC: the PUBLISH comes again
	again := c.expect(tPublish)
	equal(t, "identifier", again.id, p.id)
	equal(t, "DUP", again.dup(), true)
	equal(t, "payload", again.payload, "x")
	c.send(ack(tPubrec, p.id, 0))
	c.expectAck(tPubrel, p.id, 0)
	c.drop()
	c, _ = e.open(t, o) // no PUBCOMP: the PUBREL comes again, the PUBLISH does not
	c.expectAck(tPubrel, p.id, 0)
	c.send(ack(tPubcomp, p.id, 0))
	c.ping()
	c.drop()
	c, _ = e.open(t, o) // complete: nothing comes again
	pub.publish(publish{topic: topic, payload: "marker", qos: 2})
	equal(t, "payload", c.message().payload, "marker")
}

// testClientReasons sends every acknowledgement with the reason codes that its table has, and others.
func testClientReasons(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
		for _, typ := range []byte{tPuback, tPubrec} {
			w, topic := e.watched(t, v, "reasons")
			e.client(t, v).publish(publish{topic: topic, payload: "x", qos: typ - tPuback + 1})
			p := w.expect(tPublish)
			w.send(frame(typ<<4, u16(p.id), []byte{reason}, properties(textual(pReason, "why"), pair("a", "b"))))
			if typ == tPubrec && reason < 0x80 {
				w.expectAck(tPubrel, p.id, 0)
				w.send(frame(tPubcomp<<4, u16(p.id), []byte{0}))
			}
			w.nothingBut(t, e, topic)
		}
	}
	for _, typ := range []byte{tPuback, tPubrec, tPubrel, tPubcomp} {
		first := typ << 4
		if typ == tPubrel {
			first |= 2
		}
		for _, reason := range []byte{0x01, 0x8E, 0xFF} {
			e.violates(t, v, frame(first, u16(1), []byte{reason}), 0x81, 0x82)
		}
	}
}

// testUnknownAcks: acknowledgements of nothing do no harm; PUBREC is answered.
func testUnknownAcks(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.send(ack(tPuback, 9, 0), ack(tPubcomp, 9, 0), ack(tPubrec, 9, 0))
	c.expectAck(tPubrel, 9, 0x92*(v-v4))
	c.ping()
}
