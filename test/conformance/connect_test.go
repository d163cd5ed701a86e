package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/mqtt"
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
		only(mqtt.V5, "connect/capabilities", testCapabilities),
		both("connect/keepalive", testKeepalive),
		only(mqtt.V5, "connect/server_keepalive", testServerKeepalive),
		only(mqtt.V5, "connect/properties", testConnectProperties),
		both("connect/takeover", testTakeover),
	}
}

func testFirstPacket(t *testing.T, e *env, v byte) {
	each(t, map[string][]byte{
		"PUBLISH": mqtt.Publish{Topic: "a"}.Encode(v), "PINGREQ": mqtt.Pingreq(), "DISCONNECT": mqtt.Disconnect(),
		"SUBSCRIBE": mqtt.Subscribe(v, 1, nil, mqtt.Filter("a", 0)), "no MQTT at all": []byte("GET / HTTP/1.1\r\n\r\n"),
		"AUTH":             mqtt.Frame(mqtt.AUTH<<4, []byte{0x18}, mqtt.Properties(mqtt.String(mqtt.AuthMethod, "x"))),
		"flags of CONNECT": slices.Concat([]byte{mqtt.CONNECT<<4 | 1}, mqtt.Connect{Version: v, ID: "x"}.Encode()[1:]), "256 MiB": {mqtt.CONNECT << 4, 0xFF, 0xFF, 0xFF, 0x7F},
	}, func(t *testing.T, p []byte) {
		c := e.dial(t, v)
		c.Send(p)
		c.ExpectClosed()
	})
}

func testSecondConnect(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique()}
	c, _ := e.open(t, o)
	c.Send(o.Encode())
	c.ExpectEnd(0x82)
}

func testProtocolName(t *testing.T, e *env, v byte) {
	for _, name := range []string{"mqtt", "MQTt", "MQIsdp", "", "MQTTT"} {
		c := e.dial(t, v)
		c.Send(mqtt.Connect{Version: v, ID: "x", Name: &name}.Encode())
		c.ExpectClosed()
	}
}

// testProtocolLevel sends unsupported protocol levels. A CONNACK is optional on MQTT 5 and has the form of 3.1.1, which
// clients of other levels know best.
func testProtocolLevel(t *testing.T, e *env, v byte) {
	name, before := "MQIsdp", byte(3) // MQTT 3.1
	connects := map[string]mqtt.Connect{"3.1": {Name: &name, Level: &before}}
	for _, level := range []byte{0, 3, 6, 0x84, 255} {
		connects[fmt.Sprint(level)] = mqtt.Connect{Level: &level}
	}
	for what, o := range connects {
		t.Run(what, func(t *testing.T) {
			c := e.dial(t, mqtt.V4)
			o.Version, o.ID = v, "x"
			c.Send(o.Encode())
			if p := c.Expect(mqtt.CONNACK); p.Reason != 1 || p.Present != 0 {
				t.Errorf("return code %d, session present %d", p.Reason, p.Present)
			}
			c.ExpectClosed()
		})
	}
}

func testConnectFlags(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: "x"}
	withWill := o
	withWill.Will = &mqtt.Will{Topic: "a"}
	flip := func(o mqtt.Connect, bits byte) []byte { o.Flip = bits; return o.Encode() }
	each(t, map[string][]byte{
		"reserved":                   flip(o, 0x01),
		"will QoS 1 without a will":  flip(o, 0x08),
		"will QoS 2 without a will":  flip(o, 0x10),
		"will retain without a will": flip(o, 0x20),
		"will QoS 3":                 flip(withWill, 0x18),
	}, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81, 0x82) })
}

