package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/test/mqtt"
)

func formatCases() []testCase {
	return []testCase{
		both("format/utf8_ill_formed", testIllFormed),
		both("format/utf8_null", testNull),
		both("format/utf8_byte_order_mark", testByteOrderMark),
		both("format/length_too_long", testLengthTooLong),
		only(mqtt.V5, "format/length_not_shortest", testLengthNotShortest),
		both("format/length_forms", testLengthForms),
		both("format/reserved_flags", testReservedFlags),
		both("format/types_of_servers", testServersTypes),
		both("format/packet_identifier_zero", testIdentifierZero),
		both("format/truncated", testTruncated),
		only(mqtt.V5, "format/property_length", testPropertyLength),
		both("format/byte_by_byte", testByteByByte),
	}
}

// violates connects, sends frames, and expects the connection to end, on MQTT 5 with one of the reasons.
func (e *env) violates(t *testing.T, v byte, frames []byte, reasons ...byte) {
	t.Helper()
	c := e.client(t, v)
	c.Send(frames)
	c.ExpectEnd(reasons...)
}

// each runs fn for every entry as a subtest.
func each[T any](t *testing.T, list map[string]T, fn func(t *testing.T, x T)) {
	t.Helper()
	for name, x := range list {
		t.Run(name, func(t *testing.T) { fn(t, x) })
	}
}

// everywhere puts an invalid string into every place where a client may send one: packets of a connected client, and
// CONNECTs.
func everywhere(v byte, bad string) (packets, connects map[string][]byte) {
	packets = map[string][]byte{
		"topic name":  mqtt.Publish{Topic: "a/" + bad}.Encode(v),
		"filter":      mqtt.Subscribe(v, 1, nil, mqtt.Filter("a/"+bad, 0)),
		"unsubscribe": mqtt.Unsubscribe(v, 1, "a/"+bad),
	}
	connects = map[string][]byte{
		"client identifier": mqtt.Connect{Version: v, ID: "x" + bad}.Encode(),
		"will topic":        mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{Topic: "a/" + bad}}.Encode(),
		"user name":         mqtt.Connect{Version: v, ID: "x", User: bad}.Encode(),
	}
	if v != mqtt.V5 {
		return packets, connects
	}
	for name, p := range map[string][]byte{
		"content type": mqtt.String(mqtt.ContentType, bad), "response topic": mqtt.String(mqtt.ResponseTopic, "a/"+bad),
		"user property name": mqtt.User(bad, "x"), "user property value": mqtt.User("x", bad),
	} {
		packets[name] = mqtt.Publish{Topic: "a", Props: [][]byte{p}}.Encode(v)
		connects["will "+name] = mqtt.Connect{
			Version: v, ID: "x",
			Will: &mqtt.Will{Topic: "a", Props: [][]byte{p}},
		}.Encode()
	}
	packets["reason string"] = mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0},
		mqtt.Properties(mqtt.String(mqtt.ReasonString, bad)))
	packets["user property of SUBSCRIBE"] = mqtt.Subscribe(v, 1, [][]byte{mqtt.User("x", bad)}, mqtt.Filter("a", 0))
	connects["user property"] = mqtt.Connect{Version: v, ID: "x", Props: [][]byte{mqtt.User(bad, "x")}}.Encode()
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
	c.Subscribe(mqtt.Filter(plain, 0), mqtt.Filter(marked, 0))
	c.Publish(mqtt.Publish{Topic: marked, Payload: "\uFEFFx"})
	c.Unsubscribe(plain)
	p := c.Message()
	equal(t, "topic", p.Topic, marked)
	equal(t, "payload", p.Payload, "\uFEFFx")
	c.Publish(mqtt.Publish{Topic: plain, Payload: "lost"})
	c.Publish(mqtt.Publish{Topic: marked, Payload: "kept"})
	equal(t, "next message", c.Message().Payload, "kept")
}

