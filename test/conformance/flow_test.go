package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

func flowCases() []testCase {
	return []testCase{
		only(mqtt.V5, "flow/receive_maximum_of_client", testReceiveMaximum),
		only(mqtt.V5, "flow/receive_maximum_of_server", testReceiveMaximumExceeded),
		both("flow/window_used_again", testWindowAgain),
		only(mqtt.V5, "flow/maximum_packet_of_client", testMaximumPacket),
		only(mqtt.V5, "flow/maximum_packet_and_reason_strings", testReasonStringsFit),
		only(mqtt.V5, "flow/maximum_packet_and_answers", testAnswersFit),
		both("flow/maximum_packet_of_server", testTooLarge),
		only(mqtt.V5, "flow/aliases_of_client", testAliasesIn),
		only(mqtt.V5, "flow/aliases_of_client_bad", testAliasesBad),
		only(mqtt.V5, "flow/aliases_of_server", testAliasesOut),
		only(mqtt.V5, "flow/expiry", testMessageExpiry),
	}
}

// testReceiveMaximum: no more messages than the client permits are in flight, QoS 2 to the end of its exchange;
// everything else continues.
func testReceiveMaximum(t *testing.T, e *env, v byte) {
	topic := "flow/" + e.unique()
	c := e.client(t, v, mqtt.Number(mqtt.ReceiveMaximum, 2))
	c.Subscribe(mqtt.Filter(topic, 2), mqtt.Filter(topic+"/0", 0))
	pub := e.client(t, v)
	for i, qos := range []byte{2, 1, 1, 2, 1, 1} {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: fmt.Sprint(i), QoS: qos})
	}
	first, second := c.Expect(mqtt.PUBLISH), c.Expect(mqtt.PUBLISH)
	pub.Publish(mqtt.Publish{Topic: topic + "/marker", QoS: 1})
	c.Send(mqtt.Pingreq())
	c.Expect(mqtt.PINGRESP) // and no third message
	c.Subscribe(mqtt.Filter(topic+"/x", 1))
	c.Unsubscribe(topic + "/x")
	c.Publish(mqtt.Publish{Topic: topic + "/other", QoS: 2}) // its exchange is not delayed either
	c.Send(mqtt.Ack(mqtt.PUBREC, first.ID, 0))
	c.ExpectAck(mqtt.PUBREL, first.ID, 0)
	c.Send(mqtt.Pingreq())
	c.Expect(mqtt.PINGRESP) // PUBREL does not release a place
	c.Send(mqtt.Ack(mqtt.PUBCOMP, first.ID, 0))
	third := c.Expect(mqtt.PUBLISH)
	equal(t, "third", third.Payload, "2")
	c.Send(mqtt.Ack(mqtt.PUBACK, second.ID, 0))
	fourth := c.Expect(mqtt.PUBLISH)
	equal(t, "fourth", fourth.Payload, "3")
	c.Send(mqtt.Ack(mqtt.PUBREC, fourth.ID, 0x80)) // ends the exchange
	equal(t, "fifth", c.Message().Payload, "4")
	equal(t, "sixth", c.Message().Payload, "5")
	c.Send(mqtt.Ack(mqtt.PUBACK, third.ID, 0))
	c.Ping()
}

func testReceiveMaximumExceeded(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for id := range uint16(window) {
		c.Send(mqtt.Publish{Topic: "flow/in", QoS: 2, ID: id + 1}.Encode(v))
		c.ExpectAck(mqtt.PUBREC, id+1, 0)
	}
	c.Send(mqtt.Publish{Topic: "flow/in"}.Encode(v), mqtt.Pingreq()) // QoS 0 does not count
	c.Expect(mqtt.PINGRESP)
	c.Send(mqtt.Ack(mqtt.PUBREL, 1, 0))
	c.ExpectAck(mqtt.PUBCOMP, 1, 0)
	c.Send(mqtt.Publish{Topic: "flow/in", QoS: 1, ID: 1}.Encode(v))
	c.ExpectAck(mqtt.PUBACK, 1, 0)
	c.Send(mqtt.Publish{Topic: "flow/in", QoS: 2, ID: 1}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 1, 0)
	c.Send(mqtt.Publish{Topic: "flow/in", QoS: 1, ID: 100}.Encode(v))
	c.ExpectEnd(0x93)
}

