package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cellgate/test/mqtt"
)

func retainCases() []testCase {
	return []testCase{
		both("retain/stored", testRetainStored),
		both("retain/replaced", testRetainReplaced),
		both("retain/removed", testRetainRemoved),
		both("retain/without_the_flag", testRetainWithoutFlag),
		both("retain/known_once_acknowledged", testRetainKnown),
		both("retain/established_subscription", testRetainEstablished),
		both("retain/subscribed_again", testRetainAgain),
		both("retain/wildcards", testRetainWildcards),
		both("retain/long_topic", testRetainLongTopic),
		only(mqtt.V5, "retain/handling", testRetainHandling),
		only(mqtt.V5, "retain/as_published", testRetainAsPublished),
		only(mqtt.V5, "retain/expiry", testRetainExpiry),
	}
}

// retained returns what a new subscription gets, by topic, in order.
func (e *env) retained(t *testing.T, v byte, f string) []string {
	t.Helper()
	end := "retained-end/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(f, 2), mqtt.Filter(end, 2))
	c.Publish(mqtt.Publish{Topic: end, QoS: 2})
	var found []string
	for {
		p := c.Message()
		if p.Topic == end {
			return found
		}
		equal(t, "RETAIN of "+p.Topic, p.Retain(), true)
		found = append(found, fmt.Sprintf("%s %d", p.Payload, p.QoS()))
	}
}

func testRetainStored(t *testing.T, e *env, v byte) {
	for qos := range byte(3) {
		topic := "retain/" + e.unique()
		e.client(t, v).Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: qos, Retain: true})
		if qos == 0 { // there is no acknowledgement to wait for
			w := e.client(t, v)
			w.Subscribe(mqtt.Filter(topic, 0))
			w.Message()
		}
		equalList(t, "retained", e.retained(t, v, topic), fmt.Sprintf("kept %d", qos))
		low := e.client(t, v)
		low.Subscribe(mqtt.Filter(topic, 0))
		equal(t, "QoS at a subscription of 0", low.Message().QoS(), 0)
	}
}

func testRetainReplaced(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	for i, qos := range []byte{2, 0, 1, 0, 1} {
		c.Publish(mqtt.Publish{Topic: topic, Payload: fmt.Sprint(i), QoS: qos, Retain: true})
	}
	equalList(t, "retained", e.retained(t, v, topic), "4 1")
	c.Subscribe(mqtt.Filter(topic, 0))
	c.Message()
	c.Publish(mqtt.Publish{Topic: topic, Payload: "zero", Retain: true})
	equal(t, "live", c.Message().Payload, "zero")
	equalList(t, "retained at QoS 0", e.retained(t, v, topic), "zero 0")
}

func testRetainRemoved(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter(topic, 1))
	equal(t, "payload", w.Message().Payload, "kept")
	c.Publish(mqtt.Publish{Topic: topic, QoS: 1, Retain: true})
	p := w.Message()
	equal(t, "payload passed on", p.Payload, "")
	equal(t, "RETAIN", p.Retain(), false)
	equalList(t, "retained", e.retained(t, v, topic))
}

func testRetainWithoutFlag(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "live", QoS: 1})
	equalList(t, "retained", e.retained(t, v, topic))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	c.Publish(mqtt.Publish{Topic: topic, Payload: "live", QoS: 1})
	c.Publish(mqtt.Publish{Topic: topic, QoS: 1})
	equalList(t, "retained", e.retained(t, v, topic), "kept 1")
}

// testRetainKnown subscribes after the acknowledgement: then the retained message is stored or removed.
func testRetainKnown(t *testing.T, e *env, v byte) {
	pub, sub := e.client(t, v), e.client(t, v)
	for range 50 {
		topic := "retain/" + e.unique()
		pub.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
		sub.Subscribe(mqtt.Filter(topic, 1))
		p := sub.Message()
		equal(t, "RETAIN", p.Retain(), true)
		sub.Unsubscribe(topic)
		pub.Publish(mqtt.Publish{Topic: topic, QoS: 1, Retain: true})
		sub.Subscribe(mqtt.Filter(topic, 1))
		sub.Publish(mqtt.Publish{Topic: topic, Payload: "marker", QoS: 1})
		equal(t, "after the removal", sub.Message().Payload, "marker")
	}
}

