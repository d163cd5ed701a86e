package conformance

import (
	"fmt"
	"slices"
	"testing"

	"cellgate/test/mqtt"
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
		only(mqtt.V5, "subscribe/identifiers", testSubscriptionIdentifiers),
		only(mqtt.V5, "subscribe/no_local", testNoLocal),
		only(mqtt.V5, "subscribe/no_local_overlapping", testNoLocalOverlapping),
		both("unsubscribe/ends", testUnsubscribeEnds),
		both("unsubscribe/codes", testUnsubscribeCodes),
		both("unsubscribe/exact", testUnsubscribeExact),
		both("unsubscribe/completes", testUnsubscribeCompletes),
		both("ping/answered", testPing),
	}
}

func testSubscribeCodes(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	refused := map[byte]byte{mqtt.V4: 0x80, mqtt.V5: 0x87}[v]
	const withheld = 0x80 // granted, and denied by deny_subscribe: no reason is given
	base := "codes/" + e.unique()
	equalList(t, "codes", c.Subscribe(mqtt.Filter(base+"/0", 0), mqtt.Filter(denied, 1), mqtt.Filter(base+"/2", 2),
		mqtt.Filter("$x/#", 0), mqtt.Filter(base+"/1", 1)),
		0, withheld, 2, refused, 1)
	c.Send(mqtt.Subscribe(v, 65_535, nil, mqtt.Filter(base, 1)))
	equal(t, "SUBACK", c.Expect(mqtt.SUBACK).ID, 65_535)
	c.Subscribe(mqtt.Filter("test/#", 1))
	e.client(t, v).Publish(mqtt.Publish{Topic: denied, Payload: "no", QoS: 1})
	e.client(t, v).Publish(mqtt.Publish{Topic: base + "/1", Payload: "yes", QoS: 1})
	equal(t, "message", c.Message().Payload, "yes")
}

func testNoFilter(t *testing.T, e *env, v byte) {
	e.violates(t, v, mqtt.Subscribe(v, 1, nil), 0x81, 0x82)
	e.violates(t, v, mqtt.Unsubscribe(v, 1), 0x81, 0x82)
}

func testSubscribeOptions(t *testing.T, e *env, v byte) {
	bad := []byte{0x03, 0x40, 0x80, 0xC0}
	if v == mqtt.V4 {
		bad = append(bad, 0x04, 0x08, 0x10, 0x20)
	} else {
		bad = append(bad, 0x30)
	}
	for _, options := range bad {
		t.Run(fmt.Sprintf("%08b", options), func(t *testing.T) {
			e.violates(t, v, mqtt.Subscribe(v, 1, nil, mqtt.Filter("a", 0), mqtt.Filter("b", options)), 0x81, 0x82)
		})
	}
}

func testReplaced(t *testing.T, e *env, v byte) {
	topic := "replaced/" + e.unique()
	c := e.client(t, v)
	for _, qos := range []byte{1, 0, 2, 1} {
		equalList(t, "granted", c.Subscribe(mqtt.Filter(topic, qos)), qos)
		c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2})
		equal(t, "QoS", c.Message().QoS(), qos)
	}
	nothingBut(t, c, e, topic) // one copy each
}

// testNothingLost subscribes again and again under a stream.
func testNothingLost(t *testing.T, e *env, v byte) {
	const n = 200
	topic := "stream/" + e.unique()
	c, pub := e.client(t, v), e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 1))
	done := stream(pub, topic, 1, n)
	for i := range n {
		if i%10 == 0 {
			id := c.PacketID()
			c.Send(mqtt.Subscribe(v, id, nil, mqtt.Filter(topic, 1+byte(i/10%2))))
			c.Await(mqtt.SUBACK, id)
		}
		equal(t, "payload", c.Message().Payload, fmt.Sprint(i))
	}
	<-done
}

