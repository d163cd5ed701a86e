package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/test/mqtt"
)

func publishCases() []testCase {
	return []testCase{
		both("publish/flags", testPublishFlags),
		both("publish/topic_names", testTopicNames),
		both("publish/delivered", testDelivered),
		both("publish/qos_of_delivery", testQoSOfDelivery),
		both("publish/responses", testResponses),
		both("publish/not_permitted", testNotPermitted),
		both("publish/dup_not_passed_on", testDupNotPassedOn),
		both("publish/order", testOrder),
		both("publish/fan_out", testFanOut),
	}
}

func testPublishFlags(t *testing.T, e *env, v byte) {
	for flags, body := range map[byte][]byte{
		0x06: slices.Concat(mqtt.Text("a"), mqtt.Uint16(1), mqtt.On5(v)),
		0x0E: slices.Concat(mqtt.Text("a"), mqtt.Uint16(1), mqtt.On5(v)),
		0x07: slices.Concat(mqtt.Text("a"), mqtt.Uint16(1), mqtt.On5(v)),
		0x08: slices.Concat(mqtt.Text("a"), mqtt.On5(v)), 0x09: slices.Concat(mqtt.Text("a"), mqtt.On5(v)),
	} {
		t.Run(fmt.Sprintf("%04b", flags), func(t *testing.T) {
			e.violates(t, v, mqtt.Frame(mqtt.PUBLISH<<4|flags, body),
				0x81, 0x82)
		})
	}
}

func testTopicNames(t *testing.T, e *env, v byte) {
	for _, topic := range []string{"+", "#", "a/+", "a/#", "a+b", "a#", "+/a", "日本/+"} {
		t.Run(topic, func(t *testing.T) {
			e.violates(t, v, mqtt.Publish{Topic: topic, QoS: 1, ID: 1}.Encode(v), 0x81, 0x82, 0x90)
		})
	}
	t.Run("empty", func(t *testing.T) { e.violates(t, v, mqtt.Publish{QoS: 1, ID: 1}.Encode(v), 0x81, 0x82) })
}

func testDelivered(t *testing.T, e *env, v byte) {
	base := "delivered/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(base+"/#", 1))
	for _, m := range []struct{ topic, payload string }{
		{base, "x"}, {base + "/a", ""}, {base + "/a b/\u00E9", "\x00\xFF"}, {base + "//", strings.Repeat("y", 5000)},
	} {
		c.Publish(mqtt.Publish{Topic: m.topic, Payload: m.payload, QoS: 1})
		p := c.Message()
		equal(t, "topic", p.Topic, m.topic)
		equal(t, "payload", p.Payload, m.payload)
		equal(t, "RETAIN", p.Retain(), false)
		equal(t, "DUP", p.Dup(), false)
	}
	c.Subscribe(mqtt.Filter(base+"-not", 1))
	c.Publish(mqtt.Publish{Topic: base + "-other", Payload: "no", QoS: 1})
	c.Publish(mqtt.Publish{Topic: base, Payload: "marker", QoS: 1})
	equal(t, "only what was subscribed to", c.Message().Payload, "marker")
}

func testQoSOfDelivery(t *testing.T, e *env, v byte) {
	for granted := range byte(3) {
		topic := "qos/" + e.unique()
		c := e.client(t, v)
		equalList(t, "granted", c.Subscribe(mqtt.Filter(topic, granted)), granted)
		for published := range byte(3) {
			c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: published})
			p := c.Message()
			equal(t, fmt.Sprintf("QoS of a message of %d at a subscription of %d", published, granted), p.QoS(),
				min(published, granted))
			equal(t, "DUP", p.Dup(), false)
			if p.QoS() > 0 && p.ID == 0 {
				t.Error("packet identifier 0")
			}
		}
	}
}

func testResponses(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.Send(mqtt.Publish{Topic: "responses"}.Encode(v), mqtt.Pingreq())
	c.Expect(mqtt.PINGRESP)
	c.Send(mqtt.Publish{Topic: "responses", QoS: 1, ID: 65_535}.Encode(v))
	c.ExpectAck(mqtt.PUBACK, 65_535, 0)
	c.Send(mqtt.Publish{Topic: "responses", QoS: 2, ID: 7}.Encode(v))
	c.ExpectAck(mqtt.PUBREC, 7, 0)
	c.Send(mqtt.Ack(mqtt.PUBREL, 7, 0))
	c.ExpectAck(mqtt.PUBCOMP, 7, 0)
}