// testWindowAgain fills the window many times, also with refused and repeated messages.
func testWindowAgain(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	for range 3 * window {
		c.Send(mqtt.Publish{Topic: "flow/again", QoS: 2, ID: 1}.Encode(v))
		c.ExpectAck(mqtt.PUBREC, 1, 0)
		c.Send(mqtt.Publish{Topic: "flow/again", QoS: 2, ID: 1, Dup: true}.Encode(v))
		c.ExpectAck(mqtt.PUBREC, 1, 0)
		c.Send(mqtt.Ack(mqtt.PUBREL, 1, 0))
		c.ExpectAck(mqtt.PUBCOMP, 1, 0)
		c.Publish(mqtt.Publish{Topic: "flow/again", QoS: 1})
		if v == mqtt.V5 {
			c.Send(mqtt.Publish{Topic: deniedPub, QoS: 2, ID: 9}.Encode(v))
			c.ExpectAck(mqtt.PUBREC, 9, 0x87)
		}
	}
}

func testMaximumPacket(t *testing.T, e *env, v byte) {
	const limit = 100
	topic := "flow/" + e.unique()
	o := lasting(v, e.unique())
	o.Props = append(o.Props, mqtt.Number(mqtt.MaximumPacketSize, limit))
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	pub := e.client(t, v)
	for qos := range byte(3) {
		overhead := 2 + 2 + len(topic) + 1 + int(min(qos, 1))*2
		pub.Publish(mqtt.Publish{Topic: topic, Payload: strings.Repeat("x", limit-overhead+1), QoS: qos})
		pub.Publish(mqtt.Publish{
			Topic: topic, Payload: "p", QoS: qos,
			Props: [][]byte{mqtt.User("a", strings.Repeat("y", limit))},
		})
		pub.Publish(mqtt.Publish{Topic: topic, Payload: strings.Repeat("x", limit-overhead), QoS: qos})
		p := c.Message()
		equal(t, "size of the packet", p.Size, limit)
	}
	pub.Publish(mqtt.Publish{Topic: topic, Payload: strings.Repeat("x", limit), QoS: 1, Retain: true})
	c.Subscribe(mqtt.Filter(topic, 2))
	c.Drop()
	c, _ = e.open(t, o) // a message that was too large counts as sent
	nothingBut(t, c, e, topic)
	// An answer that is too large cannot be sent either, and cannot be left out: the connection ends.
	var many []mqtt.Subscription
	for i := range limit {
		many = append(many, mqtt.Filter(fmt.Sprint(topic, i), 0))
	}
	c.Send(mqtt.Subscribe(v, 9, nil, many...))
	p, err := c.Read()
	if err == nil && (p.Type != mqtt.DISCONNECT || p.Size > limit) {
		t.Errorf("a packet of type %d and %d bytes", p.Type, p.Size)
	}
	if err == nil {
		_, err = c.Read()
	}
	c.CheckEnd(err)
}

// testReasonStringsFit: reason strings are omitted if they do not fit.
func testReasonStringsFit(t *testing.T, e *env, v byte) {
	c := e.dialTo(t, v, e.tokens)
	c.Send(mqtt.Connect{
		Version: v, ID: "x", Password: "bad", User: "x",
		Props: [][]byte{mqtt.Number(mqtt.MaximumPacketSize, 8)},
	}.Encode())
	p, err := c.Read()
	if err != nil || p.Size > 8 || p.Reason != 0x86 {
		t.Errorf("CONNACK of %d bytes with 0x%02X: %v", p.Size, p.Reason, err)
	}
	c.ExpectClosed()
	o := mqtt.Connect{Version: v, ID: e.unique(), Props: [][]byte{mqtt.Number(mqtt.MaximumPacketSize, 30)}}
	first, _ := e.open(t, o)
	e.open(t, o)
	p = first.Expect(mqtt.DISCONNECT)
	if p.Reason != 0x8E || p.Size > 30 {
		t.Errorf("DISCONNECT of %d bytes with 0x%02X", p.Size, p.Reason)
	}
	o.ID, o.Props = e.unique(), [][]byte{mqtt.Number(mqtt.MaximumPacketSize, 4)} // no CONNACK fits
	c = e.dial(t, v)
	c.Send(o.Encode())
	c.ExpectClosed()
}