func testRetainEstablished(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(topic, 1))
	c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, Retain: true})
	equal(t, "RETAIN", c.Message().Retain(), false)
}

func testRetainAgain(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	for range 3 {
		c.Subscribe(mqtt.Filter(topic, 1))
		p := c.Message()
		equal(t, "payload", p.Payload, "kept")
		equal(t, "RETAIN", p.Retain(), true)
	}
}

func testRetainWildcards(t *testing.T, e *env, v byte) {
	base := "retain/" + e.unique()
	c := e.client(t, v)
	for _, topic := range []string{base, base + "/a", base + "/a/b", base + "/b"} {
		c.Publish(mqtt.Publish{Topic: topic, Payload: "x" + topic[len(base):], QoS: 1, Retain: true})
	}
	equalList(t, "#", e.retained(t, v, base+"/#"), "x 1", "x/a 1", "x/a/b 1", "x/b 1")
	equalList(t, "+", e.retained(t, v, base+"/+"), "x/a 1", "x/b 1")
	equalList(t, "+/#", e.retained(t, v, base+"/+/#"), "x/a 1", "x/a/b 1", "x/b 1")
	equalList(t, "one", e.retained(t, v, base+"/a"), "x/a 1")
}

func testRetainHandling(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	marker := func(name string) {
		t.Helper()
		c.Publish(mqtt.Publish{Topic: topic, Payload: name, QoS: 1})
		equal(t, "next message", c.Message().Payload, name)
	}
	c.Subscribe(mqtt.Filter(topic, 1|mqtt.RetainNever))
	marker("never")
	c.Subscribe(mqtt.Filter(topic, 1|mqtt.RetainIfNew))
	marker("not new")
	c.Unsubscribe(topic)
	c.Subscribe(mqtt.Filter(topic, 1|mqtt.RetainIfNew))
	equal(t, "new", c.Message().Payload, "kept")
	c.Subscribe(mqtt.Filter(topic, 1))
	equal(t, "always", c.Message().Payload, "kept")
	e.violates(t, v, mqtt.Subscribe(v, 1, nil, mqtt.Filter(topic, 0x30)), 0x81, 0x82)
}

func testRetainAsPublished(t *testing.T, e *env, v byte) {
	for _, as := range []bool{false, true} {
		topic := "retain/" + e.unique()
		options := byte(1)
		if as {
			options |= mqtt.RetainAsPublished
		}
		c := e.client(t, v)
		c.Subscribe(mqtt.Filter(topic, options))
		for _, retain := range []bool{true, false} {
			for qos := range byte(2) {
				c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: qos, Retain: retain})
				equal(t, fmt.Sprintf("RETAIN with the option %v", as), c.Message().Retain(), retain && as)
			}
		}
	}
}

func testRetainExpiry(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.Publish(mqtt.Publish{
		Topic: topic + "/short", Payload: "short", QoS: 1, Retain: true,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, 1)},
	})
	c.Publish(mqtt.Publish{
		Topic: topic + "/long", Payload: "long", QoS: 1, Retain: true,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, 100)},
	})
	waitOut(1200 * time.Millisecond)
	c.Subscribe(mqtt.Filter(topic+"/#", 1))
	p := c.Message()
	equal(t, "payload", p.Payload, "long")
	if x, _ := p.Prop(mqtt.MessageExpiry); x.Num < 90 || x.Num > 99 {
		t.Errorf("message expiry %d after more than a second of 100", x.Num)
	}
	c.Publish(mqtt.Publish{Topic: topic + "/marker", Payload: "marker", QoS: 1})
	equal(t, "payload", c.Message().Payload, "marker")
}

// testRetainLongTopic uses the longest topic name.
func testRetainLongTopic(t *testing.T, e *env, v byte) {
	topic := e.unique() + "/" + strings.Repeat("x", 65_535-40)
	c := e.client(t, v)
	c.Publish(mqtt.Publish{Topic: topic, Payload: "kept", QoS: 1, Retain: true})
	c.Subscribe(mqtt.Filter(topic, 1))
	p := c.Message()
	equal(t, "payload", p.Payload, "kept")
	equal(t, "RETAIN", p.Retain(), true)
}
