package conformance

import "testing"

func propertyCases() []testCase {
	return []testCase{
		only(v5, "property/forwarded", testForwarded),
		only(v5, "property/forwarded_later", testForwardedLater),
		only(v5, "property/request_and_response", testRequestResponse),
		only(v5, "property/of_publish", testPublishProperties),
		only(v5, "property/problem_information", testProblemInformation),
		only(v5, "property/response_information", testResponseInformation),
		only(v5, "property/of_packet", testPropertyOfPacket),
	}
}

// travelling are properties that go with a message, in an order of their own.
func travelling() [][]byte {
	return [][]byte{
		pair("b", "1"), num(pPayloadFormat, 1), textual(pContentType, "text/plain"), pair("a", "2"),
		textual(pResponseTopic, "will/answer"), textual(pCorrelation, "\x00\xFF"), num(pMessageExpiry, 300), pair("b", "0"),
	}
}

// checkForwarded holds a message against travelling.
func checkForwarded(t *testing.T, p packet) {
	t.Helper()
	for id, want := range map[byte]string{pContentType: "text/plain", pResponseTopic: "will/answer", pCorrelation: "\x00\xFF"} {
		if x, there := p.prop(id); !there || x.value != want {
			t.Errorf("property 0x%02X: %q, want %q", id, x.value, want)
		}
	}
	if x, _ := p.prop(pPayloadFormat); x.num != 1 {
		t.Errorf("payload format %d", x.num)
	}
	var users []string
	for _, x := range p.all(pUser) {
		users = append(users, x.name+"="+x.value)
	}
	equalList(t, "user properties", users, "b=1", "a=2", "b=0")
}

func testForwarded(t *testing.T, e *env, v byte) {
	topic := "props/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 2})
	for qos := range byte(3) {
		c.publish(publish{topic: topic, payload: "x", qos: qos, props: travelling()})
		checkForwarded(t, c.message())
	}
	empty := [][]byte{pair("", ""), pair("x", ""), pair("", "y")}
	c.publish(publish{topic: topic, payload: "x", qos: 1, props: empty})
	equal(t, "empty user properties", len(c.message().all(pUser)), 3)
	c.publish(publish{topic: topic, payload: "x", qos: 1, props: presentButEmpty()})
	checkPresentButEmpty(t, c.message())
	c.publish(publish{topic: topic, payload: "x", qos: 1})
	equal(t, "properties of a message without", len(c.message().props), 0)
	old := e.client(t, v4)
	old.subscribe(filter{topic, 1})
	c.publish(publish{topic: topic, payload: "for all", qos: 1, props: travelling()})
	equal(t, "payload on 3.1.1", old.message().payload, "for all")
}

// presentButEmpty are properties that a subscriber gets although they say nothing: unaltered is unaltered.
func presentButEmpty() [][]byte {
	return [][]byte{num(pPayloadFormat, 0), textual(pContentType, ""), textual(pCorrelation, "")}
}

func checkPresentButEmpty(t *testing.T, p packet) {
	t.Helper()
	for _, id := range []byte{pPayloadFormat, pContentType, pCorrelation} {
		list := p.all(id)
		if len(list) != 1 || list[0].num != 0 || list[0].value != "" {
			t.Errorf("property 0x%02X: %+v", id, list)
		}
	}
	equal(t, "properties", len(p.props), 3)
}

// testForwardedLater: the properties stay with retained and with queued messages.
func testForwardedLater(t *testing.T, e *env, v byte) {
	topic := "props/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.subscribe(filter{topic, 2})
	c.disconnect()
	pub := e.client(t, v)
	pub.publish(publish{topic: topic, payload: "x", qos: 2, retain: true, props: travelling()})
	pub.subscribe(filter{topic, 2})
	checkForwarded(t, pub.message())
	pub.publish(publish{topic: topic, payload: "y", qos: 1, props: presentButEmpty()})
	c, _ = e.open(t, o)
	checkForwarded(t, c.message())
	checkPresentButEmpty(t, c.message())
}