// testNotPermitted: on 3.1.1, which has no refusal, the connection ends.
func testNotPermitted(t *testing.T, e *env, v byte) {
	for _, topic := range []string{deniedPub, "$x/y", "$SYS/uptime"} {
		for qos := range byte(3) {
			p := mqtt.Publish{Topic: topic, QoS: qos, ID: 1}
			if v == mqtt.V4 {
				e.violates(t, v, p.Encode(v))
				continue
			}
			c := e.client(t, v)
			c.Send(p.Encode(v))
			switch qos {
			case 1:
				c.ExpectAck(mqtt.PUBACK, 1, 0x87)
			case 2:
				c.ExpectAck(mqtt.PUBREC, 1, 0x87)
			}
			c.Send(mqtt.Pingreq())
			c.Expect(mqtt.PINGRESP)
		}
	}
}

func testDupNotPassedOn(t *testing.T, e *env, v byte) {
	topic := "dup/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 2))
	for qos := byte(1); qos <= 2; qos++ {
		c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: qos, Dup: true})
		equal(t, "DUP", c.Message().Dup(), false)
	}
}

// testOrder publishes faster than the exchanges complete, at each QoS, and checks the order of the acknowledgements and
// of the subscriber's messages.
func testOrder(t *testing.T, e *env, v byte) {
	const n = 200
	for qos := range byte(3) {
		topic := "order/" + e.unique()
		c, pub := e.client(t, v), e.client(t, v)
		c.Subscribe(mqtt.Filter(topic, qos))
		done := stream(pub, topic, qos, n)
		for i := range n {
			p := c.Message()
			equal(t, "payload", p.Payload, fmt.Sprint(i))
			equal(t, "QoS", p.QoS(), qos)
		}
		<-done
	}
}

// stream publishes numbers in bursts that fill the window, and checks that they are acknowledged in order, on a
// goroutine that has ended when the channel is closed.
func stream(c *mqtt.T, topic string, qos byte, n int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		bursts(c, topic, qos, n)
	}()
	return done
}

func bursts(c *mqtt.T, topic string, qos byte, n int) {
	const burst = 10
	for first := 0; first < n; first += burst {
		var frames, releases []byte
		for i := range burst {
			frames = slices.Concat(frames, mqtt.Publish{
				Topic: topic, Payload: fmt.Sprint(first + i), QoS: qos,
				ID: uint16(i + 1),
			}.Encode(c.Version))
			releases = slices.Concat(releases, mqtt.Ack(mqtt.PUBREL, uint16(i+1), 0))
		}
		steps := map[byte][]byte{0: {}, 1: {mqtt.PUBACK}, 2: {mqtt.PUBREC, mqtt.PUBCOMP}}[qos]
		for _, typ := range steps {
			if _, err := c.Conn.Write(frames); err != nil {
				c.TB.Errorf("write: %v", err)
				return
			}
			for i := range burst {
				if p, err := c.Read(); err != nil || p.Type != typ || p.ID != uint16(i+1) {
					c.TB.Errorf("type %d of %d (%v) instead of %d of %d", p.Type, p.ID, err, typ, i+1)
					return
				}
			}
			frames = releases
		}
		if qos == 0 {
			if _, err := c.Conn.Write(frames); err != nil {
				c.TB.Errorf("write: %v", err)
			}
		}
	}
}

// testFanOut has several subscribers, connected and not: each gets its own copy.
func testFanOut(t *testing.T, e *env, v byte) {
	topic := "fanout/" + e.unique()
	away := lasting(v, e.unique())
	c, _ := e.open(t, away)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Disconnect()
	var here []*mqtt.T
	for _, f := range []string{topic, topic + "/#", "fanout/+"} {
		s := e.client(t, v)
		s.Subscribe(mqtt.Filter(f, 1))
		here = append(here, s)
	}
	here[0].Publish(mqtt.Publish{Topic: topic, Payload: topic, QoS: 1})
	for _, s := range here {
		p := s.Message()
		for p.Topic != topic { // messages of other tests on the wildcard
			p = s.Message()
		}
		equal(t, "payload", p.Payload, topic)
	}
	c, _ = e.open(t, away)
	equal(t, "payload", c.Message().Payload, topic)
}
