package conformance

import (
	"strings"
	"testing"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

func propertyCases() []testCase {
	return []testCase{
		only(mqtt.V5, "property/forwarded", testForwarded),
		only(mqtt.V5, "property/forwarded_later", testForwardedLater),
		only(mqtt.V5, "property/request_and_response", testRequestResponse),
		only(mqtt.V5, "property/of_publish", testPublishProperties),
		only(mqtt.V5, "property/problem_information", testProblemInformation),
		only(mqtt.V5, "property/response_information", testResponseInformation),
		only(mqtt.V5, "property/of_packet", testPropertyOfPacket),
	}
}

// travelling are properties that are forwarded with a message, in this order.
func travelling() [][]byte {
	return [][]byte{
		mqtt.User("b", "1"), mqtt.Number(mqtt.PayloadFormat, 1), mqtt.String(mqtt.ContentType, "text/plain"),
		mqtt.User("a", "2"),
		mqtt.String(mqtt.ResponseTopic, "will/answer"), mqtt.String(mqtt.CorrelationData, "\x00\xFF"),
		mqtt.Number(mqtt.MessageExpiry, 300), mqtt.User("b", "0"),
	}
}

// checkForwarded compares a message with travelling.
func checkForwarded(t *testing.T, p mqtt.Packet) {
	t.Helper()
	for id, want := range map[byte]string{
		mqtt.ContentType: "text/plain", mqtt.ResponseTopic: "will/answer",
		mqtt.CorrelationData: "\x00\xFF",
	} {
		if x, there := p.Prop(id); !there || x.Value != want {
			t.Errorf("property 0x%02X: %q, want %q", id, x.Value, want)
		}
	}
	if x, _ := p.Prop(mqtt.PayloadFormat); x.Num != 1 {
		t.Errorf("payload format %d", x.Num)
	}
	var users []string
	for _, x := range p.All(mqtt.UserProperty) {
		users = append(users, x.Name+"="+x.Value)
	}
	equalList(t, "user properties", users, "b=1", "a=2", "b=0")
}

func testForwarded(t *testing.T, e *env, v byte) {
	topic := "props/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 2))
	for qos := range byte(3) {
		c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: qos, Props: travelling()})
		checkForwarded(t, c.Message())
	}
	empty := [][]byte{mqtt.User("", ""), mqtt.User("x", ""), mqtt.User("", "y")}
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, Props: empty})
	equal(t, "empty user properties", len(c.Message().All(mqtt.UserProperty)), 3)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, Props: presentButEmpty()})
	checkPresentButEmpty(t, c.Message())
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
	equal(t, "properties of a message without", len(c.Message().Props), 0)
	old := e.client(t, mqtt.V4)
	old.Subscribe(mqtt.Filter(topic, 1))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "for all", QoS: 1, Props: travelling()})
	equal(t, "payload on 3.1.1", old.Message().Payload, "for all")
}

// presentButEmpty are empty properties that a subscriber must get unaltered.
func presentButEmpty() [][]byte {
	return [][]byte{
		mqtt.Number(mqtt.PayloadFormat, 0), mqtt.String(mqtt.ContentType, ""),
		mqtt.String(mqtt.CorrelationData, ""),
	}
}

func checkPresentButEmpty(t *testing.T, p mqtt.Packet) {
	t.Helper()
	for _, id := range []byte{mqtt.PayloadFormat, mqtt.ContentType, mqtt.CorrelationData} {
		list := p.All(id)
		if len(list) != 1 || list[0].Num != 0 || list[0].Value != "" {
			t.Errorf("property 0x%02X: %+v", id, list)
		}
	}
	equal(t, "properties", len(p.Props), 3)
}

// testForwardedLater: retained and queued messages keep their properties.
func testForwardedLater(t *testing.T, e *env, v byte) {
	topic := "props/" + e.unique()
	o := lasting(v, e.unique())
	c, _ := e.open(t, o)
	c.Subscribe(mqtt.Filter(topic, 2))
	c.Disconnect()
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2, Retain: true, Props: travelling()})
	pub.Subscribe(mqtt.Filter(topic, 2))
	checkForwarded(t, pub.Message())
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "y", QoS: 1, Props: presentButEmpty()})
	c, _ = e.open(t, o)
	checkForwarded(t, c.Message())
	checkPresentButEmpty(t, c.Message())
}

// testRequestResponse answers a request on its response topic, with its correlation data.
func testRequestResponse(t *testing.T, e *env, v byte) {
	base := "request/" + e.unique()
	asks, answers := e.client(t, v), e.client(t, v)
	asks.Subscribe(mqtt.Filter(base+"/answer", 1|mqtt.NoLocal))
	answers.Subscribe(mqtt.Filter(base+"/question", 1))
	asks.Publish(mqtt.Publish{
		Topic: base + "/question", Payload: "?", QoS: 1,
		Props: [][]byte{mqtt.String(mqtt.ResponseTopic, base+"/answer"), mqtt.String(mqtt.CorrelationData, "\x00 7 \xFF")},
	})
	q := answers.Message()
	to, _ := q.Prop(mqtt.ResponseTopic)
	data, _ := q.Prop(mqtt.CorrelationData)
	answers.Publish(mqtt.Publish{
		Topic: to.Value, Payload: "!", QoS: 1,
		Props: [][]byte{mqtt.String(mqtt.CorrelationData, data.Value)},
	})
	a := asks.Message()
	got, _ := a.Prop(mqtt.CorrelationData)
	equal(t, "answer", a.Payload, "!")
	equal(t, "correlation data", got.Value, "\x00 7 \xFF")
}

