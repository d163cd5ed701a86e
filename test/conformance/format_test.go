package conformance

import (
	"fmt"
	"strings"
	"testing"
)

func formatCases() []testCase {
	return []testCase{
		both("format/utf8_ill_formed", testIllFormed),
		both("format/utf8_null", testNull),
		both("format/utf8_byte_order_mark", testByteOrderMark),
		both("format/length_too_long", testLengthTooLong),
		only(v5, "format/length_not_shortest", testLengthNotShortest),
		both("format/length_forms", testLengthForms),
		both("format/reserved_flags", testReservedFlags),
		both("format/types_of_servers", testServersTypes),
		both("format/packet_identifier_zero", testIdentifierZero),
		both("format/truncated", testTruncated),
		only(v5, "format/property_length", testPropertyLength),
		both("format/byte_by_byte", testByteByByte),
	}
}

// violates connects, sends frames, and expects the connection to end, on MQTT 5 with one of the reasons.
func (e *env) violates(t *testing.T, v byte, frames []byte, reasons ...byte) {
	t.Helper()
	c := e.client(t, v)
	c.send(frames)
	c.expectEnd(reasons...)
}

// each runs fn for every entry as a subtest.
func each[T any](t *testing.T, list map[string]T, fn func(t *testing.T, x T)) {
	t.Helper()
	for name, x := range list {
		t.Run(name, func(t *testing.T) { fn(t, x) })
	}
}

// everywhere puts a bad string into every place where a client may send one: whole packets of a connected
// client, and CONNECTs.
func everywhere(v byte, bad string) (packets, connects map[string][]byte) {
	packets = map[string][]byte{
		"topic name":  publish{topic: "a/" + bad}.encode(v),
		"filter":      subscribe(v, 1, nil, filter{"a/" + bad, 0}),
		"unsubscribe": unsubscribe(v, 1, "a/"+bad),
	}
	connects = map[string][]byte{
		"client identifier": connect{version: v, id: "x" + bad, clean: true}.encode(),
		"will topic":        connect{version: v, id: "x", clean: true, will: &will{topic: "a/" + bad}}.encode(),
		"user name":         connect{version: v, id: "x", clean: true, user: &bad}.encode(),
	}
	if v != v5 {
		return packets, connects
	}
	for name, p := range map[string][]byte{
		"content type": textual(pContentType, bad), "response topic": textual(pResponseTopic, "a/"+bad),
		"user property name": pair(bad, "x"), "user property value": pair("x", bad),
	} {
		packets[name] = publish{topic: "a", props: [][]byte{p}}.encode(v)
		connects["will "+name] = connect{version: v, id: "x", clean: true, will: &will{topic: "a", props: [][]byte{p}}}.encode()
	}
	packets["reason string"] = frame(tDisconnect<<4, []byte{0}, properties(textual(pReason, bad)))
	packets["user property of SUBSCRIBE"] = subscribe(v, 1, [][]byte{pair("x", bad)}, filter{"a", 0})
	connects["user property"] = connect{version: v, id: "x", clean: true, props: [][]byte{pair(bad, "x")}}.encode()
	return packets, connects
}

func testIllFormed(t *testing.T, e *env, v byte) {
	for _, bad := range []string{"\xED\xA0\x80", "\xED\xBF\xBF", "\xC0\xAF", "\x80", "\xF4\x90\x80\x80", "\xE2\x82"} {
		packets, connects := everywhere(v, bad)
		each(t, packets, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
		each(t, connects, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81) })
	}
}

func testNull(t *testing.T, e *env, v byte) {
	packets, connects := everywhere(v, "\x00")
	each(t, packets, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
	each(t, connects, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81) })
}

// testByteOrderMark uses a topic with and one without the mark: they are two topics.
func testByteOrderMark(t *testing.T, e *env, v byte) {
	plain := "bom/" + e.unique()
	marked := "\uFEFF" + plain
	c := e.client(t, v)
	c.subscribe(filter{plain, 0}, filter{marked, 0})
	c.publish(publish{topic: marked, payload: "\uFEFFx"})
	c.unsubscribe(plain)
	p := c.message()
	equal(t, "topic", p.topic, marked)
	equal(t, "payload", p.payload, "\uFEFFx")
	c.publish(publish{topic: plain, payload: "lost"})
	c.publish(publish{topic: marked, payload: "kept"})
	equal(t, "next message", c.message().payload, "kept")
}

func testLengthTooLong(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{tPublish << 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81)
	e.violates(t, v, []byte{tPingreq << 4, 0x80, 0x80, 0x80, 0x80, 0x00}, 0x81)
	e.refused(t, v, []byte{tConnect << 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81)
}

func testLengthNotShortest(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{tPingreq << 4, 0x80, 0x00}, 0x81)
	body := join(text("a"), []byte{0x80, 0x00})
	e.violates(t, v, frame(tPublish<<4, body), 0x81)
	good := connect{version: v, id: "x", clean: true}.encode()
	e.refused(t, v, join(good[:1], []byte{good[1] | 0x80, 0x00}, good[2:]), 0x81)
}

