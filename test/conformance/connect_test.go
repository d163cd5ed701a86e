package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func connectCases() []testCase {
	return []testCase{
		both("connect/first_packet", testFirstPacket),
		both("connect/second_connect", testSecondConnect),
		both("connect/protocol_name", testProtocolName),
		both("connect/protocol_level", testProtocolLevel),
		both("connect/flags", testConnectFlags),
		both("connect/fields", testConnectFields),
		both("connect/password_without_user", testPasswordWithoutUser),
		both("connect/client_identifiers", testClientIdentifiers),
		both("connect/empty_client_identifier", testEmptyClientIdentifier),
		both("connect/rejected_client_identifier", testRejectedClientIdentifier),
		both("connect/credentials", testCredentials),
		both("connect/behind_a_rejected_one", testBehindRejected),
		both("connect/pipelined", testPipelined),
		both("connect/accepted", testAccepted),
		only(v5, "connect/capabilities", testCapabilities),
		both("connect/keepalive", testKeepalive),
		only(v5, "connect/server_keepalive", testServerKeepalive),
		only(v5, "connect/properties", testConnectProperties),
		both("connect/takeover", testTakeover),
	}
}

func ptr[T any](v T) *T { return &v }

func testFirstPacket(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"PUBLISH": publish{topic: "a"}.encode(v), "PINGREQ": pingreq, "DISCONNECT": disconnect,
		"SUBSCRIBE": subscribe(v, 1, nil, filter{"a", 0}), "no MQTT at all": []byte("GET / HTTP/1.1\r\n\r\n"),
		"AUTH": frame(tAuth<<4, []byte{0x18}, properties(textual(pAuthMethod, "x"))),
	}, func(t *testing.T, p []byte) {
		c := e.dial(t, v)
		c.send(p)
		c.expectClosed()
	})
}

func testSecondConnect(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), clean: true}
	c, _ := e.open(t, o)
	c.send(o.encode())
	c.expectEnd(0x82)
}

func testProtocolName(t *testing.T, e *env, v byte) {
	for _, name := range []string{"mqtt", "MQTt", "MQIsdp", "", "MQTTT"} {
		c := e.dial(t, v)
		c.send(connect{version: v, id: "x", clean: true, name: &name}.encode())
		c.expectClosed()
	}
}

// testProtocolLevel sends levels that the gateway does not speak. A CONNACK is optional on MQTT 5 and comes in
// the form of 3.1.1, which every client of another level knows best.
func testProtocolLevel(t *testing.T, e *env, v byte) {
	for _, level := range []byte{0, 3, 6, 0x84, 255} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			c := e.dial(t, v4)
			c.send(connect{version: v, id: "x", clean: true, level: &level}.encode())
			if p := c.expect(tConnack); p.reason != 1 || p.present != 0 {
				t.Errorf("return code %d, session present %d", p.reason, p.present)
			}
			c.expectClosed()
		})
	}
}

func testConnectFlags(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: "x", clean: true}
	withWill := o
	withWill.will = &will{topic: "a"}
	flip := func(o connect, bits byte) []byte { o.flip = bits; return o.encode() }
	each(t, map[string][]byte{
		"reserved":                   flip(o, 0x01),
		"will QoS 1 without a will":  flip(o, 0x08),
		"will QoS 2 without a will":  flip(o, 0x10),
		"will retain without a will": flip(o, 0x20),
		"will QoS 3":                 flip(withWill, 0x18),
	}, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81, 0x82) })
}