func testLengthTooLong(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{mqtt.PUBLISH << 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81)
	e.violates(t, v, []byte{mqtt.PINGREQ << 4, 0x80, 0x80, 0x80, 0x80, 0x00}, 0x81)
	e.refused(t, v, []byte{mqtt.CONNECT << 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81)
}

func testLengthNotShortest(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{mqtt.PINGREQ << 4, 0x80, 0x00}, 0x81)
	body := slices.Concat(mqtt.Text("a"), []byte{0x80, 0x00})
	e.violates(t, v, mqtt.Frame(mqtt.PUBLISH<<4, body), 0x81)
	good := mqtt.Connect{Version: v, ID: "x"}.Encode()
	e.refused(t, v, slices.Concat(good[:1], []byte{good[1] | 0x80, 0x00}, good[2:]), 0x81)
}

func testLengthForms(t *testing.T, e *env, v byte) {
	topic := "length/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 0))
	overhead := len(topic) + 2 + int(v-mqtt.V4) // topic, and the empty property section of MQTT 5
	for _, length := range []int{overhead, 127, 128, 16_383, 16_384, 40_000} {
		payload := strings.Repeat("x", length-overhead)
		c.Publish(mqtt.Publish{Topic: topic, Payload: payload})
		equal(t, fmt.Sprintf("payload at remaining length %d", length), len(c.Message().Payload), len(payload))
	}
}

func testReservedFlags(t *testing.T, e *env, v byte) {
	id := mqtt.Uint16(1)
	bodies := map[byte][]byte{
		mqtt.PUBACK: id, mqtt.PUBREC: id, mqtt.PUBREL: id, mqtt.PUBCOMP: id, mqtt.PINGREQ: nil, mqtt.DISCONNECT: nil,
		mqtt.SUBSCRIBE:   slices.Concat(id, mqtt.On5(v), mqtt.Text("a"), []byte{0}),
		mqtt.UNSUBSCRIBE: slices.Concat(id, mqtt.On5(v), mqtt.Text("a")),
	}
	if v == mqtt.V5 {
		bodies[mqtt.AUTH] = slices.Concat([]byte{0x19}, mqtt.Properties(mqtt.String(mqtt.AuthMethod, "x")))
	}
	for typ, body := range bodies {
		good := byte(0)
		if typ == mqtt.PUBREL || typ == mqtt.SUBSCRIBE || typ == mqtt.UNSUBSCRIBE {
			good = 2
		}
		for flags := range byte(16) {
			if flags == good {
				continue
			}
			t.Run(fmt.Sprintf("type %d flags %d", typ, flags), func(t *testing.T) {
				e.violates(t, v, mqtt.Frame(typ<<4|flags, body), 0x81)
			})
		}
	}
	good := mqtt.Connect{Version: v, ID: "x"}.Encode()
	for flags := byte(1); flags < 16; flags++ {
		e.refused(t, v, slices.Concat([]byte{mqtt.CONNECT<<4 | flags}, good[1:]), 0x81)
	}
}

func testServersTypes(t *testing.T, e *env, v byte) {
	e.violates(t, v, []byte{0, 0}, 0x81)
	e.violates(t, v, mqtt.Frame(mqtt.CONNACK<<4, []byte{0, 0}, mqtt.On5(v)), 0x81, 0x82)
	e.violates(t, v, mqtt.Frame(mqtt.SUBACK<<4, mqtt.Uint16(1), mqtt.On5(v), []byte{0}), 0x81, 0x82)
	e.violates(t, v, mqtt.Frame(mqtt.UNSUBACK<<4, mqtt.Uint16(1), mqtt.On5(v)), 0x81, 0x82)
	e.violates(t, v, mqtt.Frame(mqtt.PINGRESP<<4), 0x81, 0x82)
	if v == mqtt.V4 {
		e.violates(t, v, mqtt.Frame(mqtt.AUTH<<4), 0)
	}
}