// testRequestResponse answers a request where it says, with its correlation data.
func testRequestResponse(t *testing.T, e *env, v byte) {
	base := "request/" + e.unique()
	asks, answers := e.client(t, v), e.client(t, v)
	asks.subscribe(filter{base + "/answer", 1 | noLocal})
	answers.subscribe(filter{base + "/question", 1})
	asks.publish(publish{
		topic: base + "/question", payload: "?", qos: 1,
		props: [][]byte{textual(pResponseTopic, base+"/answer"), textual(pCorrelation, "\x00 7 \xFF")},
	})
	q := answers.message()
	to, _ := q.prop(pResponseTopic)
	data, _ := q.prop(pCorrelation)
	answers.publish(publish{topic: to.value, payload: "!", qos: 1, props: [][]byte{textual(pCorrelation, data.value)}})
	a := asks.message()
	got, _ := a.prop(pCorrelation)
	equal(t, "answer", a.payload, "!")
	equal(t, "correlation data", got.value, "\x00 7 \xFF")
}

func testPublishProperties(t *testing.T, e *env, v byte) {
	for name, props := range map[string][][]byte{
		"response topic with #": {textual(pResponseTopic, "a/#")}, "response topic with +": {textual(pResponseTopic, "+")},
		"payload format 2":    {num(pPayloadFormat, 2)},
		"content type twice":  {textual(pContentType, "a"), textual(pContentType, "a")},
		"message expiry cut":  {[]byte{pMessageExpiry, 0, 0}},
		"will delay":          {num(pWillDelay, 1)},
		"reason string":       {textual(pReason, "x")},
		"server's":            {num(pMaximumQoS, 1)},
		"unknown":             {[]byte{0x7E, 0}},
		"identifier too long": {[]byte{0x80, 0x01, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			e.violates(t, v, publish{topic: "a", qos: 1, id: 1, props: props}.encode(v), 0x81, 0x82, 0x90)
		})
	}
}

// testProblemInformation: without it there are no reason strings and user properties but where they are
// always allowed.
func testProblemInformation(t *testing.T, e *env, v byte) {
	c := e.client(t, v, num(pRequestProblem, 0))
	c.send(publish{topic: deniedPub, qos: 1, id: 1}.encode(v), publish{topic: deniedPub, qos: 2, id: 2}.encode(v),
		subscribe(v, 3, nil, filter{denied, 0}), unsubscribe(v, 4, "never"), ack(tPubrel, 5, 0), ack(tPubrec, 6, 0))
	for range 6 {
		p, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "properties", len(p.props), 0)
	}
	topic := "props/" + e.unique()
	c.subscribe(filter{topic, 1})
	c.publish(publish{topic: topic, qos: 1, props: [][]byte{pair("a", "b")}})
	equal(t, "user properties of a PUBLISH", len(c.message().all(pUser)), 1)
}

func testResponseInformation(t *testing.T, e *env, v byte) {
	for _, asked := range []uint32{0, 1} {
		c := e.dialTo(t, v, e.vehicles)
		ack := c.open(connect{version: v, id: e.unique(), clean: true, props: [][]byte{num(pRequestResponse, asked)}})
		if info, there := ack.prop(pResponseInfo); there != (asked == 1) {
			t.Errorf("asked %d, response information %q", asked, info.value)
		}
	}
	_, ack := e.open(t, connect{version: v, id: e.unique(), clean: true})
	if _, there := ack.prop(pResponseInfo); there {
		t.Error("response information that nobody asked for")
	}
}

// testPropertyOfPacket puts properties where they do not belong, and twice.
func testPropertyOfPacket(t *testing.T, e *env, v byte) {
	expiry := num(pSessionExpiry, 5)
	reason := textual(pReason, "x")
	each(t, map[string][]byte{
		"SUBSCRIBE":        subscribe(v, 1, [][]byte{reason}, filter{"a", 0}),
		"UNSUBSCRIBE":      frame(tUnsubscribe<<4|2, u16(1), properties(num(pSubscriptionID, 1)), text("a")),
		"PUBACK":           frame(tPuback<<4, u16(1), []byte{0}, properties(expiry)),
		"PUBREC twice":     frame(tPubrec<<4, u16(1), []byte{0}, properties(reason, reason)),
		"PUBREL":           frame(tPubrel<<4|2, u16(1), []byte{0}, properties(num(pAlias, 1))),
		"PUBCOMP":          frame(tPubcomp<<4, u16(1), []byte{0}, properties(textual(pContentType, "x"))),
		"DISCONNECT":       frame(tDisconnect<<4, []byte{0}, properties(num(pReceiveMaximum, 1))),
		"DISCONNECT twice": frame(tDisconnect<<4, []byte{0}, properties(reason, reason)),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81, 0x82) })
}
