package conformance

import (
	"fmt"
	"testing"
)

func sharedCases() []testCase {
	return []testCase{
		only(v5, "shared/one_of_group", testSharedOne),
		only(v5, "shared/names", testSharedNames),
		only(v5, "shared/no_local", testSharedNoLocal),
		only(v5, "shared/qos", testSharedQoS),
		only(v5, "shared/completed_on_reconnect", testSharedCompleted),
		only(v5, "shared/ends_with_session", testSharedEnds),
		only(v5, "shared/moves_on", testSharedMovesOn),
		only(v5, "shared/refused_goes_nowhere", testSharedRefused),
		only(v5, "shared/retained", testSharedRetained),
	}
}

// group subscribes n clients to $share/g/topic.
func (e *env) group(t *testing.T, v byte, n int, qos byte) (members []*client, topic string) {
	t.Helper()
	topic = "shared/" + e.unique()
	for range n {
		c := e.client(t, v)
		equalList(t, "granted", c.subscribe(filter{"$share/g/" + topic, qos}), qos)
		members = append(members, c)
	}
	return members, topic
}

// testSharedOne: every message goes to one of each group, and to those who subscribe by themselves; all members
// get some.
func testSharedOne(t *testing.T, e *env, v byte) {
	const n = 30
	members, topic := e.group(t, v, 3, 1)
	alone, other := e.client(t, v), e.client(t, v)
	alone.subscribe(filter{topic, 1})
	other.subscribe(filter{"$share/h/" + topic, 1})
	pub := e.client(t, v)
	for i := range n {
		pub.publish(publish{topic: topic, payload: fmt.Sprint(i), qos: 1})
	}
	seen := map[string]bool{}
	for _, c := range members {
		c.subscribe(filter{topic + "/end/" + c.id, 1})
		pub.publish(publish{topic: topic + "/end/" + c.id, qos: 1})
		got := 0
		for p := c.message(); p.topic == topic; p = c.message() {
			if seen[p.payload] {
				t.Errorf("message %s went to two members", p.payload)
			}
			seen[p.payload] = true
			got++
		}
		if got == 0 {
			t.Error("a member got nothing")
		}
	}
	equal(t, "messages", len(seen), n)
	for i := range n {
		equal(t, "payload", alone.message().payload, fmt.Sprint(i))
		equal(t, "payload", other.message().payload, fmt.Sprint(i))
	}
	equalList(t, "UNSUBACK", members[0].unsubscribe("$share/g/"+topic, topic), 0, 0x11)
}

func testSharedNames(t *testing.T, e *env, v byte) {
	for _, f := range []string{"$share//a", "$share/g", "$share/g/", "$share/", "$share/g+/a", "$share/#/a", "$share/g#/a", "$share/+/a"} {
		t.Run(f, func(t *testing.T) { e.violates(t, v, subscribe(v, 1, nil, filter{f, 0}), 0x81, 0x82, 0x8F) })
	}
}

func testSharedNoLocal(t *testing.T, e *env, v byte) {
	e.violates(t, v, subscribe(v, 1, nil, filter{"$share/g/a", noLocal}), 0x82)
}

func testSharedQoS(t *testing.T, e *env, v byte) {
	for granted := range byte(3) {
		members, topic := e.group(t, v, 1, granted)
		members[0].publish(publish{topic: topic, payload: "x", qos: 2})
		equal(t, "QoS", members[0].message().qos(), granted)
	}
}

// away gives a group of a member that is connected and one with a lasting session, which has an
// unacknowledged message and is gone.
func (e *env) away(t *testing.T, v byte) (here *client, gone connect, topic string, sent packet) {
	t.Helper()
	topic = "shared/" + e.unique()
	gone = lasting(v, e.unique())
	c, _ := e.open(t, gone)
	c.subscribe(filter{"$share/g/" + topic, 2})
	here = e.client(t, v)
	here.publish(publish{topic: topic, payload: "first", qos: 2})
	sent = c.expect(tPublish)
	here.subscribe(filter{"$share/g/" + topic, 2})
	c.drop()
	return here, gone, topic, sent
}

func testSharedCompleted(t *testing.T, e *env, v byte) {
	here, gone, topic, sent := e.away(t, v)
	c, ack1 := e.open(t, gone)
	equal(t, "session present", ack1.present, 1)
	c.acknowledge(c.sameAgain(sent))
	c.disconnect()
	here.subscribe(filter{topic + "/end", 2})
	here.publish(publish{topic: topic + "/end", payload: "end", qos: 2})
	equal(t, "payload at the other member", here.message().payload, "end")
}

func testSharedEnds(t *testing.T, e *env, v byte) {
	here, gone, topic, _ := e.away(t, v)
	gone.clean = true
	c, _ := e.open(t, gone)
	c.disconnect()
	here.nothingBut(t, e, topic)
}

// testSharedMovesOn: a QoS 1 message that a member has not acknowledged when its session ends goes to another.
func testSharedMovesOn(t *testing.T, e *env, v byte) {
	members, topic := e.group(t, v, 1, 1)
	pub := e.client(t, v)
	pub.publish(publish{topic: topic, payload: "left behind", qos: 1})
	members[0].expect(tPublish)
	other := e.client(t, v)
	other.subscribe(filter{"$share/g/" + topic, 1})
	members[0].disconnect()
	equal(t, "payload at the other member", other.message().payload, "left behind")
}

func testSharedRefused(t *testing.T, e *env, v byte) {
	for _, typ := range []byte{tPuback, tPubrec} {
		members, topic := e.group(t, v, 1, 2)
		refuser, pub := members[0], e.client(t, v)
		pub.publish(publish{topic: topic, payload: "x", qos: typ - tPuback + 1})
		p := refuser.expect(tPublish)
		other := e.client(t, v)
		other.subscribe(filter{"$share/g/" + topic, 2}, filter{topic + "/end", 2})
		refuser.send(ack(typ, p.id, 0x97))
		refuser.ping()
		pub.publish(publish{topic: topic + "/end", payload: "end", qos: 2})
		equal(t, "payload at the other member", other.message().payload, "end")
	}
}

func testSharedRetained(t *testing.T, e *env, v byte) {
	topic := "shared/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	c.subscribe(filter{"$share/g/" + topic, 1})
	c.nothingBut(t, e, topic)
}
