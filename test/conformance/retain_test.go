package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
		only(v5, "retain/handling", testRetainHandling),
		only(v5, "retain/as_published", testRetainAsPublished),
		only(v5, "retain/expiry", testRetainExpiry),
	}
}

// retained gives what a new subscription finds, by topic, in order.
func (e *env) retained(t *testing.T, v byte, f string) []string {
	t.Helper()
	end := "retained-end/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{f, 2}, filter{end, 2})
	c.publish(publish{topic: end, qos: 2})
	var found []string
	for {
		p := c.message()
		if p.topic == end {
			return found
		}
		equal(t, "RETAIN of "+p.topic, p.retain(), true)
		found = append(found, fmt.Sprintf("%s %d", p.payload, p.qos()))
	}
}

func testRetainStored(t *testing.T, e *env, v byte) {
	for qos := range byte(3) {
		topic := "retain/" + e.unique()
		e.client(t, v).publish(publish{topic: topic, payload: "kept", qos: qos, retain: true})
		if qos == 0 { // nothing tells when it has been taken
			w := e.client(t, v)
			w.subscribe(filter{topic, 0})
			w.message()
		}
		equalList(t, "retained", e.retained(t, v, topic), fmt.Sprintf("kept %d", qos))
		low := e.client(t, v)
		low.subscribe(filter{topic, 0})
		equal(t, "QoS at a subscription of 0", low.message().qos(), 0)
	}
}

func testRetainReplaced(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	for i, qos := range []byte{2, 0, 1, 0, 1} {
		c.publish(publish{topic: topic, payload: fmt.Sprint(i), qos: qos, retain: true})
	}
	equalList(t, "retained", e.retained(t, v, topic), "4 1")
	c.subscribe(filter{topic, 0})
	c.message()
	c.publish(publish{topic: topic, payload: "zero", retain: true})
	equal(t, "live", c.message().payload, "zero")
	equalList(t, "retained at QoS 0", e.retained(t, v, topic), "zero 0")
}

func testRetainRemoved(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	w := e.client(t, v)
	w.subscribe(filter{topic, 1})
	equal(t, "payload", w.message().payload, "kept")
	c.publish(publish{topic: topic, qos: 1, retain: true})
	p := w.message()
	equal(t, "payload passed on", p.payload, "")
	equal(t, "RETAIN", p.retain(), false)
	equalList(t, "retained", e.retained(t, v, topic))
}

func testRetainWithoutFlag(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "live", qos: 1})
	equalList(t, "retained", e.retained(t, v, topic))
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	c.publish(publish{topic: topic, payload: "live", qos: 1})
	c.publish(publish{topic: topic, qos: 1})
	equalList(t, "retained", e.retained(t, v, topic), "kept 1")
}

// testRetainKnown subscribes as soon as the acknowledgement is there: the retained message is stored or
// removed by then, and not on its way.
func testRetainKnown(t *testing.T, e *env, v byte) {
	pub, sub := e.client(t, v), e.client(t, v)
	for range 50 {
		topic := "retain/" + e.unique()
		pub.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
		sub.subscribe(filter{topic, 1})
		p := sub.message()
		equal(t, "RETAIN", p.retain(), true)
		sub.unsubscribe(topic)
		pub.publish(publish{topic: topic, qos: 1, retain: true})
		sub.subscribe(filter{topic, 1})
		sub.publish(publish{topic: topic, payload: "marker", qos: 1})
		equal(t, "after the removal", sub.message().payload, "marker")
	}
}

func testRetainEstablished(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{topic, 1})
	c.publish(publish{topic: topic, payload: "x", qos: 1, retain: true})
	equal(t, "RETAIN", c.message().retain(), false)
}

func testRetainAgain(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	for range 3 {
		c.subscribe(filter{topic, 1})
		p := c.message()
		equal(t, "payload", p.payload, "kept")
		equal(t, "RETAIN", p.retain(), true)
	}
}

func testRetainWildcards(t *testing.T, e *env, v byte) {
	base := "retain/" + e.unique()
	c := e.client(t, v)
	for _, topic := range []string{base, base + "/a", base + "/a/b", base + "/b"} {
		c.publish(publish{topic: topic, payload: "x" + topic[len(base):], qos: 1, retain: true})
	}
	equalList(t, "#", e.retained(t, v, base+"/#"), "x 1", "x/a 1", "x/a/b 1", "x/b 1")
	equalList(t, "+", e.retained(t, v, base+"/+"), "x/a 1", "x/b 1")
	equalList(t, "+/#", e.retained(t, v, base+"/+/#"), "x/a 1", "x/a/b 1", "x/b 1")
	equalList(t, "one", e.retained(t, v, base+"/a"), "x/a 1")
}

func testRetainHandling(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	marker := func(name string) {
		t.Helper()
		c.publish(publish{topic: topic, payload: name, qos: 1})
		equal(t, "next message", c.message().payload, name)
	}
	c.subscribe(filter{topic, 1 | retainNever})
	marker("never")
	c.subscribe(filter{topic, 1 | retainIfNew})
	marker("not new")
	c.unsubscribe(topic)
	c.subscribe(filter{topic, 1 | retainIfNew})
	equal(t, "new", c.message().payload, "kept")
	c.subscribe(filter{topic, 1})
	equal(t, "always", c.message().payload, "kept")
	e.violates(t, v, subscribe(v, 1, nil, filter{topic, 0x30}), 0x81, 0x82)
}

func testRetainAsPublished(t *testing.T, e *env, v byte) {
	for _, as := range []bool{false, true} {
		topic := "retain/" + e.unique()
		options := byte(1)
		if as {
			options |= retainAsPublished
		}
		c := e.client(t, v)
		c.subscribe(filter{topic, options})
		for _, retain := range []bool{true, false} {
			for qos := range byte(2) {
				c.publish(publish{topic: topic, payload: "x", qos: qos, retain: retain})
				equal(t, fmt.Sprintf("RETAIN with the option %v", as), c.message().retain(), retain && as)
			}
		}
	}
}

func testRetainExpiry(t *testing.T, e *env, v byte) {
	topic := "retain/" + e.unique()
	c := e.client(t, v)
	c.publish(publish{topic: topic + "/short", payload: "short", qos: 1, retain: true, props: [][]byte{num(pMessageExpiry, 1)}})
	c.publish(publish{topic: topic + "/long", payload: "long", qos: 1, retain: true, props: [][]byte{num(pMessageExpiry, 100)}})
	waitOut(1200 * time.Millisecond)
	c.subscribe(filter{topic + "/#", 1})
	p := c.message()
	equal(t, "payload", p.payload, "long")
	if x, _ := p.prop(pMessageExpiry); x.num < 90 || x.num > 99 {
		t.Errorf("message expiry %d after more than a second of 100", x.num)
	}
	c.publish(publish{topic: topic + "/marker", payload: "marker", qos: 1})
	equal(t, "payload", c.message().payload, "marker")
}

// testRetainLongTopic: the longest topic name is as good as any.
func testRetainLongTopic(t *testing.T, e *env, v byte) {
	topic := e.unique() + "/" + strings.Repeat("x", 65_535-40)
	c := e.client(t, v)
	c.publish(publish{topic: topic, payload: "kept", qos: 1, retain: true})
	c.subscribe(filter{topic, 1})
	p := c.message()
	equal(t, "payload", p.payload, "kept")
	equal(t, "RETAIN", p.retain(), true)
}