func testConnectFields(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: "x", clean: true}
	full := connect{
		version: v, id: e.unique(), clean: true, user: ptr("u"), password: ptr("p\x00\xFF"),
		will: &will{topic: "connect/fields", payload: "w", qos: 2, retain: false},
	}
	flip := func(o connect, bits byte) []byte { o.flip = bits; return o.encode() }
	trailing := func(o connect, b []byte) []byte { o.trailing = b; return o.encode() }
	each(t, map[string][]byte{
		"will flag without a will":     flip(o, 0x04),
		"user flag without a user":     flip(o, 0x80),
		"both flags without either":    flip(o, 0xC0),
		"password flag, user alone":    flip(connect{version: v, id: "x", clean: true, user: ptr("u")}, 0x40),
		"will without its flag":        flip(connect{version: v, id: "x", clean: true, will: &will{topic: "a"}}, 0x04),
		"user without its flag":        flip(connect{version: v, id: "x", clean: true, user: ptr("u")}, 0x80),
		"password without its flag":    flip(connect{version: v, id: "x", clean: true, user: ptr("u"), password: ptr("p")}, 0x40),
		"bytes behind the payload":     trailing(o, []byte{0}),
		"no client identifier":         frame(tConnect<<4, text("MQTT"), []byte{v, 2}, u16(0), five(v)),
		"client identifier cut":        frame(tConnect<<4, text("MQTT"), []byte{v, 2}, u16(0), five(v), []byte{0, 5, 'a'}),
		"ends in the variable header":  frame(tConnect<<4, text("MQTT"), []byte{v, 2, 0}),
		"will topic empty":             connect{version: v, id: "x", clean: true, will: &will{}}.encode(),
		"will topic with a wildcard":   connect{version: v, id: "x", clean: true, will: &will{topic: "a/#"}}.encode(),
		"will topic with a plus":       connect{version: v, id: "x", clean: true, will: &will{topic: "+/a"}}.encode(),
		"will payload beyond the body": frame(tConnect<<4, text("MQTT"), []byte{v, 6}, u16(0), five(v), text("x"), five(v), text("a"), []byte{0, 9}),
	}, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81, 0x82, 0x90) })
	c, _ := e.open(t, full)
	c.disconnect()
}

func testPasswordWithoutUser(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), clean: true, password: ptr("p")}
	if v == v4 {
		e.refused(t, v, o.encode())
		return
	}
	e.open(t, o)
}

func testClientIdentifiers(t *testing.T, e *env, v byte) {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	version := versionName(v)[:1]
	for _, id := range []string{
		version, letters[:22] + version, letters[22:44] + version, letters[44:] + version, strings.Repeat("long", 25) + version,
		"with.dots_and-dashes" + version, "größe" + version,
	} {
		c, ack := e.open(t, connect{version: v, id: id, clean: true})
		if p, there := ack.prop(pAssignedClientID); there {
			t.Errorf("%q was assigned %q", id, p.value)
		}
		c.disconnect()
	}
}

func testEmptyClientIdentifier(t *testing.T, e *env, v byte) {
	if v == v4 {
		c := e.dial(t, v)
		c.send(connect{version: v}.encode())
		if p := c.expect(tConnack); p.reason != 2 || p.present != 0 {
			t.Errorf("return code %d, session present %d", p.reason, p.present)
		}
		c.expectClosed()
		one, two := e.dial(t, v), e.dial(t, v)
		one.open(connect{version: v, clean: true})
		two.open(connect{version: v, clean: true})
		one.ping() // with one identifier for both, the second would have taken over
		two.ping()
		return
	}
	expiry := [][]byte{num(pSessionExpiry, 100)}
	first, ack1 := e.open(t, connect{version: v, props: expiry})
	_, ack2 := e.open(t, connect{version: v, clean: true})
	id1, _ := ack1.prop(pAssignedClientID)
	id2, _ := ack2.prop(pAssignedClientID)
	if id1.value == "" || id2.value == "" || id1.value == id2.value {
		t.Fatalf("assigned %q and %q", id1.value, id2.value)
	}
	first.drop()
	_, again := e.open(t, connect{version: v, id: id1.value, props: expiry})
	equal(t, "session present under the assigned identifier", again.present, 1)
}

