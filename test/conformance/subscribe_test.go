package conformance

import (
	"fmt"
	"slices"
	"testing"
)

func subscribeCases() []testCase {
	return []testCase{
		both("subscribe/codes", testSubscribeCodes),
		both("subscribe/no_filter", testNoFilter),
		both("subscribe/options", testSubscribeOptions),
		both("subscribe/replaced", testReplaced),
		both("subscribe/nothing_lost", testNothingLost),
		both("subscribe/as_a_sequence", testAsSequence),
		both("subscribe/overlapping", testOverlapping),
		only(v5, "subscribe/identifiers", testSubscriptionIdentifiers),
		only(v5, "subscribe/no_local", testNoLocal),
		only(v5, "subscribe/no_local_overlapping", testNoLocalOverlapping),
		both("unsubscribe/ends", testUnsubscribeEnds),
		both("unsubscribe/codes", testUnsubscribeCodes),
		both("unsubscribe/exact", testUnsubscribeExact),
		both("unsubscribe/completes", testUnsubscribeCompletes),
		both("ping/answered", testPing),
	}
}

func testSubscribeCodes(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	refused := map[byte]byte{v4: 0x80, v5: 0x87}[v]
	const withheld = 0x80 // granted, and taken away by deny_subscribe: no reason is given
	base := "codes/" + e.unique()
	equalList(t, "codes", c.subscribe(filter{base + "/0", 0}, filter{denied, 1}, filter{base + "/2", 2}, filter{"$x/#", 0}, filter{base + "/1", 1}),
		0, withheld, 2, refused, 1)
	c.send(subscribe(v, 65_535, nil, filter{base, 1}))
	equal(t, "SUBACK", c.expect(tSuback).id, 65_535)
	c.subscribe(filter{"test/#", 1})
	e.client(t, v).publish(publish{topic: denied, payload: "no", qos: 1})
	e.client(t, v).publish(publish{topic: base + "/1", payload: "yes", qos: 1})
	equal(t, "message", c.message().payload, "yes")
}

func testNoFilter(t *testing.T, e *env, v byte) {
	e.violates(t, v, subscribe(v, 1, nil), 0x81, 0x82)
	e.violates(t, v, unsubscribe(v, 1), 0x81, 0x82)
}

func testSubscribeOptions(t *testing.T, e *env, v byte) {
	bad := []byte{0x03, 0x40, 0x80, 0xC0}
	if v == v4 {
		bad = append(bad, 0x04, 0x08, 0x10, 0x20)
	} else {
		bad = append(bad, 0x30)
	}
	for _, options := range bad {
		t.Run(fmt.Sprintf("%08b", options), func(t *testing.T) {
			e.violates(t, v, subscribe(v, 1, nil, filter{"a", 0}, filter{"b", options}), 0x81, 0x82)
		})
	}
}

func testReplaced(t *testing.T, e *env, v byte) {
	topic := "replaced/" + e.unique()
	c := e.client(t, v)
	for _, qos := range []byte{1, 0, 2, 1} {
		equalList(t, "granted", c.subscribe(filter{topic, qos}), qos)
		c.publish(publish{topic: topic, payload: "x", qos: 2})
		equal(t, "QoS", c.message().qos(), qos)
	}
	c.nothingBut(t, e, topic) // one copy each
}

// testNothingLost subscribes again and again under a stream.
func testNothingLost(t *testing.T, e *env, v byte) {
	const n = 200
	topic := "stream/" + e.unique()
	c, pub := e.client(t, v), e.client(t, v)
	c.subscribe(filter{topic, 1})
	done := pub.stream(topic, 1, n)
	for i := range n {
		if i%10 == 0 {
			id := c.packetID()
			c.send(subscribe(v, id, nil, filter{topic, 1 + byte(i/10%2)}))
			c.await(tSuback, id)
		}
		equal(t, "payload", c.message().payload, fmt.Sprint(i))
	}
	<-done
}

func testAsSequence(t *testing.T, e *env, v byte) {
	topic := "sequence/" + e.unique()
	c := e.client(t, v)
	equalList(t, "granted", c.subscribe(filter{topic, 0}, filter{topic, 2}, filter{topic, 1}), 0, 2, 1)
	c.publish(publish{topic: topic, payload: "x", qos: 2})
	equal(t, "QoS", c.message().qos(), 1)
	want := []byte{0, 0x11, 0x11}
	if v == v4 {
		want = nil
	}
	equalList(t, "UNSUBACK", c.unsubscribe(topic, topic, topic+"/not"), want...)
}

func testOverlapping(t *testing.T, e *env, v byte) {
	base := "overlap/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{base + "/#", 0}, filter{base + "/a", 2}, filter{base + "/+", 1})
	for published := range byte(3) {
		c.publish(publish{topic: base + "/a", payload: "x", qos: published})
		equal(t, "QoS", c.message().qos(), published)
	}
	c.publish(publish{topic: base + "/a", payload: "marker", qos: 2}) // one copy each
	equal(t, "payload", c.message().payload, "marker")
	c.publish(publish{topic: base + "/b", payload: "b", qos: 2})
	equal(t, "QoS", c.message().qos(), 1)
}

// identifiers are a message's subscription identifiers in order.
func identifiers(p packet) []uint32 {
	var list []uint32
	for _, x := range p.all(pSubscriptionID) {
		list = append(list, x.num)
	}
	slices.Sort(list)
	return list
}