func testConnectFields(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: "x"}
	full := mqtt.Connect{
		Version: v, ID: e.unique(), User: "u", Password: "p\x00\xFF",
		Will: &mqtt.Will{Topic: "connect/fields", Payload: "w", QoS: 2, Retain: false},
	}
	flip := func(o mqtt.Connect, bits byte) []byte { o.Flip = bits; return o.Encode() }
	trailing := func(o mqtt.Connect, b []byte) []byte { o.Trailing = b; return o.Encode() }
	each(t, map[string][]byte{
		"will flag without a will":  flip(o, 0x04),
		"user flag without a user":  flip(o, 0x80),
		"both flags without either": flip(o, 0xC0),
		"password flag, user alone": flip(mqtt.Connect{Version: v, ID: "x", User: "u"}, 0x40),
		"will without its flag":     flip(mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{Topic: "a"}}, 0x04),
		"user without its flag":     flip(mqtt.Connect{Version: v, ID: "x", User: "u"}, 0x80),
		"password without its flag": flip(mqtt.Connect{Version: v, ID: "x", User: "u", Password: "p"}, 0x40),
		"bytes after the payload":   trailing(o, []byte{0}),
		"no client identifier": mqtt.Frame(mqtt.CONNECT<<4, mqtt.Text("MQTT"), []byte{v, 2}, mqtt.Uint16(0),
			mqtt.On5(v)),
		"client identifier cut": mqtt.Frame(mqtt.CONNECT<<4, mqtt.Text("MQTT"), []byte{v, 2}, mqtt.Uint16(0),
			mqtt.On5(v), []byte{0, 5, 'a'}),
		"ends in the variable header": mqtt.Frame(mqtt.CONNECT<<4, mqtt.Text("MQTT"), []byte{v, 2, 0}),
		"will topic empty":            mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{}}.Encode(),
		"will topic with a wildcard":  mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{Topic: "a/#"}}.Encode(),
		"will topic with a plus":      mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{Topic: "+/a"}}.Encode(),
		"will payload beyond the body": mqtt.Frame(mqtt.CONNECT<<4, mqtt.Text("MQTT"), []byte{v, 6}, mqtt.Uint16(0),
			mqtt.On5(v), mqtt.Text("x"), mqtt.On5(v), mqtt.Text("a"), []byte{0, 9}),
	}, func(t *testing.T, p []byte) { e.refused(t, v, p, 0x81, 0x82, 0x90) })
	c, _ := e.open(t, full)
	c.Disconnect()
}

func testPasswordWithoutUser(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique(), Password: "p"}
	if v == mqtt.V4 {
		e.refused(t, v, o.Encode())
		return
	}
	e.open(t, o)
}

func testClientIdentifiers(t *testing.T, e *env, v byte) {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	version := versionName(v)[:1]
	for _, id := range []string{
		version, letters[:22] + version, letters[22:44] + version, letters[44:] + version,
		strings.Repeat("long", 25) + version,
		"with.dots_and-dashes" + version, "größe" + version,
	} {
		c, ack := e.open(t, mqtt.Connect{Version: v, ID: id})
		if p, there := ack.Prop(mqtt.AssignedClientID); there {
			t.Errorf("%q was assigned %q", id, p.Value)
		}
		c.Disconnect()
	}
}

func testEmptyClientIdentifier(t *testing.T, e *env, v byte) {
	if v == mqtt.V4 {
		c := e.dial(t, v)
		c.Send(mqtt.Connect{Version: v, Keep: true}.Encode())
		if p := c.Expect(mqtt.CONNACK); p.Reason != 2 || p.Present != 0 {
			t.Errorf("return code %d, session present %d", p.Reason, p.Present)
		}
		c.ExpectClosed()
		one, two := e.dial(t, v), e.dial(t, v)
		one.Open(mqtt.Connect{Version: v})
		two.Open(mqtt.Connect{Version: v})
		one.Ping() // with the same identifier, the second would have taken over
		two.Ping()
		return
	}
	expiry := [][]byte{mqtt.Number(mqtt.SessionExpiry, 100)}
	first, ack1 := e.open(t, mqtt.Connect{Version: v, Props: expiry, Keep: true})
	_, ack2 := e.open(t, mqtt.Connect{Version: v})
	id1, _ := ack1.Prop(mqtt.AssignedClientID)
	id2, _ := ack2.Prop(mqtt.AssignedClientID)
	if id1.Value == "" || id2.Value == "" || id1.Value == id2.Value {
		t.Fatalf("assigned %q and %q", id1.Value, id2.Value)
	}
	first.Drop()
	_, again := e.open(t, mqtt.Connect{Version: v, ID: id1.Value, Props: expiry, Keep: true})
	equal(t, "session present under the assigned identifier", again.Present, 1)
}

// testRejectedClientIdentifier uses the listener on which the client identifier must be a possible VIN.
func testRejectedClientIdentifier(t *testing.T, e *env, v byte) {
	for _, id := range []string{"a/b", "a+", "$x", ""} {
		c := e.dialTo(t, v, e.vehicles)
		c.Send(mqtt.Connect{Version: v, ID: id}.Encode())
		want := byte(0x85)
		if v == mqtt.V4 {
			want = 2
		}
		if p := c.Expect(mqtt.CONNACK); p.Reason != want || p.Present != 0 {
			t.Errorf("%q: reason 0x%02X, session present %d", id, p.Reason, p.Present)
		}
		c.ExpectClosed()
	}
}

