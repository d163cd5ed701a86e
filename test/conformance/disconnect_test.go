package conformance

import (
	"testing"

	"cellgate/test/mqtt"
)

func disconnectCases() []testCase {
	return []testCase{
		both("disconnect/normal", testDisconnect),
		both("disconnect/behind_it", testBehindDisconnect),
		only(mqtt.V5, "disconnect/reason_codes", testDisconnectReasons),
		both("disconnect/malformed", testDisconnectMalformed),
		both("disconnect/of_server", testServerDisconnect),
	}
}

func testDisconnect(t *testing.T, e *env, v byte) {
	e.client(t, v).Disconnect()
	if v == mqtt.V5 {
		c := e.client(t, v)
		c.Send(mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0},
			mqtt.Properties(mqtt.String(mqtt.ReasonString, "bye"), mqtt.User("a", "b"))))
		c.ExpectClosed()
	}
}

func testBehindDisconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "after")
	c := e.client(t, v)
	c.Send(mqtt.Publish{Topic: topic, Payload: "before"}.Encode(v), mqtt.Disconnect(),
		mqtt.Publish{Topic: topic, Payload: "after", QoS: 1, ID: 1}.Encode(v), mqtt.Pingreq())
	c.ExpectClosed()
	equal(t, "payload", w.Message().Payload, "before")
	nothingBut(t, w, e, topic)
}

func testDisconnectReasons(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
		c := e.client(t, v)
		c.Send(mqtt.Frame(mqtt.DISCONNECT<<4, []byte{reason}))
		c.ExpectClosed()
	}
	for _, reason := range []byte{0x01, 0x02, 0x18, 0x85, 0x8E, 0xFF} {
		e.violates(t, v, mqtt.Frame(mqtt.DISCONNECT<<4, []byte{reason}), 0x81, 0x82)
	}
}

func testDisconnectMalformed(t *testing.T, e *env, v byte) {
	for flags := byte(1); flags < 16; flags++ {
		e.violates(t, v, mqtt.Frame(mqtt.DISCONNECT<<4|flags), 0x81)
	}
	if v == mqtt.V4 {
		e.violates(t, v, mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0}))
		return
	}
	e.violates(t, v, mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0}, mqtt.Properties(), []byte{0}), 0x81)
}

// testServerDisconnect has the gateway end connections: after its DISCONNECT the connection closes, messages before the
// violation are acknowledged, and no DISCONNECT precedes CONNACK.
func testServerDisconnect(t *testing.T, e *env, v byte) {
	topic := "server/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Send(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, ID: 1}.Encode(v), mqtt.Frame(mqtt.PINGREQ<<4|1))
	c.Await(mqtt.PUBACK, 1)
	p, err := c.Read()
	if err == nil && p.Type == mqtt.PUBLISH {
		p, err = c.Read()
	}
	switch {
	case v == mqtt.V4:
		c.CheckEnd(err)
	case err != nil || p.Type != mqtt.DISCONNECT || p.Reason != 0x81:
		t.Errorf("type %d with reason 0x%02X (%v) instead of DISCONNECT 0x81", p.Type, p.Reason, err)
	default:
		c.ExpectClosed()
	}
	early := e.dial(t, v)
	early.Send(mqtt.Connect{Version: v, ID: "x", Flip: 1}.Encode())
	if p, err := early.Read(); err == nil && p.Type == mqtt.DISCONNECT {
		t.Error("DISCONNECT before CONNACK")
	}
}