// testRejectedClientIdentifier uses the listener on which the client identifier must be fit to be a VIN.
func testRejectedClientIdentifier(t *testing.T, e *env, v byte) {
	for _, id := range []string{"a/b", "a+", "$x", ""} {
		c := e.dialTo(t, v, e.vehicles)
		c.send(connect{version: v, id: id, clean: true}.encode())
		want := byte(0x85)
		if v == v4 {
			want = 2
		}
		if p := c.expect(tConnack); p.reason != want || p.present != 0 {
			t.Errorf("%q: reason 0x%02X, session present %d", id, p.reason, p.present)
		}
		c.expectClosed()
	}
}

func testCredentials(t *testing.T, e *env, v byte) {
	want := map[byte]byte{v4: 4, v5: 0x86}[v]
	for _, password := range []*string{nil, ptr("not a token"), ptr("")} {
		c := e.dialTo(t, v, e.tokens)
		c.send(connect{version: v, id: "x", clean: true, user: ptr("x"), password: password}.encode())
		if p := c.expect(tConnack); p.reason != want || p.present != 0 {
			t.Errorf("reason 0x%02X, session present %d", p.reason, p.present)
		}
		c.expectClosed()
	}
}

func testBehindRejected(t *testing.T, e *env, v byte) {
	topic := "rejected/" + e.unique()
	c := e.dialTo(t, v, e.tokens)
	c.send(connect{version: v, id: "x", clean: true, user: ptr("x"), password: ptr("bad")}.encode(),
		publish{topic: topic, payload: "no", qos: 1, id: 1, retain: true}.encode(v), subscribe(v, 2, nil, filter{topic, 0}))
	if p := c.expect(tConnack); p.reason == 0 {
		t.Fatal("accepted")
	}
	c.expectClosed()
	w := e.client(t, v)
	w.subscribe(filter{topic, 1})
	w.publish(publish{topic: topic, payload: "marker", qos: 1})
	equal(t, "message", w.message().payload, "marker")
}

func testPipelined(t *testing.T, e *env, v byte) {
	topic := "pipelined/" + e.unique()
	c := e.dial(t, v)
	c.send(connect{version: v, id: e.unique(), clean: true}.encode(), subscribe(v, 7, nil, filter{topic, 1}),
		publish{topic: topic, payload: "x", qos: 1, id: 8}.encode(v))
	c.expect(tConnack)
	equal(t, "SUBACK", c.expect(tSuback).id, 7)
	c.await(tPuback, 8)
	equal(t, "payload", c.message().payload, "x")
}

// testAccepted looks at the first packet of the gateway, and that there is no second CONNACK.
func testAccepted(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), clean: true, keepalive: 60}
	c, ack := e.open(t, o)
	equal(t, "acknowledge flags", ack.present, 0)
	topic := "accepted/" + e.unique()
	c.subscribe(filter{topic, 2})
	c.publish(publish{topic: topic, payload: "x", qos: 2})
	equal(t, "payload", c.message().payload, "x")
	c.ping()
	c.disconnect() // which fails on any packet but the end
}

// testCapabilities expects that nothing is announced as missing, because nothing is, and the limits.
func testCapabilities(t *testing.T, e *env, v byte) {
	_, ack := e.open(t, connect{version: v, id: e.unique(), clean: true, keepalive: 60})
	for id, want := range map[byte]uint32{pReceiveMaximum: window, pMaximumPacket: maxPacket, pAliasMaximum: aliases} {
		if p, there := ack.prop(id); !there || p.num != want {
			t.Errorf("property 0x%02X: %d, want %d", id, p.num, want)
		}
	}
	for _, id := range []byte{pRetainAvailable, pWildcard, pSubIDAvailable, pSharedAvailable} {
		if p, there := ack.prop(id); there && p.num != 1 {
			t.Errorf("property 0x%02X says that something is not available", id)
		}
	}
	for _, id := range []byte{pMaximumQoS, pServerReference, pAssignedClientID, pServerKeepalive, pSessionExpiry, pAuthMethod} {
		if p, there := ack.prop(id); there {
			t.Errorf("property 0x%02X is %d %q", id, p.num, p.value)
		}
	}
}