// testAnswersFit causes every kind of failure for a client whose maximum packet size is that of the smallest CONNACK.
func testAnswersFit(t *testing.T, e *env, v byte) {
	const limit = 16
	o := mqtt.Connect{
		Version: v, ID: e.unique(), Keepalive: 60,
		Props: [][]byte{mqtt.Number(mqtt.MaximumPacketSize, limit)},
	}
	c, ack1 := e.open(t, o)
	if ack1.Size > limit {
		t.Errorf("CONNACK of %d bytes", ack1.Size)
	}
	c.Send(mqtt.Publish{Topic: deniedPub, QoS: 1, ID: 1}.Encode(v), mqtt.Publish{Topic: deniedPub, QoS: 2, ID: 2}.Encode(v),
		mqtt.Subscribe(v, 3, nil, mqtt.Filter(denied, 0)), mqtt.Unsubscribe(v, 4, "never"), mqtt.Ack(mqtt.PUBREL, 5, 0),
		mqtt.Ack(mqtt.PUBREC, 6, 0), mqtt.Pingreq())
	for range 7 {
		p, err := c.Read()
		check.OK(t, err)
		if p.Size > limit {
			t.Errorf("a packet of type %d and %d bytes", p.Type, p.Size)
		}
	}
	c.Send([]byte{mqtt.PUBLISH << 4}, mqtt.Varint(maxPacket))
	if p := c.Expect(mqtt.DISCONNECT); p.Size > limit || p.Reason != 0x95 {
		t.Errorf("DISCONNECT of %d bytes with 0x%02X", p.Size, p.Reason)
	}
}

func testTooLarge(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	overhead := len("flow/large") + 2 + 1 + 3 + int(v-mqtt.V4)
	c.Send(mqtt.Publish{Topic: "flow/large", Payload: strings.Repeat("x", maxPacket-overhead)}.Encode(v), mqtt.Pingreq())
	c.Expect(mqtt.PINGRESP)
	c.Send([]byte{mqtt.PUBLISH << 4}, mqtt.Varint(maxPacket), []byte("the rest need not be there"))
	c.ExpectEnd(0x95)
}

func testAliasesIn(t *testing.T, e *env, v byte) {
	topic := "alias/" + e.unique()
	o := lasting(v, e.unique())
	c, ack1 := e.open(t, o)
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter(topic+"/#", 1))
	most, _ := ack1.Prop(mqtt.TopicAliasMaximum)
	alias := func(n uint32) [][]byte { return [][]byte{mqtt.Number(mqtt.TopicAlias, n)} }
	next := func(p mqtt.Publish, want string) {
		t.Helper()
		c.Publish(p)
		got := w.Message()
		equal(t, "topic", got.Topic, want)
		if a, there := got.Prop(mqtt.TopicAlias); there {
			t.Errorf("alias %d was passed on", a.Num)
		}
	}
	for n := uint32(1); n <= most.Num; n++ {
		next(mqtt.Publish{Topic: fmt.Sprint(topic, "/", n), QoS: 1, Props: alias(n)}, fmt.Sprint(topic, "/", n))
	}
	for n := most.Num; n >= 1; n-- {
		next(mqtt.Publish{QoS: byte(n % 2), Props: alias(n)}, fmt.Sprint(topic, "/", n))
	}
	next(mqtt.Publish{Topic: topic + "/other", QoS: 1, Props: alias(1)}, topic+"/other")
	next(mqtt.Publish{QoS: 1, Props: alias(1)}, topic+"/other")
	next(mqtt.Publish{Topic: topic + "/none", QoS: 1}, topic+"/none")
	c.Drop()
	c, _ = e.open(t, o) // aliases end with the connection
	c.Send(mqtt.Publish{QoS: 1, ID: 1, Props: alias(1)}.Encode(v))
	c.ExpectEnd(0x82, 0x94)
}