func testPublishProperties(t *testing.T, e *env, v byte) {
	for name, props := range map[string][][]byte{
		"response topic with #": {mqtt.String(mqtt.ResponseTopic, "a/#")},
		"response topic with +": {mqtt.String(mqtt.ResponseTopic, "+")},
		"payload format 2":      {mqtt.Number(mqtt.PayloadFormat, 2)},
		"content type twice":    {mqtt.String(mqtt.ContentType, "a"), mqtt.String(mqtt.ContentType, "a")},
		"message expiry cut":    {[]byte{mqtt.MessageExpiry, 0, 0}},
		"will delay":            {mqtt.Number(mqtt.WillDelay, 1)},
		"reason string":         {mqtt.String(mqtt.ReasonString, "x")},
		"server's":              {mqtt.Number(mqtt.MaximumQoS, 1)},
		"unknown":               {[]byte{0x7E, 0}},
		"identifier too long":   {[]byte{0x80, 0x01, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			e.violates(t, v, mqtt.Publish{Topic: "a", QoS: 1, ID: 1, Props: props}.Encode(v), 0x81, 0x82, 0x90)
		})
	}
}

// testProblemInformation: without it there are no reason strings and user properties except where they are always
// allowed.
func testProblemInformation(t *testing.T, e *env, v byte) {
	c := e.client(t, v, mqtt.Number(mqtt.RequestProblem, 0))
	c.Send(mqtt.Publish{Topic: deniedPub, QoS: 1, ID: 1}.Encode(v), mqtt.Publish{Topic: deniedPub, QoS: 2, ID: 2}.Encode(v),
		mqtt.Subscribe(v, 3, nil, mqtt.Filter(denied, 0)), mqtt.Unsubscribe(v, 4, "never"), mqtt.Ack(mqtt.PUBREL, 5, 0),
		mqtt.Ack(mqtt.PUBREC, 6, 0))
	for range 6 {
		p, err := c.Read()
		check.OK(t, err)
		equal(t, "properties", len(p.Props), 0)
	}
	topic := "props/" + e.unique()
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Publish(mqtt.Publish{Topic: topic, QoS: 1, Props: [][]byte{mqtt.User("a", "b")}})
	equal(t, "user properties of a PUBLISH", len(c.Message().All(mqtt.UserProperty)), 1)
}

func testResponseInformation(t *testing.T, e *env, v byte) {
	for _, asked := range []uint32{0, 1} {
		c := e.dialTo(t, v, e.vehicles)
		id := e.unique()
		ack := c.Open(mqtt.Connect{Version: v, ID: id, Props: [][]byte{mqtt.Number(mqtt.RequestResponse, asked)}})
		if info, there := ack.Prop(mqtt.ResponseInformation); there != (asked == 1) || there && !strings.HasPrefix(info.Value, "v1/"+id+"/") {
			t.Errorf("asked %d, response information %q", asked, info.Value)
		}
	}
	_, ack := e.open(t, mqtt.Connect{Version: v, ID: e.unique()})
	if _, there := ack.Prop(mqtt.ResponseInformation); there {
		t.Error("response information that nobody asked for")
	}
}

// testPropertyOfPacket sends properties in the wrong packets, and twice.
func testPropertyOfPacket(t *testing.T, e *env, v byte) {
	expiry := mqtt.Number(mqtt.SessionExpiry, 5)
	reason := mqtt.String(mqtt.ReasonString, "x")
	each(t, map[string][]byte{
		"SUBSCRIBE": mqtt.Subscribe(v, 1, [][]byte{reason}, mqtt.Filter("a", 0)),
		"UNSUBSCRIBE": mqtt.Frame(mqtt.UNSUBSCRIBE<<4|2, mqtt.Uint16(1),
			mqtt.Properties(mqtt.Number(mqtt.SubscriptionID, 1)), mqtt.Text("a")),
		"PUBACK":       mqtt.Frame(mqtt.PUBACK<<4, mqtt.Uint16(1), []byte{0}, mqtt.Properties(expiry)),
		"PUBREC twice": mqtt.Frame(mqtt.PUBREC<<4, mqtt.Uint16(1), []byte{0}, mqtt.Properties(reason, reason)),
		"PUBREL": mqtt.Frame(mqtt.PUBREL<<4|2, mqtt.Uint16(1), []byte{0},
			mqtt.Properties(mqtt.Number(mqtt.TopicAlias, 1))),
		"PUBCOMP": mqtt.Frame(mqtt.PUBCOMP<<4, mqtt.Uint16(1), []byte{0},
			mqtt.Properties(mqtt.String(mqtt.ContentType, "x"))),
		"DISCONNECT":       mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0}, mqtt.Properties(mqtt.Number(mqtt.ReceiveMaximum, 1))),
		"DISCONNECT twice": mqtt.Frame(mqtt.DISCONNECT<<4, []byte{0}, mqtt.Properties(reason, reason)),
	}, func(t *testing.T, p []byte) { e.violates(t, v, p, 0x81, 0x82) })
}