// testKeepalive expects an end after one and a half times the keep alive, not before, with the will of a lost
// connection, and none while the client sends PINGREQ, nor while it sends anything else.
func testKeepalive(t *testing.T, e *env, v byte) {
	topic := "keepalive/" + e.unique()
	watch := e.client(t, v)
	watch.subscribe(filter{topic, 1})
	c, _ := e.open(t, connect{version: v, id: e.unique(), clean: true, keepalive: 1, will: &will{topic: topic, payload: "gone", qos: 1}})
	for i := range 4 {
		time.Sleep(600 * time.Millisecond)
		if i%2 == 0 {
			c.ping()
		} else {
			c.publish(publish{topic: "keepalive/other", qos: 1})
		}
	}
	silent := time.Now()
	c.expectEnd(0x8D)
	if d := time.Since(silent); d < 1400*time.Millisecond || d > 5*time.Second {
		t.Errorf("closed after %v", d)
	}
	equal(t, "will", watch.message().payload, "gone")
}

func testServerKeepalive(t *testing.T, e *env, v byte) {
	for asked, want := range map[uint16]uint32{0: 1200, 65_535: 1200} {
		_, ack := e.open(t, connect{version: v, id: e.unique(), clean: true, keepalive: asked})
		if p, there := ack.prop(pServerKeepalive); !there || p.num != want {
			t.Errorf("keep alive %d: the server's is %d, want %d", asked, p.num, want)
		}
	}
	_, ack := e.open(t, connect{version: v, id: e.unique(), clean: true, keepalive: 1200})
	if p, there := ack.prop(pServerKeepalive); there {
		t.Errorf("keep alive 1200 was changed to %d", p.num)
	}
}

func testConnectProperties(t *testing.T, e *env, v byte) {
	expiry, topic := num(pSessionExpiry, 1), textual(pResponseTopic, "a/#")
	for name, props := range map[string][][]byte{
		"receive maximum 0": {num(pReceiveMaximum, 0)}, "maximum packet size 0": {num(pMaximumPacket, 0)},
		"request problem 2": {num(pRequestProblem, 2)}, "request response 2": {num(pRequestResponse, 2)},
		"session expiry twice": {expiry, expiry}, "alias maximum twice": {num(pAliasMaximum, 1), num(pAliasMaximum, 1)},
		"authentication data alone": {textual(pAuthData, "x")}, "unknown": {[]byte{0x7F, 0}},
		"of another packet": {num(pAlias, 1)}, "of a server": {num(pServerKeepalive, 1)},
		"will delay outside the will": {num(pWillDelay, 1)}, "cut": {[]byte{pSessionExpiry, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			e.refused(t, v, connect{version: v, id: "x", clean: true, props: props}.encode(), 0x81, 0x82)
		})
	}
	for name, props := range map[string][][]byte{
		"will delay twice": {num(pWillDelay, 1), num(pWillDelay, 1)}, "payload format 2": {num(pPayloadFormat, 2)},
		"session expiry": {expiry}, "response topic with a wildcard": {topic}, "topic alias": {num(pAlias, 1)},
	} {
		t.Run("will: "+name, func(t *testing.T) {
			o := connect{version: v, id: "x", clean: true, will: &will{topic: "a", props: props}}
			e.refused(t, v, o.encode(), 0x81, 0x82, 0x90)
		})
	}
}

func testTakeover(t *testing.T, e *env, v byte) {
	o := connect{version: v, id: e.unique(), clean: true}
	first, _ := e.open(t, o)
	second, ack := e.open(t, o)
	equal(t, "session present", ack.present, 0)
	first.expectEnd(0x8E)
	second.ping()
}