func testAliasesBad(t *testing.T, e *env, v byte) {
	for name, alias := range map[string]uint32{"zero": 0, "above the maximum": aliases + 1, "largest": 65_535} {
		t.Run(name, func(t *testing.T) {
			e.violates(t, v, mqtt.Publish{Topic: "a", Props: [][]byte{mqtt.Number(mqtt.TopicAlias, alias)}}.Encode(v), 0x94)
		})
	}
	e.violates(t, v, mqtt.Publish{Props: [][]byte{mqtt.Number(mqtt.TopicAlias, 3)}}.Encode(v), 0x82, 0x94)
	e.violates(t, v, mqtt.Publish{Topic: "a", Props: [][]byte{
		mqtt.Number(mqtt.TopicAlias, 3),
		mqtt.Number(mqtt.TopicAlias, 3),
	}}.Encode(v), 0x82)
}

// testAliasesOut checks the gateway's aliases against the client's maximum, and their meaning.
func testAliasesOut(t *testing.T, e *env, v byte) {
	for _, most := range []uint32{0, 2} {
		topic := "alias/" + e.unique()
		var props [][]byte
		if most > 0 {
			props = append(props, mqtt.Number(mqtt.TopicAliasMaximum, most))
		}
		o := lasting(v, e.unique())
		o.Props = append(o.Props, props...)
		c, _ := e.open(t, o)
		c.Subscribe(mqtt.Filter(topic+"/#", 1))
		pub, used := e.client(t, v), 0
		for round := range 2 {
			known := map[uint32]string{}
			for i := range 12 {
				want := fmt.Sprint(topic, "/", i%4)
				pub.Publish(mqtt.Publish{Topic: want, Payload: fmt.Sprint(i), QoS: byte(i % 2)})
				p := c.Message()
				if a, there := p.Prop(mqtt.TopicAlias); there {
					used++
					if a.Num == 0 || a.Num > most {
						t.Errorf("alias %d of %d", a.Num, most)
					}
					if p.Topic != "" {
						known[a.Num] = p.Topic
					}
					p.Topic = known[a.Num]
				}
				equal(t, fmt.Sprintf("topic in round %d", round), p.Topic, want)
			}
			c.Ping() // the acknowledgements have arrived
			c.Drop()
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
	c.Subscribe(mqtt.Filter(topic, 1))
	pub := e.client(t, v)
	send := func(payload string, expiry ...uint32) {
		p := mqtt.Publish{Topic: topic, Payload: payload, QoS: 1}
		for _, x := range expiry {
			p.Props = append(p.Props, mqtt.Number(mqtt.MessageExpiry, x))
		}
		pub.Publish(p)
	}
	send("live", 100)
	p := c.Message()
	if x, there := p.Prop(mqtt.MessageExpiry); !there || x.Num < 99 || x.Num > 100 {
		t.Errorf("expiry %d of 100 at once", x.Num)
	}
	c.Ping()
	c.Disconnect()
	send("short", 1)
	send("long", 100)
	send("never")
	waitOut(1300 * time.Millisecond)
	c, _ = e.open(t, o)
	p = c.Message()
	equal(t, "payload", p.Payload, "long")
	if x, there := p.Prop(mqtt.MessageExpiry); !there || x.Num < 95 || x.Num > 99 {
		t.Errorf("expiry %d of 100 after more than a second", x.Num)
	}
	p = c.Message()
	equal(t, "payload", p.Payload, "never")
	if _, there := p.Prop(mqtt.MessageExpiry); there {
		t.Error("a message without expiry got one")
	}
}
