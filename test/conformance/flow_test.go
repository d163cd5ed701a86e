package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func flowCases() []testCase {
	return []testCase{
		only(v5, "flow/receive_maximum_of_client", testReceiveMaximum),
		only(v5, "flow/receive_maximum_of_server", testReceiveMaximumExceeded),
		both("flow/window_used_again", testWindowAgain),
		only(v5, "flow/maximum_packet_of_client", testMaximumPacket),
		only(v5, "flow/maximum_packet_and_reason_strings", testReasonStringsFit),
		only(v5, "flow/maximum_packet_and_answers", testAnswersFit),
		both("flow/maximum_packet_of_server", testTooLarge),
		only(v5, "flow/aliases_of_client", testAliasesIn),
		only(v5, "flow/aliases_of_client_bad", testAliasesBad),
		only(v5, "flow/aliases_of_server", testAliasesOut),
		only(v5, "flow/expiry", testMessageExpiry),
	}
}

// testReceiveMaximum: no more than the client takes are on their way, QoS 2 to its very end; everything else
// goes on.
func testReceiveMaximum(t *testing.T, e *env, v byte) {
	topic := "flow/" + e.unique()
	c := e.client(t, v, num(pReceiveMaximum, 2))
	c.subscribe(filter{topic, 2}, filter{topic + "/0", 0})
	pub := e.client(t, v)
	for i, qos := range []byte{2, 1, 1, 2, 1, 1} {
		pub.publish(publish{topic: topic, payload: fmt.Sprint(i), qos: qos})
	}
	first, second := c.expect(tPublish), c.expect(tPublish)
	pub.publish(publish{topic: topic + "/marker", qos: 1})
	c.send(pingreq)
	c.expect(tPingresp) // and no third message
	c.subscribe(filter{topic + "/x", 1})
	c.unsubscribe(topic + "/x")
	c.publish(publish{topic: topic + "/other", qos: 2}) // its exchange is not held up either
	c.send(ack(tPubrec, first.id, 0))
	c.expectAck(tPubrel, first.id, 0)
	c.send(pingreq)
	c.expect(tPingresp) // PUBREL does not give room
	c.send(ack(tPubcomp, first.id, 0))
	third := c.expect(tPublish)
	equal(t, "third", third.payload, "2")
	c.send(ack(tPuback, second.id, 0))
	fourth := c.expect(tPublish)
	equal(t, "fourth", fourth.payload, "3")
	c.send(ack(tPubrec, fourth.id, 0x80)) // ends the exchange
	equal(t, "fifth", c.message().payload, "4")
	equal(t, "sixth", c.message().payload, "5")
	c.send(ack(tPuback, third.id, 0))
	c.ping()
}

func testReceiveMaximumExceeded(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for id := range uint16(window) {
		c.send(publish{topic: "flow/in", qos: 2, id: id + 1}.encode(v))
		c.expectAck(tPubrec, id+1, 0)
	}
	c.send(publish{topic: "flow/in"}.encode(v), pingreq) // QoS 0 does not count
	c.expect(tPingresp)
	c.send(ack(tPubrel, 1, 0))
	c.expectAck(tPubcomp, 1, 0)
	c.send(publish{topic: "flow/in", qos: 1, id: 1}.encode(v))
	c.expectAck(tPuback, 1, 0)
	c.send(publish{topic: "flow/in", qos: 2, id: 1}.encode(v))
	c.expectAck(tPubrec, 1, 0)
	c.send(publish{topic: "flow/in", qos: 1, id: 100}.encode(v))
	c.expectEnd(0x93)
}

// testWindowAgain uses the window up many times over, refused and repeated messages among the others.
func testWindowAgain(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for range 3 * window {
		c.send(publish{topic: "flow/again", qos: 2, id: 1}.encode(v))
		c.expectAck(tPubrec, 1, 0)
		c.send(publish{topic: "flow/again", qos: 2, id: 1, dup: true}.encode(v))
		c.expectAck(tPubrec, 1, 0)
		c.send(ack(tPubrel, 1, 0))
		c.expectAck(tPubcomp, 1, 0)
		c.publish(publish{topic: "flow/again", qos: 1})
		if v == v5 {
			c.send(publish{topic: deniedPub, qos: 2, id: 9}.encode(v))
			c.expectAck(tPubrec, 9, 0x87)
		}
	}
}

