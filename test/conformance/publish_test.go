package conformance

import (
	"fmt"
	"strings"
	"testing"
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
		0x06: join(text("a"), u16(1), five(v)), 0x0E: join(text("a"), u16(1), five(v)), 0x07: join(text("a"), u16(1), five(v)),
		0x08: join(text("a"), five(v)), 0x09: join(text("a"), five(v)),
	} {
		t.Run(fmt.Sprintf("%04b", flags), func(t *testing.T) { e.violates(t, v, frame(tPublish<<4|flags, body), 0x81, 0x82) })
	}
}

func testTopicNames(t *testing.T, e *env, v byte) {
	for _, topic := range []string{"+", "#", "a/+", "a/#", "a+b", "a#", "+/a", "日本/+"} {
		t.Run(topic, func(t *testing.T) { e.violates(t, v, publish{topic: topic, qos: 1, id: 1}.encode(v), 0x81, 0x82, 0x90) })
	}
	t.Run("empty", func(t *testing.T) { e.violates(t, v, publish{qos: 1, id: 1}.encode(v), 0x81, 0x82) })
}

func testDelivered(t *testing.T, e *env, v byte) {
	base := "delivered/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{base + "/#", 1})
	for _, m := range []struct{ topic, payload string }{
		{base, "x"}, {base + "/a", ""}, {base + "/a b/\u00E9", "\x00\xFF"}, {base + "//", strings.Repeat("y", 5000)},
	} {
		c.publish(publish{topic: m.topic, payload: m.payload, qos: 1})
		p := c.message()
		equal(t, "topic", p.topic, m.topic)
		equal(t, "payload", p.payload, m.payload)
		equal(t, "RETAIN", p.retain(), false)
		equal(t, "DUP", p.dup(), false)
	}
	c.subscribe(filter{base + "-not", 1})
	c.publish(publish{topic: base + "-other", payload: "no", qos: 1})
	c.publish(publish{topic: base, payload: "marker", qos: 1})
	equal(t, "only what was subscribed to", c.message().payload, "marker")
}

func testQoSOfDelivery(t *testing.T, e *env, v byte) {
	for granted := range byte(3) {
		topic := "qos/" + e.unique()
		c := e.client(t, v)
		equalList(t, "granted", c.subscribe(filter{topic, granted}), granted)
		for published := range byte(3) {
			c.publish(publish{topic: topic, payload: "x", qos: published})
			p := c.message()
			equal(t, fmt.Sprintf("QoS of a message of %d at a subscription of %d", published, granted), p.qos(), min(published, granted))
			equal(t, "DUP", p.dup(), false)
			if p.qos() > 0 && p.id == 0 {
				t.Error("packet identifier 0")
			}
		}
	}
}

func testResponses(t *testing.T, e *env, v byte) {
	c := e.client(t, v)
	c.send(publish{topic: "responses"}.encode(v), pingreq)
	c.expect(tPingresp)
	c.send(publish{topic: "responses", qos: 1, id: 65_535}.encode(v))
	c.expectAck(tPuback, 65_535, 0)
	c.send(publish{topic: "responses", qos: 2, id: 7}.encode(v))
	c.expectAck(tPubrec, 7, 0)
	c.send(ack(tPubrel, 7, 0))
	c.expectAck(tPubcomp, 7, 0)
}

// testNotPermitted: on 3.1.1, which cannot say no, the connection ends.
func testNotPermitted(t *testing.T, e *env, v byte) {
	for _, topic := range []string{deniedPub, "$x/y", "$SYS/uptime"} {
		for qos := range byte(3) {
			p := publish{topic: topic, qos: qos, id: 1}
			if v == v4 {
				e.violates(t, v, p.encode(v))
				continue
			}
			c := e.client(t, v)
			c.send(p.encode(v))
			switch qos {
			case 1:
				c.expectAck(tPuback, 1, 0x87)
			case 2:
				c.expectAck(tPubrec, 1, 0x87)
			}
			c.send(pingreq)
			c.expect(tPingresp)
		}
	}
}

func testDupNotPassedOn(t *testing.T, e *env, v byte) {
	topic := "dup/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 2})
	for qos := byte(1); qos <= 2; qos++ {
		c.publish(publish{topic: topic, payload: "x", qos: qos, dup: true})
		equal(t, "DUP", c.message().dup(), false)
	}
}

// testOrder publishes faster than the exchanges complete, at each QoS, and looks at the order of the
// acknowledgements and of what the subscriber gets.
func testOrder(t *testing.T, e *env, v byte) {
	const n = 200
	for qos := range byte(3) {
		topic := "order/" + e.unique()
		c, pub := e.client(t, v), e.client(t, v)
		c.subscribe(filter{topic, qos})
		done := pub.stream(topic, qos, n)
		for i := range n {
			p := c.message()
			equal(t, "payload", p.payload, fmt.Sprint(i))
			equal(t, "QoS", p.qos(), qos)
		}
		<-done
	}
}

// stream publishes numbers in bursts that fill the window, and checks that they are acknowledged in order. It does
// so on a goroutine of its own, which has ended when the channel is closed.
func (c *client) stream(topic string, qos byte, n int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.bursts(topic, qos, n)
	}()
	return done
}

func (c *client) bursts(topic string, qos byte, n int) {
	const burst = 10
	for first := 0; first < n; first += burst {
		var frames, releases []byte
		for i := range burst {
			frames = join(frames, publish{topic: topic, payload: fmt.Sprint(first + i), qos: qos, id: uint16(i + 1)}.encode(c.version))
			releases = join(releases, ack(tPubrel, uint16(i+1), 0))
		}
		steps := map[byte][]byte{0: {}, 1: {tPuback}, 2: {tPubrec, tPubcomp}}[qos]
		for _, typ := range steps {
			if _, err := c.conn.Write(frames); err != nil {
				c.t.Errorf("write: %v", err)
				return
			}
			for i := range burst {
				if p, err := c.read(); err != nil || p.typ != typ || p.id != uint16(i+1) {
					c.t.Errorf("type %d of %d (%v) instead of %d of %d", p.typ, p.id, err, typ, i+1)
					return
				}
			}
			frames = releases
		}
		if qos == 0 {
			if _, err := c.conn.Write(frames); err != nil {
				c.t.Errorf("write: %v", err)
			}
		}
	}
}

// testFanOut has several subscribers, connected and away: each gets its own copy.
func testFanOut(t *testing.T, e *env, v byte) {
	topic := "fanout/" + e.unique()
	away := lasting(v, e.unique())
	c, _ := e.open(t, away)
	c.subscribe(filter{topic, 1})
	c.disconnect()
	var here []*client
	for _, f := range []string{topic, topic + "/#", "fanout/+"} {
		s := e.client(t, v)
		s.subscribe(filter{f, 1})
		here = append(here, s)
	}
	here[0].publish(publish{topic: topic, payload: topic, qos: 1})
	for _, s := range here {
		p := s.message()
		for p.topic != topic { // the wildcard of another test's run
			p = s.message()
		}
		equal(t, "payload", p.payload, topic)
	}
	c, _ = e.open(t, away)
	equal(t, "payload", c.message().payload, topic)
}
