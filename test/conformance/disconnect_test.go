package conformance

import "testing"

func disconnectCases() []testCase {
	return []testCase{
		both("disconnect/normal", testDisconnect),
		both("disconnect/behind_it", testBehindDisconnect),
		only(v5, "disconnect/reason_codes", testDisconnectReasons),
		both("disconnect/malformed", testDisconnectMalformed),
		both("disconnect/of_server", testServerDisconnect),
	}
}

func testDisconnect(t *testing.T, e *env, v byte) {
	e.client(t, v).disconnect()
	if v == v5 {
		c := e.client(t, v)
		c.send(frame(tDisconnect<<4, []byte{0}, properties(textual(pReason, "bye"), pair("a", "b"))))
		c.expectClosed()
	}
}

func testBehindDisconnect(t *testing.T, e *env, v byte) {
	w, topic := e.watched(t, v, "behind")
	c := e.client(t, v)
	c.send(publish{topic: topic, payload: "before"}.encode(v), disconnect, publish{topic: topic, payload: "behind", qos: 1, id: 1}.encode(v), pingreq)
	c.expectClosed()
	equal(t, "payload", w.message().payload, "before")
	w.nothingBut(t, e, topic)
}

func testDisconnectReasons(t *testing.T, e *env, v byte) {
	for _, reason := range []byte{0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
		c := e.client(t, v)
		c.send(frame(tDisconnect<<4, []byte{reason}))
		c.expectClosed()
	}
	for _, reason := range []byte{0x01, 0x02, 0x18, 0x85, 0x8E, 0xFF} {
		e.violates(t, v, frame(tDisconnect<<4, []byte{reason}), 0x81, 0x82)
	}
}

func testDisconnectMalformed(t *testing.T, e *env, v byte) {
	for flags := byte(1); flags < 16; flags++ {
		e.violates(t, v, frame(tDisconnect<<4|flags), 0x81)
	}
	if v == v4 {
		e.violates(t, v, frame(tDisconnect<<4, []byte{0}))
		return
	}
	e.violates(t, v, frame(tDisconnect<<4, []byte{0}, properties(), []byte{0}), 0x81)
}

// testServerDisconnect has the gateway end connections: nothing comes behind its DISCONNECT but the end, what was
// taken before the violation is acknowledged, and no DISCONNECT comes before CONNACK.
func testServerDisconnect(t *testing.T, e *env, v byte) {
	topic := "server/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 1})
	c.send(publish{topic: topic, payload: "x", qos: 1, id: 1}.encode(v), frame(tPingreq<<4|1))
	c.await(tPuback, 1)
	p, err := c.read()
	if err == nil && p.typ == tPublish {
		p, err = c.read()
	}
	switch {
	case v == v4:
		c.checkEnd(err)
	case err != nil || p.typ != tDisconnect || p.reason != 0x81:
		t.Errorf("type %d with reason 0x%02X (%v) instead of DISCONNECT 0x81", p.typ, p.reason, err)
	default:
		c.expectClosed()
	}
	early := e.dial(t, v)
	early.send(connect{version: v, id: "x", clean: true, flip: 1}.encode())
	if p, err := early.read(); err == nil && p.typ == tDisconnect {
		t.Error("DISCONNECT before CONNACK")
	}
}