func testMaximumPacket(t *testing.T, e *env, v byte) {
	const limit = 100
	topic := "flow/" + e.unique()
	o := lasting(v, e.unique())
	o.props = append(o.props, num(pMaximumPacket, limit))
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	for qos := range byte(3) {
		overhead := 2 + 2 + len(topic) + 1 + int(min(qos, 1))*2
		pub.publish(publish{topic: topic, payload: strings.Repeat("x", limit-overhead+1), qos: qos})
		pub.publish(publish{topic: topic, payload: "p", qos: qos, props: [][]byte{pair("a", strings.Repeat("y", limit))}})
		pub.publish(publish{topic: topic, payload: strings.Repeat("x", limit-overhead), qos: qos})
		p := c.message()
		equal(t, "size of the packet", p.size, limit)
	}
	pub.publish(publish{topic: topic, payload: strings.Repeat("x", limit), qos: 1, retain: true})
	c.subscribe(filter{topic, 2})
	c.drop()
	c, _ = e.open(t, o) // what was too large counts as sent
	c.nothingBut(t, e, topic)
	// An answer that is too large cannot be sent either, and cannot be left out: the connection ends.
	var many []filter
	for i := range limit {
		many = append(many, filter{fmt.Sprint(topic, i), 0})
	}
	c.send(subscribe(v, 9, nil, many...))
	p, err := c.read()
	if err == nil && (p.typ != tDisconnect || p.size > limit) {
		t.Errorf("a packet of type %d and %d bytes", p.typ, p.size)
	}
	if err == nil {
		_, err = c.read()
	}
	c.checkEnd(err)
}

// testReasonStringsFit: reason strings are left out where they do not fit.
func testReasonStringsFit(t *testing.T, e *env, v byte) {
	c := e.dialTo(t, v, e.tokens)
	c.send(connect{version: v, id: "x", clean: true, password: ptr("bad"), user: ptr("x"), props: [][]byte{num(pMaximumPacket, 8)}}.encode())
	p, err := c.read()
	if err != nil || p.size > 8 || p.reason != 0x86 {
		t.Errorf("CONNACK of %d bytes with 0x%02X: %v", p.size, p.reason, err)
	}
	c.expectClosed()
	o := connect{version: v, id: e.unique(), clean: true, props: [][]byte{num(pMaximumPacket, 30)}}
	first, _ := e.open(t, o)
	e.open(t, o)
	p = first.expect(tDisconnect)
	if p.reason != 0x8E || p.size > 30 {
		t.Errorf("DISCONNECT of %d bytes with 0x%02X", p.size, p.reason)
	}
	o.id, o.props = e.unique(), [][]byte{num(pMaximumPacket, 4)} // no CONNACK fits
	c = e.dial(t, v)
	c.send(o.encode())
	c.expectClosed()
}

// testAnswersFit has a client that takes no packet larger than the smallest CONNACK be told of every kind of
// failure.
func testAnswersFit(t *testing.T, e *env, v byte) {
	const limit = 16
	o := connect{version: v, id: e.unique(), clean: true, keepalive: 60, props: [][]byte{num(pMaximumPacket, limit)}}
	c, ack1 := e.open(t, o)
	if ack1.size > limit {
		t.Errorf("CONNACK of %d bytes", ack1.size)
	}
	c.send(publish{topic: deniedPub, qos: 1, id: 1}.encode(v), publish{topic: deniedPub, qos: 2, id: 2}.encode(v),
		subscribe(v, 3, nil, filter{denied, 0}), unsubscribe(v, 4, "never"), ack(tPubrel, 5, 0), ack(tPubrec, 6, 0), pingreq)
	for range 7 {
		p, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if p.size > limit {
			t.Errorf("a packet of type %d and %d bytes", p.typ, p.size)
		}
	}
	c.send([]byte{tPublish << 4}, varint(maxPacket))
	if p := c.expect(tDisconnect); p.size > limit || p.reason != 0x95 {
		t.Errorf("DISCONNECT of %d bytes with 0x%02X", p.size, p.reason)
	}
}

func testTooLarge(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	overhead := len("flow/large") + 2 + 1 + 3 + int(v-v4)
	c.send(publish{topic: "flow/large", payload: strings.Repeat("x", maxPacket-overhead)}.encode(v), pingreq)
	c.expect(tPingresp)
	c.send([]byte{tPublish << 4}, varint(maxPacket), []byte("the rest need not be there"))
	c.expectEnd(0x95)
}