func testCredentials(t *testing.T, e *env, v byte) {
	want := map[byte]byte{mqtt.V4: 4, mqtt.V5: 0x86}[v]
	for _, o := range []mqtt.Connect{
		{Version: v, ID: "x", User: "x"},
		{Version: v, ID: "x", User: "x", Password: "not a token"},
		{Version: v, ID: "x", User: "x", Flip: 0x40, Trailing: mqtt.Text("")}, // an empty password
	} {
		c := e.dialTo(t, v, e.tokens)
		c.Send(o.Encode())
		if p := c.Expect(mqtt.CONNACK); p.Reason != want || p.Present != 0 {
			t.Errorf("reason 0x%02X, session present %d", p.Reason, p.Present)
		}
		c.ExpectClosed()
	}
}

func testBehindRejected(t *testing.T, e *env, v byte) {
	topic := "rejected/" + e.unique()
	c := e.dialTo(t, v, e.tokens)
	c.Send(mqtt.Connect{Version: v, ID: "x", User: "x", Password: "bad"}.Encode(),
		mqtt.Publish{Topic: topic, Payload: "no", QoS: 1, ID: 1, Retain: true}.Encode(v),
		mqtt.Subscribe(v, 2, nil, mqtt.Filter(topic, 0)))
	if p := c.Expect(mqtt.CONNACK); p.Reason == 0 {
		t.Fatal("accepted")
	}
	c.ExpectClosed()
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter(topic, 1))
	w.Publish(mqtt.Publish{Topic: topic, Payload: "marker", QoS: 1})
	equal(t, "message", w.Message().Payload, "marker")
}

func testPipelined(t *testing.T, e *env, v byte) {
	topic := "pipelined/" + e.unique()
	c := e.dial(t, v)
	c.Send(mqtt.Connect{Version: v, ID: e.unique()}.Encode(), mqtt.Subscribe(v, 7, nil, mqtt.Filter(topic, 1)),
		mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, ID: 8}.Encode(v))
	c.Expect(mqtt.CONNACK)
	equal(t, "SUBACK", c.Expect(mqtt.SUBACK).ID, 7)
	c.Await(mqtt.PUBACK, 8)
	equal(t, "payload", c.Message().Payload, "x")
}

// testAccepted checks the first packet of the gateway, and that there is no second CONNACK.
func testAccepted(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique(), Keepalive: 60}
	c, ack := e.open(t, o)
	equal(t, "acknowledge flags", ack.Present, 0)
	topic := "accepted/" + e.unique()
	c.Subscribe(mqtt.Filter(topic, 2))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2})
	equal(t, "payload", c.Message().Payload, "x")
	c.Ping()
	c.Disconnect() // fails on any packet but the end
}

// testCapabilities checks that no feature is announced as missing, and the announced limits.
func testCapabilities(t *testing.T, e *env, v byte) {
	_, ack := e.open(t, mqtt.Connect{Version: v, ID: e.unique(), Keepalive: 60})
	for id, want := range map[byte]uint32{
		mqtt.ReceiveMaximum: window, mqtt.MaximumPacketSize: maxPacket,
		mqtt.TopicAliasMaximum: aliases,
	} {
		if p, there := ack.Prop(id); !there || p.Num != want {
			t.Errorf("property 0x%02X: %d, want %d", id, p.Num, want)
		}
	}
	for _, id := range []byte{
		mqtt.RetainAvailable, mqtt.WildcardAvailable, mqtt.SubscriptionIDAvailable,
		mqtt.SharedAvailable,
	} {
		if p, there := ack.Prop(id); there && p.Num != 1 {
			t.Errorf("property 0x%02X says that something is not available", id)
		}
	}
	for _, id := range []byte{
		mqtt.MaximumQoS, mqtt.ServerReference, mqtt.AssignedClientID, mqtt.ServerKeepalive,
		mqtt.SessionExpiry, mqtt.AuthMethod,
	} {
		if p, there := ack.Prop(id); there {
			t.Errorf("property 0x%02X is %d %q", id, p.Num, p.Value)
		}
	}
}