func testSubscriptionIdentifiers(t *testing.T, e *env, v byte) {
	base := "subids/" + e.unique()
	c := e.client(t, v)
	with := func(id uint32) [][]byte { return [][]byte{num(pSubscriptionID, id)} }
	next := func(topic string, want ...uint32) {
		t.Helper()
		e.client(t, v).publish(publish{topic: topic, payload: "x", qos: 1})
		equalList(t, "subscription identifiers", identifiers(c.message()), want...)
	}
	const largest = 268_435_455
	c.subscribeWith(with(1), filter{base + "/a", 1})
	c.subscribeWith(with(largest), filter{base + "/#", 0}, filter{base + "/c", 1})
	c.subscribe(filter{base + "/+", 1})
	next(base+"/a", 1, largest)
	next(base+"/b", largest)
	c.subscribeWith(with(128), filter{base + "/a", 1})
	next(base+"/a", 128, largest)
	c.subscribe(filter{base + "/a", 1})
	next(base+"/a", largest)
	c.publish(publish{topic: base + "/a", payload: "kept", qos: 1, retain: true})
	c.message()
	c.subscribeWith(with(5), filter{base + "/a", 1})
	equalList(t, "of a retained message", identifiers(c.message()), 5)
	e.violates(t, v, subscribe(v, 1, with(0), filter{"a", 0}), 0x81, 0x82)
	e.violates(t, v, subscribe(v, 1, append(with(1), with(2)...), filter{"a", 0}), 0x81, 0x82)
	e.violates(t, v, publish{topic: "a", props: with(1)}.encode(v), 0x81, 0x82)
}

func testNoLocal(t *testing.T, e *env, v byte) {
	topic := "nolocal/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 1 | noLocal})
	c.publish(publish{topic: topic, payload: "own", qos: 1})
	c.publish(publish{topic: topic, payload: "own", qos: 0})
	e.client(t, v).publish(publish{topic: topic, payload: "other", qos: 1})
	equal(t, "payload", c.message().payload, "other")
	c.disconnect() // it is the client identifier that counts, not the connection
	c, _ = e.open(t, o)
	c.publish(publish{topic: topic, payload: "own", qos: 1})
	c.nothingBut(t, e, topic)
}

// testNoLocalOverlapping: a subscription with no local takes no part in what its own client publishes.
func testNoLocalOverlapping(t *testing.T, e *env, v byte) {
	topic := "nolocal/" + e.unique()
	c := e.client(t, v)
	c.subscribeWith([][]byte{num(pSubscriptionID, 1)}, filter{topic, 2 | noLocal | retainAsPublished})
	c.subscribeWith([][]byte{num(pSubscriptionID, 2)}, filter{topic + "/#", 0})
	c.publish(publish{topic: topic, payload: "own", qos: 2, retain: true})
	p := c.message()
	equal(t, "QoS of an own message", p.qos(), 0)
	equal(t, "RETAIN of an own message", p.retain(), false)
	equalList(t, "identifiers of an own message", identifiers(p), 2)
	e.client(t, v).publish(publish{topic: topic, payload: "other", qos: 2, retain: true})
	p = c.message()
	equal(t, "QoS", p.qos(), 2)
	equalList(t, "identifiers", identifiers(p), 1, 2)
}

func testUnsubscribeEnds(t *testing.T, e *env, v byte) {
	topic := "unsubscribe/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic + "/a", 1}, filter{topic + "/b", 1}, filter{topic + "/c", 1})
	c.unsubscribe(topic+"/a", topic+"/b")
	for _, level := range []string{"/a", "/b", "/c"} {
		c.publish(publish{topic: topic + level, payload: level, qos: 1})
	}
	equal(t, "payload", c.message().payload, "/c")
}

func testUnsubscribeCodes(t *testing.T, e *env, v byte) {
	base := "unsubscribe/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{base + "/a", 1}, filter{base + "/#", 1})
	var want []byte
	if v == v5 {
		want = []byte{0, 0x11, 0}
	}
	equalList(t, "codes", c.unsubscribe(base+"/#", base+"/never", base+"/a"), want...)
	if v == v5 {
		want = []byte{0x11}
	}
	equalList(t, "codes", c.unsubscribe(base+"/a"), want...)
	c.send(unsubscribe(v, 65_535, "none"))
	equal(t, "UNSUBACK", c.expect(tUnsuback).id, 65_535)
}

func testUnsubscribeExact(t *testing.T, e *env, v byte) {
	base := "exact/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{base + "/#", 1})
	for _, other := range []string{base + "/a", base + "/+", base, base + "/A", "exact/#"} {
		c.unsubscribe(other)
	}
	c.publish(publish{topic: base + "/a", payload: "x", qos: 1})
	equal(t, "payload", c.message().payload, "x")
	c.unsubscribe(base + "/#")
	c.subscribe(filter{base, 1})
	c.publish(publish{topic: base + "/a", payload: "no", qos: 1})
	c.publish(publish{topic: base, payload: "marker", qos: 1})
	equal(t, "payload", c.message().payload, "marker")
}

// testUnsubscribeCompletes: what was on its way is completed, and repeated after a reconnect.
func testUnsubscribeCompletes(t *testing.T, e *env, v byte) {
	topic := "complete/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	pub := e.client(t, v)
	pub.publish(publish{topic: topic, payload: "1", qos: 1})
	pub.publish(publish{topic: topic, payload: "2", qos: 2})
	one, two := c.expect(tPublish), c.expect(tPublish)
	c.unsubscribe(topic)
	c.send(ack(tPubrec, two.id, 0))
	c.expectAck(tPubrel, two.id, 0)
	c.drop()
	c, _ = e.open(t, o)
	c.acknowledge(c.sameAgain(one))
	c.expectAck(tPubrel, two.id, 0)
	c.send(ack(tPubcomp, two.id, 0))
	c.ping()
}

func testPing(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for range 3 {
		c.send(pingreq)
		c.expect(tPingresp)
	}
	c.send(pingreq, pingreq)
	c.expect(tPingresp)
	c.expect(tPingresp)
}