func testLengthForms(t *testing.T, e *env, v byte) {
	topic := "length/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 0})
	overhead := len(topic) + 2 + int(v-v4) // topic, and the empty property section of MQTT 5
	for _, length := range []int{overhead, 127, 128, 16_383, 16_384, 40_000} {
		payload := strings.Repeat("x", length-overhead)
		c.publish(publish{topic: topic, payload: payload})
		equal(t, fmt.Sprintf("payload at remaining length %d", length), len(c.message().payload), len(payload))
	}
}

func testReservedFlags(t *testing.T, e *env, v byte) {
	id := u16(1)
	bodies := map[byte][]byte{
		tPuback: id, tPubrec: id, tPubrel: id, tPubcomp: id, tPingreq: nil, tDisconnect: nil,
		tSubscribe: join(id, five(v), text("a"), []byte{0}), tUnsubscribe: join(id, five(v), text("a")),
	}
	if v == v5 {
		bodies[tAuth] = join([]byte{0x19}, properties(textual(pAuthMethod, "x")))
	}
	for typ, body := range bodies {
		good := byte(0)
		if typ == tPubrel || typ == tSubscribe || typ == tUnsubscribe {
			good = 2
		}
		for flags := range byte(16) {
			if flags == good {
				continue
			}
			t.Run(fmt.Sprintf("type %d flags %d", typ, flags), func(t *testing.T) {
				e.violates(t, v, frame(typ<<4|flags, body), 0x81)
			})
		}
	}
	good := connect{version: v, id: "x", clean: true}.encode()
	for flags := byte(1); flags < 16; flags++ {
		e.refused(t, v, join([]byte{tConnect<<4 | flags}, good[1:]), 0x81)
	}
}

func testServersTypes(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{0, 0}, 0x81)
	e.violates(t, v, frame(tConnack<<4, []byte{0, 0}, five(v)), 0x81, 0x82)
	e.violates(t, v, frame(tSuback<<4, u16(1), five(v), []byte{0}), 0x81, 0x82)
	e.violates(t, v, frame(tUnsuback<<4, u16(1), five(v)), 0x81, 0x82)
	e.violates(t, v, frame(tPingresp<<4), 0x81, 0x82)
	if v == v4 {
		e.violates(t, v, frame(tAuth<<4), 0)
	}
}

func testIdentifierZero(t *testing.T, e *env, v byte) {
	e.violates(t, v, subscribe(v, 0, nil, filter{"a", 0}), 0x81, 0x82)
	e.violates(t, v, unsubscribe(v, 0, "a"), 0x81, 0x82)
	for qos := byte(1); qos <= 2; qos++ {
		e.violates(t, v, publish{topic: "a", qos: qos}.encode(v), 0x81, 0x82)
	}
}

// testTruncated cuts packets short: the length says where they end, their contents want more.
func testTruncated(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"PUBLISH in its topic":         frame(tPublish<<4, []byte{0, 9, 'a'}),
		"PUBLISH in its identifier":    frame(tPublish<<4|2, text("a"), []byte{0}),
		"PUBACK":                       frame(tPuback<<4, []byte{1}),
		"PUBREL":                       frame(tPubrel<<4|2, []byte{1}),
		"SUBSCRIBE in its identifier":  frame(tSubscribe<<4|2, []byte{1}),
		"SUBSCRIBE without options":    frame(tSubscribe<<4|2, u16(1), five(v), text("a")),
		"SUBSCRIBE in its filter":      frame(tSubscribe<<4|2, u16(1), five(v), []byte{0, 9, 'a', 0}),
		"UNSUBSCRIBE in its filter":    frame(tUnsubscribe<<4|2, u16(1), five(v), []byte{0, 9, 'a'}),
		"PINGREQ with a body":          frame(tPingreq<<4, []byte{0}),
		"PUBACK with bytes behind it":  frame(tPuback<<4, u16(1), []byte{0, 0, 0}),
		"PUBCOMP with bytes behind it": frame(tPubcomp<<4, u16(1), []byte{0, 0, 0}),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
}

func testPropertyLength(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"SUBSCRIBE without one":           frame(tSubscribe<<4|2, u16(1), text("a/b/c"), []byte{0}),
		"PUBLISH without one":             frame(tPublish<<4, text("a")),
		"PUBLISH beyond the packet":       frame(tPublish<<4, text("a"), []byte{9}),
		"PUBLISH with half a property":    frame(tPublish<<4, text("a"), []byte{2, pMessageExpiry, 0}),
		"UNSUBSCRIBE beyond its contents": frame(tUnsubscribe<<4|2, u16(1), []byte{120}, text("a")),
		"DISCONNECT beyond the packet":    frame(tDisconnect<<4, []byte{0, 7}),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
	good := e.client(t, v)
	good.subscribe(filter{"length/" + e.unique(), 0}) // decode holds the gateway to a length of zero
}

func testByteByByte(t *testing.T, e *env, v byte) {
	topic := "bytes/" + e.unique()
	c := e.dial(t, v)
	stream := join(connect{version: v, id: e.unique(), clean: true}.encode(), subscribe(v, 1, nil, filter{topic, 1}),
		publish{topic: topic, payload: "x", qos: 1, id: 2}.encode(v), pingreq)
	for _, b := range stream {
		c.send([]byte{b})
	}
	c.expect(tConnack)
	c.expect(tSuback)
	c.await(tPuback, 2)
	c.await(tPingresp, 0)
	equal(t, "payload", c.message().payload, "x")
}