func testIdentifierZero(t *testing.T, e *env, v byte) {
	e.violates(t, v, mqtt.Subscribe(v, 0, nil, mqtt.Filter("a", 0)), 0x81, 0x82)
	e.violates(t, v, mqtt.Unsubscribe(v, 0, "a"), 0x81, 0x82)
	for qos := byte(1); qos <= 2; qos++ {
		e.violates(t, v, mqtt.Publish{Topic: "a", QoS: qos}.Encode(v), 0x81, 0x82)
	}
}

// testTruncated truncates packets: the length ends before their contents do.
func testTruncated(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"PUBLISH in its topic":        mqtt.Frame(mqtt.PUBLISH<<4, []byte{0, 9, 'a'}),
		"PUBLISH in its identifier":   mqtt.Frame(mqtt.PUBLISH<<4|2, mqtt.Text("a"), []byte{0}),
		"PUBACK":                      mqtt.Frame(mqtt.PUBACK<<4, []byte{1}),
		"PUBREL":                      mqtt.Frame(mqtt.PUBREL<<4|2, []byte{1}),
		"SUBSCRIBE in its identifier": mqtt.Frame(mqtt.SUBSCRIBE<<4|2, []byte{1}),
		"SUBSCRIBE without options":   mqtt.Frame(mqtt.SUBSCRIBE<<4|2, mqtt.Uint16(1), mqtt.On5(v), mqtt.Text("a")),
		"SUBSCRIBE in its filter":     mqtt.Frame(mqtt.SUBSCRIBE<<4|2, mqtt.Uint16(1), mqtt.On5(v), []byte{0, 9, 'a', 0}),
		"UNSUBSCRIBE in its filter":   mqtt.Frame(mqtt.UNSUBSCRIBE<<4|2, mqtt.Uint16(1), mqtt.On5(v), []byte{0, 9, 'a'}),
		"PINGREQ with a body":         mqtt.Frame(mqtt.PINGREQ<<4, []byte{0}),
		"PUBACK with bytes after it":  mqtt.Frame(mqtt.PUBACK<<4, mqtt.Uint16(1), []byte{0, 0, 0}),
		"PUBCOMP with bytes after it": mqtt.Frame(mqtt.PUBCOMP<<4, mqtt.Uint16(1), []byte{0, 0, 0}),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
}

func testPropertyLength(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"SUBSCRIBE without one":           mqtt.Frame(mqtt.SUBSCRIBE<<4|2, mqtt.Uint16(1), mqtt.Text("a/b/c"), []byte{0}),
		"PUBLISH without one":             mqtt.Frame(mqtt.PUBLISH<<4, mqtt.Text("a")),
		"PUBLISH beyond the packet":       mqtt.Frame(mqtt.PUBLISH<<4, mqtt.Text("a"), []byte{9}),
		"PUBLISH with half a property":    mqtt.Frame(mqtt.PUBLISH<<4, mqtt.Text("a"), []byte{2, mqtt.MessageExpiry, 0}),
		"UNSUBSCRIBE beyond its contents": mqtt.Frame(mqtt.UNSUBSCRIBE<<4|2, mqtt.Uint16(1), []byte{120}, mqtt.Text("a")),
		"DISCONNECT beyond the packet":    mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0, 7}),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81) })
	good := e.client(t, v)
	good.Subscribe(mqtt.Filter("length/"+e.unique(), 0)) // decode checks that the gateway's property length is zero
}

func testByteByByte(t *testing.T, e *env, v byte) {
	topic := "bytes/" + e.unique()
	c := e.dial(t, v)
	stream := slices.Concat(mqtt.Connect{Version: v, ID: e.unique()}.Encode(),
		mqtt.Subscribe(v, 1, nil, mqtt.Filter(topic, 1)),
		mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, ID: 2}.Encode(v), mqtt.Pingreq())
	for _, b := range stream {
		c.Send([]byte{b})
	}
	c.Expect(mqtt.CONNACK)
	c.Expect(mqtt.SUBACK)
	c.Await(mqtt.PUBACK, 2)
	c.Await(mqtt.PINGRESP, 0)
	equal(t, "payload", c.Message().Payload, "x")
}