// testKeepalive expects an end after one and a half times the keep alive, not earlier, with the will of a lost
// connection, and none while the client sends PINGREQ or anything else.
func testKeepalive(t *testing.T, e *env, v byte) {
	topic := "keepalive/" + e.unique()
	watch := e.client(t, v)
	watch.Subscribe(mqtt.Filter(topic, 1))
	c, _ := e.open(t, mqtt.Connect{
		Version: v, ID: e.unique(), Keepalive: 1,
		Will: &mqtt.Will{Topic: topic, Payload: "gone", QoS: 1},
	})
	var silent time.Time // before the last packet is sent: the server cannot have it earlier
	for i := range 4 {
		time.Sleep(600 * time.Millisecond)
		silent = time.Now()
		if i%2 == 0 {
			c.Ping()
		} else {
			// QoS 0: a slow disk delays a PUBACK, and with it what the client sends next.
			c.Publish(mqtt.Publish{Topic: "keepalive/other"})
		}
	}
	c.ExpectEnd(0x8D)
	if d := time.Since(silent); d < 1400*time.Millisecond || d > 5*time.Second {
		t.Errorf("closed after %v", d)
	}
	equal(t, "will", watch.Message().Payload, "gone")
}

func testServerKeepalive(t *testing.T, e *env, v byte) {
	for asked, want := range map[uint16]uint32{0: 1200, 65_535: 1200} {
		_, ack := e.open(t, mqtt.Connect{Version: v, ID: e.unique(), Keepalive: asked})
		if p, there := ack.Prop(mqtt.ServerKeepalive); !there || p.Num != want {
			t.Errorf("keep alive %d: the server's is %d, want %d", asked, p.Num, want)
		}
	}
	_, ack := e.open(t, mqtt.Connect{Version: v, ID: e.unique(), Keepalive: 1200})
	if p, there := ack.Prop(mqtt.ServerKeepalive); there {
		t.Errorf("keep alive 1200 was changed to %d", p.Num)
	}
}

func testConnectProperties(t *testing.T, e *env, v byte) {
	expiry, topic := mqtt.Number(mqtt.SessionExpiry, 1), mqtt.String(mqtt.ResponseTopic, "a/#")
	for name, props := range map[string][][]byte{
		"receive maximum 0":     {mqtt.Number(mqtt.ReceiveMaximum, 0)},
		"maximum packet size 0": {mqtt.Number(mqtt.MaximumPacketSize, 0)},
		"request problem 2":     {mqtt.Number(mqtt.RequestProblem, 2)},
		"request response 2":    {mqtt.Number(mqtt.RequestResponse, 2)},
		"session expiry twice":  {expiry, expiry},
		"alias maximum twice": {
			mqtt.Number(mqtt.TopicAliasMaximum, 1),
			mqtt.Number(mqtt.TopicAliasMaximum, 1),
		},
		"authentication data alone": {mqtt.String(mqtt.AuthData, "x")}, "unknown": {[]byte{0x7F, 0}},
		"of another packet": {mqtt.Number(mqtt.TopicAlias, 1)}, "of a server": {mqtt.Number(mqtt.ServerKeepalive, 1)},
		"will delay outside the will": {mqtt.Number(mqtt.WillDelay, 1)}, "cut": {[]byte{mqtt.SessionExpiry, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			e.refused(t, v, mqtt.Connect{Version: v, ID: "x", Props: props}.Encode(), 0x81, 0x82)
		})
	}
	for name, props := range map[string][][]byte{
		"will delay twice": {mqtt.Number(mqtt.WillDelay, 1), mqtt.Number(mqtt.WillDelay, 1)},
		"payload format 2": {mqtt.Number(mqtt.PayloadFormat, 2)},
		"session expiry":   {expiry}, "response topic with a wildcard": {topic},
		"topic alias": {mqtt.Number(mqtt.TopicAlias, 1)},
	} {
		t.Run("will: "+name, func(t *testing.T) {
			o := mqtt.Connect{Version: v, ID: "x", Will: &mqtt.Will{Topic: "a", Props: props}}
			e.refused(t, v, o.Encode(), 0x81, 0x82, 0x90)
		})
	}
}

func testTakeover(t *testing.T, e *env, v byte) {
	o := mqtt.Connect{Version: v, ID: e.unique()}
	first, _ := e.open(t, o)
	second, ack := e.open(t, o)
	equal(t, "session present", ack.Present, 0)
	first.ExpectEnd(0x8E)
	second.Ping()
}
