package conformance

import (
	"fmt"
	"testing"

	"cellgate/test/mqtt"
)

func sharedCases() []testCase {
	return []testCase{
		only(mqtt.V5, "shared/one_of_group", testSharedOne),
		only(mqtt.V5, "shared/names", testSharedNames),
		only(mqtt.V5, "shared/no_local", testSharedNoLocal),
		only(mqtt.V5, "shared/qos", testSharedQoS),
		only(mqtt.V5, "shared/completed_on_reconnect", testSharedCompleted),
		only(mqtt.V5, "shared/ends_with_session", testSharedEnds),
		only(mqtt.V5, "shared/moves_on", testSharedMovesOn),
		only(mqtt.V5, "shared/refused_goes_nowhere", testSharedRefused),
		only(mqtt.V5, "shared/retained", testSharedRetained),
	}
}

// group subscribes n clients to $share/g/topic.
func (e *env) group(t *testing.T, v byte, n int, qos byte) (members []*mqtt.T, topic string) {
	t.Helper()
	topic = "shared/" + e.unique()
	for range n {
		c := e.client(t, v)
		equalList(t, "granted", c.Subscribe(mqtt.Filter("$share/g/"+topic, qos)), qos)
		members = append(members, c)
	}
	return members, topic
}

// testSharedOne: every message goes to one member of each group, and to other subscribers; all members get some.
func testSharedOne(t *testing.T, e *env, v byte) {
	const n = 30
	members, topic := e.group(t, v, 3, 1)
	alone, other := e.client(t, v), e.client(t, v)
	alone.Subscribe(mqtt.Filter(topic, 1))
	other.Subscribe(mqtt.Filter("$share/h/"+topic, 1))
	pub := e.client(t, v)
	for i := range n {
		pub.Publish(mqtt.Publish{Topic: topic, Payload: fmt.Sprint(i), QoS: 1})
	}
	seen := map[string]bool{}
	for _, c := range members {
		c.Subscribe(mqtt.Filter(topic+"/end/"+c.ID, 1))
		pub.Publish(mqtt.Publish{Topic: topic + "/end/" + c.ID, QoS: 1})
		got := 0
		for p := c.Message(); p.Topic == topic; p = c.Message() {
			if seen[p.Payload] {
				t.Errorf("message %s went to two members", p.Payload)
			}
			seen[p.Payload] = true
			got++
		}
		if got == 0 {
			t.Error("a member got nothing")
		}
	}
	equal(t, "messages", len(seen), n)
	for i := range n {
		equal(t, "payload", alone.Message().Payload, fmt.Sprint(i))
		equal(t, "payload", other.Message().Payload, fmt.Sprint(i))
	}
	equalList(t, "UNSUBACK", members[0].Unsubscribe("$share/g/"+topic, topic), 0, 0x11)
}

func testSharedNames(t *testing.T, e *env, v byte) {
	for _, f := range []string{
		"$share//a", "$share/g", "$share/g/", "$share/", "$share/g+/a", "$share/#/a",
		"$share/g#/a", "$share/+/a",
	} {
		t.Run(f, func(t *testing.T) { e.violates(t, v, mqtt.Subscribe(v, 1, nil, mqtt.Filter(f, 0)), 0x81, 0x82, 0x8F) })
	}
}

func testSharedNoLocal(t *testing.T, e *env, v byte) {
	e.violates(t, v, mqtt.Subscribe(v, 1, nil, mqtt.Filter("$share/g/a", mqtt.NoLocal)), 0x82)
}

func testSharedQoS(t *testing.T, e *env, v byte) {
	for granted := range byte(3) {
		members, topic := e.group(t, v, 1, granted)
		members[0].Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 2})
		equal(t, "QoS", members[0].Message().QoS(), granted)
	}
}

// away returns a group of a connected member and a disconnected one with a lasting session, which has an unacknowledged
// message.
func (e *env) away(t *testing.T, v byte) (here *mqtt.T, gone mqtt.Connect, topic string, sent mqtt.Packet) {
	t.Helper()
	topic = "shared/" + e.unique()
	gone = lasting(v, e.unique())
	c, _ := e.open(t, gone)
	c.Subscribe(mqtt.Filter("$share/g/"+topic, 2))
	here = e.client(t, v)
	here.Publish(mqtt.Publish{Topic: topic, Payload: "first", QoS: 2})
	sent = c.Expect(mqtt.PUBLISH)
	here.Subscribe(mqtt.Filter("$share/g/"+topic, 2))
	c.Drop()
	return here, gone, topic, sent
}

func testSharedCompleted(t *testing.T, e *env, v byte) {
	here, gone, topic, sent := e.away(t, v)
	c, ack1 := e.open(t, gone)
	equal(t, "session present", ack1.Present, 1)
	c.Acknowledge(sameAgain(c, sent))
	c.Disconnect()
	here.Subscribe(mqtt.Filter(topic+"/end", 2))
	here.Publish(mqtt.Publish{Topic: topic + "/end", Payload: "end", QoS: 2})
	equal(t, "payload at the other member", here.Message().Payload, "end")
}

func testSharedEnds(t *testing.T, e *env, v byte) {
	here, gone, topic, _ := e.away(t, v)
	gone.Keep = false
	c, _ := e.open(t, gone)
	c.Disconnect()
	nothingBut(t, here, e, topic)
}

// testSharedMovesOn: a QoS 1 message that is unacknowledged when a member's session ends goes to another member.
func testSharedMovesOn(t *testing.T, e *env, v byte) {
	members, topic := e.group(t, v, 1, 1)
	pub := e.client(t, v)
	pub.Publish(mqtt.Publish{Topic: topic, Payload: "left behind", QoS: 1})
	members[0].Expect(mqtt.PUBLISH)
	other := e.client(t, v)
	other.Subscribe(mqtt.Filter("$share/g/"+topic, 1))
	members[0].Disconnect()
	equal(t, "payload at the other member", other.Message().Payload, "left behind")
}

func testSharedRefused(t *testing.T, e *env, v byte) {
	for _, typ := range []byte{mqtt.PUBACK, mqtt.PUBREC} {
		members, topic := e.group(t, v, 1, 2)
		refuser, pub := members[0], e.client(t, v)
		pub.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: typ - mqtt.PUBACK + 1})
		p := refuser.Expect(mqtt.PUBLISH)
		other := e.client(t, v)
		other.Subscribe(mqtt.Filter("$share/g/"+topic, 2), mqtt.Filter(topic+"/end", 2))
		refuser.Send(mqtt.Ack(typ, p.ID, 0x97))
		refuser.Ping()
		pub.Publish(mqtt.Publish{Topic: topic + "/end", Payload: "end", QoS: 2})
		equal(t, "payload at the other member", other.Message().Payload, "end")
	}
}

func testSharedRetained(t *testing.T, e *env, v byte) {
	topic := "shared/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	c.Subscribe(mqtt.Filter("$share/g/"+topic, 1))
	nothingBut(t, c, e, topic)
}