func testAsSequence(t *testing.T, e *env, v byte) {
	topic := "sequence/" + e.unique()
	c := e.client(t, v)
	equalList(t, "granted", c.Subscribe(mqtt.Filter(topic, 0), mqtt.Filter(topic, 2), mqtt.Filter(topic, 1)), 0, 2, 1)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2})
	equal(t, "QoS", c.Message().QoS(), 1)
	want := []byte{0, 0x11, 0x11}
	if v == mqtt.V4 {
		want = nil
	}
	equalList(t, "UNSUBACK", c.Unsubscribe(topic, topic, topic+"/not"), want...)
}

func testOverlapping(t *testing.T, e *env, v byte) {
	base := "overlap/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(base+"/#", 0), mqtt.Filter(base+"/a", 2), mqtt.Filter(base+"/+", 1))
	for published := range byte(3) {
		c.Publish(mqtt.Publish{Topic: base + "/a", Payload: "x", QoS: published})
		equal(t, "QoS", c.Message().QoS(), published)
	}
	c.Publish(mqtt.Publish{Topic: base + "/a", Payload: "marker", QoS: 2}) // one copy each
	equal(t, "payload", c.Message().Payload, "marker")
	c.Publish(mqtt.Publish{Topic: base + "/b", Payload: "b", QoS: 2})
	equal(t, "QoS", c.Message().QoS(), 1)
}

// identifiers returns a message's subscription identifiers in order.
func identifiers(p mqtt.Packet) []uint32 {
	var list []uint32
	for _, x := range p.All(mqtt.SubscriptionID) {
		list = append(list, x.Num)
	}
	slices.Sort(list)
	return list
}

func testSubscriptionIdentifiers(t *testing.T, e *env, v byte) {
	base := "subids/" + e.unique()
	c := e.client(t, v)
	with := func(id uint32) [][]byte { return [][]byte{mqtt.Number(mqtt.SubscriptionID, id)} }
	next := func(topic string, want ...uint32) {
		t.Helper()
		e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
		equalList(t, "subscription identifiers", identifiers(c.Message()), want...)
	}
	const largest = 268_435_455
	c.SubscribeWith(with(1), mqtt.Filter(base+"/a", 1))
	c.SubscribeWith(with(largest), mqtt.Filter(base+"/#", 0), mqtt.Filter(base+"/c", 1))
	c.Subscribe(mqtt.Filter(base+"/+", 1))
	next(base+"/a", 1, largest)
	next(base+"/b", largest)
	c.SubscribeWith(with(128), mqtt.Filter(base+"/a", 1))
	next(base+"/a", 128, largest)
	c.Subscribe(mqtt.Filter(base+"/a", 1))
	next(base+"/a", largest)
	c.Publish(mqtt.Publish{Topic: base + "/a", Payload: "kept", QoS: 1, Retain: true})
	c.Message()
	c.SubscribeWith(with(5), mqtt.Filter(base+"/a", 1))
	equalList(t, "of a retained message", identifiers(c.Message()), 5)
	e.violates(t, v, mqtt.Subscribe(v, 1, with(0), mqtt.Filter("a", 0)), 0x81, 0x82)
	e.violates(t, v, mqtt.Subscribe(v, 1, append(with(1), with(2)...), mqtt.Filter("a", 0)), 0x81, 0x82)
	e.violates(t, v, mqtt.Publish{Topic: "a", Props: with(1)}.Encode(v), 0x81, 0x82)
}

func testNoLocal(t *testing.T, e *env, v byte) {
	topic := "nolocal/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 1|mqtt.NoLocal))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "own", QoS: 1})
	c.Publish(mqtt.Publish{Topic: topic, Payload: "own", QoS: 0})
	e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "other", QoS: 1})
	equal(t, "payload", c.Message().Payload, "other")
	c.Disconnect() // the client identifier decides, not the connection
	c, _ = e.open(t, o)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "own", QoS: 1})
	nothingBut(t, c, e, topic)
}