func testAliasesIn(t *testing.T, e *env, v byte) {
	topic := "alias/" + e.unique()
	o := lasting(v, e.unique())
	c, ack1 := e.open(t, o)
	w := e.client(t, v)
	w.subscribe(filter{topic + "/#", 1})
	most, _ := ack1.prop(pAliasMaximum)
	alias := func(n uint32) [][]byte { return [][]byte{num(pAlias, n)} }
	next := func(p publish, want string) {
		t.Helper()
		c.publish(p)
		got := w.message()
		equal(t, "topic", got.topic, want)
		if a, there := got.prop(pAlias); there {
			t.Errorf("alias %d was passed on", a.num)
		}
	}
	for n := uint32(1); n <= most.num; n++ {
		next(publish{topic: fmt.Sprint(topic, "/", n), qos: 1, props: alias(n)}, fmt.Sprint(topic, "/", n))
	}
	for n := most.num; n >= 1; n-- {
		next(publish{qos: byte(n % 2), props: alias(n)}, fmt.Sprint(topic, "/", n))
	}
	next(publish{topic: topic + "/other", qos: 1, props: alias(1)}, topic+"/other")
	next(publish{qos: 1, props: alias(1)}, topic+"/other")
	next(publish{topic: topic + "/none", qos: 1}, topic+"/none")
	c.drop()
	c, _ = e.open(t, o) // aliases end with the connection
	c.send(publish{qos: 1, id: 1, props: alias(1)}.encode(v))
	c.expectEnd(0x82, 0x94)
}

func testAliasesBad(t *testing.T, e *env, v byte) {
	for name, alias := range map[string]uint32{"zero": 0, "above the maximum": aliases + 1, "largest": 65_535} {
		t.Run(name, func(t *testing.T) {
			e.violates(t, v, publish{topic: "a", props: [][]byte{num(pAlias, alias)}}.encode(v), 0x94)
		})
	}
	e.violates(t, v, publish{props: [][]byte{num(pAlias, 3)}}.encode(v), 0x82, 0x94)
	e.violates(t, v, publish{topic: "a", props: [][]byte{num(pAlias, 3), num(pAlias, 3)}}.encode(v), 0x82)
}

// testAliasesOut holds the gateway's aliases to the client's maximum, and to their meaning.
func testAliasesOut(t *testing.T, e *env, v byte) {
	for _, most := range []uint32{0, 2} {
		topic := "alias/" + e.unique()
		var props [][]byte
		if most > 0 {
			props = append(props, num(pAliasMaximum, most))
		}
		o := lasting(v, e.unique())
		o.props = append(o.props, props...)
		c, _ := e.open(t, o)
		c.subscribe(filter{topic + "/#", 1})
		pub, used := e.client(t, v), 0
		for round := range 2 {
			known := map[uint32]string{}
			for i := range 12 {
				want := fmt.Sprint(topic, "/", i%4)
				pub.publish(publish{topic: want, payload: fmt.Sprint(i), qos: byte(i % 2)})
				p := c.message()
				if a, there := p.prop(pAlias); there {
					used++
					if a.num == 0 || a.num > most {
						t.Errorf("alias %d of %d", a.num, most)
					}
					if p.topic != "" {
						known[a.num] = p.topic
					}
					p.topic = known[a.num]
				}
				equal(t, fmt.Sprintf("topic in round %d", round), p.topic, want)
			}
			c.ping() // the acknowledgements have arrived
			c.drop()
			c, _ = e.open(t, o)
		}
		if most > 0 && used == 0 {
			t.Error("no alias was used")
		}
	}
}

func testMessageExpiry(t *testing.T, e *env, v byte) {
	topic := "expiry/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 1})
	pub := e.client(t, v)
	send := func(payload string, expiry ...uint32) {
		p := publish{topic: topic, payload: payload, qos: 1}
		for _, x := range expiry {
			p.props = append(p.props, num(pMessageExpiry, x))
		}
		pub.publish(p)
	}
	send("live", 100)
	p := c.message()
	if x, there := p.prop(pMessageExpiry); !there || x.num < 99 || x.num > 100 {
		t.Errorf("expiry %d of 100 at once", x.num)
	}
	c.ping()
	c.disconnect()
	send("short", 1)
	send("long", 100)
	send("never")
	waitOut(1300 * time.Millisecond)
	c, _ = e.open(t, o)
	p = c.message()
	equal(t, "payload", p.payload, "long")
	if x, there := p.prop(pMessageExpiry); !there || x.num < 95 || x.num > 99 {
		t.Errorf("expiry %d of 100 after more than a second", x.num)
	}
	p = c.message()
	equal(t, "payload", p.payload, "never")
	if _, there := p.prop(pMessageExpiry); there {
		t.Error("a message without expiry got one")
	}
}