// testNoLocalOverlapping: a subscription with no local does not match its own client's messages.
func testNoLocalOverlapping(t *testing.T, e *env, v byte) {
	topic := "nolocal/" + e.unique()
	c := e.client(t, v)
	c.SubscribeWith([][]byte{mqtt.Number(mqtt.SubscriptionID, 1)},
		mqtt.Filter(topic, 2|mqtt.NoLocal|mqtt.RetainAsPublished))
	c.SubscribeWith([][]byte{mqtt.Number(mqtt.SubscriptionID, 2)}, mqtt.Filter(topic+"/#", 0))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "own", QoS: 2, Retain: true})
	p := c.Message()
	equal(t, "QoS of an own message", p.QoS(), 0)
	equal(t, "RETAIN of an own message", p.Retain(), false)
	equalList(t, "identifiers of an own message", identifiers(p), 2)
	e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "other", QoS: 2, Retain: true})
	p = c.Message()
	equal(t, "QoS", p.QoS(), 2)
	equalList(t, "identifiers", identifiers(p), 1, 2)
}

func testUnsubscribeEnds(t *testing.T, e *env, v byte) {
	topic := "unsubscribe/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic+"/a", 1), mqtt.Filter(topic+"/b", 1), mqtt.Filter(topic+"/c", 1))
	c.Unsubscribe(topic+"/a", topic+"/b")
	for _, level := range []string{"/a", "/b", "/c"} {
		c.Publish(mqtt.Publish{Topic: topic + level, Payload: level, QoS: 1})
	}
	equal(t, "payload", c.Message().Payload, "/c")
}

func testUnsubscribeCodes(t *testing.T, e *env, v byte) {
	base := "unsubscribe/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(base+"/a", 1), mqtt.Filter(base+"/#", 1))
	var want []byte
	if v == mqtt.V5 {
		want = []byte{0, 0x11, 0}
	}
	equalList(t, "codes", c.Unsubscribe(base+"/#", base+"/never", base+"/a"), want...)
	if v == mqtt.V5 {
		want = []byte{0x11}
	}
	equalList(t, "codes", c.Unsubscribe(base+"/a"), want...)
	c.Send(mqtt.Unsubscribe(v, 65_535, "none"))
	equal(t, "UNSUBACK", c.Expect(mqtt.UNSUBACK).ID, 65_535)
}

func testUnsubscribeExact(t *testing.T, e *env, v byte) {
	base := "exact/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(base+"/#", 1))
	for _, other := range []string{base + "/a", base + "/+", base, base + "/A", "exact/#"} {
		c.Unsubscribe(other)
	}
	c.Publish(mqtt.Publish{Topic: base + "/a", Payload: "x", QoS: 1})
	equal(t, "payload", c.Message().Payload, "x")
	c.Unsubscribe(base + "/#")
	c.Subscribe(mqtt.Filter(base, 1))
	c.Publish(mqtt.Publish{Topic: base + "/a", Payload: "no", QoS: 1})
	c.Publish(mqtt.Publish{Topic: base, Payload: "marker", QoS: 1})
	equal(t, "payload", c.Message().Payload, "marker")
}

// testUnsubscribeCompletes: messages in flight are completed, and resent after a reconnect.
func testUnsubscribeCompletes(t *testing.T, e *env, v byte) {
	topic := "complete/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "1", QoS: 1})
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "2", QoS: 2})
	one, two := c.Expect(mqtt.PUBLISH), c.Expect(mqtt.PUBLISH)
	c.Unsubscribe(topic)
	c.Send(mqtt.Ack(mqtt.PUBREC, two.ID, 0))
	c.ExpectAck(mqtt.PUBREL, two.ID, 0)
	c.Drop()
	c, _ = e.open(t, o)
	c.Acknowledge(sameAgain(c, one))
	c.ExpectAck(mqtt.PUBREL, two.ID, 0)
	c.Send(mqtt.Ack(mqtt.PUBCOMP, two.ID, 0))
	c.Ping()
}

func testPing(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for range 3 {
		c.Send(mqtt.Pingreq())
		c.Expect(mqtt.PINGRESP)
	}
	c.Send(mqtt.Pingreq(), mqtt.Pingreq())
	c.Expect(mqtt.PINGRESP)
	c.Expect(mqtt.PINGRESP)
}
