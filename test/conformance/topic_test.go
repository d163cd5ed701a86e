package conformance

import (
	"strings"
	"testing"

	"cellgate/test/mqtt"
)

func topicCases() []testCase {
	return []testCase{
		both("topic/wildcards", testWildcards),
		both("topic/bad_filters", testBadFilters),
		both("topic/dollar", testDollar),
		both("topic/no_normalization", testNoNormalization),
		both("topic/lengths", testTopicLengths),
	}
}

// testWildcards publishes every topic to one subscriber per filter.
func testWildcards(t *testing.T, e *env, v byte) {
	root := e.unique()
	for f, want := range map[string]string{
		"R/#": "R R/ R/a R/a/ R/a/b R/a/b/c R//b", "R/+": "R/ R/a", "R/+/b": "R/a/b R//b",
		"R/a/#": "R/a R/a/ R/a/b R/a/b/c",
		"R/+/#": "R/ R/a R/a/ R/a/b R/a/b/c R//b", "R/a/+": "R/a/ R/a/b", "+/a": "R/a", "R": "R", "R/": "R/",
		"R/+/+": "R/a/ R/a/b R//b",
		"+/+/b": "R/a/b R//b", "R/a/b/#": "R/a/b R/a/b/c", "R/a/+/c": "R/a/b/c", "R/+/b/#": "R/a/b R/a/b/c R//b",
		"R//#": "R/ R//b",
	} {
		t.Run(f, func(t *testing.T) {
			c := e.client(t, v)
			c.Subscribe(mqtt.Filter(strings.ReplaceAll(f, "R", root), 1))
			for _, topic := range strings.Fields("R R/ R/a R/a/ R/a/b R/a/b/c R//b") {
				c.Publish(mqtt.Publish{Topic: strings.ReplaceAll(topic, "R", root), Payload: "x", QoS: 1})
			}
			end := root + "/end-of-" + c.ID
			c.Subscribe(mqtt.Filter("/"+end, 1))
			c.Publish(mqtt.Publish{Topic: "/" + end, QoS: 1})
			var got []string
			for p := c.Message(); p.Topic != "/"+end; p = c.Message() {
				if strings.HasPrefix(p.Topic, root) { // a leading + matches what other tests publish, too
					got = append(got, strings.Replace(p.Topic, root, "R", 1))
				}
			}
			equalList(t, "topics", got, strings.Fields(want)...)
		})
		root = e.unique()
	}
	leading := "/" + e.unique()
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter("+"+leading, 1))
	c.Subscribe(mqtt.Filter(leading[1:], 1))
	c.Publish(mqtt.Publish{Topic: leading, Payload: "empty first level", QoS: 1})
	equal(t, "payload", c.Message().Payload, "empty first level")
}

func testBadFilters(t *testing.T, e *env, v byte) {
	for _, f := range []string{"", "#/", "#/a", "a/#/b", "a#", "a/b#", "##", "a+", "+a", "a/b+/c", "++", "a/+#", "a/#+"} {
		t.Run(f, func(t *testing.T) {
			e.violates(t, v, mqtt.Subscribe(v, 1, nil, mqtt.Filter(f, 0)), 0x81, 0x82, 0x8F)
			e.violates(t, v, mqtt.Unsubscribe(v, 1, f), 0x81, 0x82, 0x8F)
		})
	}
}

// testDollar: clients cannot publish on topics that begin with $, so such filters are refused; a leading wildcard never
// matches one.
func testDollar(t *testing.T, e *env, v byte) {
	end := "dollar/" + e.unique()
	w := e.client(t, v)
	w.Subscribe(mqtt.Filter("#", 1), mqtt.Filter("+/monitor", 1))
	c := e.client(t, v)
	c.Send(mqtt.Publish{Topic: "$SYS/monitor", Payload: "no", QoS: 1, ID: 1}.Encode(v))
	if v == mqtt.V5 {
		c.ExpectAck(mqtt.PUBACK, 1, 0x87)
	} else {
		c.ExpectClosed()
	}
	e.client(t, v).Publish(mqtt.Publish{Topic: end, QoS: 1})
	for p := w.Message(); p.Topic != end; p = w.Message() {
		if strings.HasPrefix(p.Topic, "$") {
			t.Errorf("got %q", p.Topic)
		}
	}
	refused := map[byte]byte{mqtt.V4: 0x80, mqtt.V5: 0x87}[v]
	equalList(t, "codes", w.Subscribe(mqtt.Filter("$SYS/#", 0)), refused)
}

// testNoNormalization uses names that Unicode, letter case or paths would treat as equal.
func testNoNormalization(t *testing.T, e *env, v byte) {
	root := "plain/" + e.unique()
	names := []string{
		"\u00E9", "e\u0301", "a", "A", "a/../b", "b", "a//b", "a/b", " a", "a ", "\u212B", "\u00C5", "%61", "\\u0061",
		"\U0001F697",
		"\uFF0F", "a\u200B",
	}
	var clients []*mqtt.T
	for _, name := range names {
		c := e.client(t, v)
		c.Subscribe(mqtt.Filter(root+"/"+name, 1))
		clients = append(clients, c)
	}
	pub := e.client(t, v)
	for _, name := range names {
		pub.Publish(mqtt.Publish{Topic: root + "/" + name, Payload: name, QoS: 1})
	}
	for i, c := range clients {
		equal(t, "payload", c.Message().Payload, names[i])
		nothingBut(t, c, e, root+"/"+names[i])
	}
}

// testTopicLengths uses the shortest and the longest names.
func testTopicLengths(t *testing.T, e *env, v byte) {
	long := "long/" + e.unique() + "/"
	long += strings.Repeat("x", 65_535-len(long))
	c := e.client(t, v)
	c.Subscribe(mqtt.Filter(long, 1))
	c.Subscribe(mqtt.Filter(versionName(v)[:1], 1), mqtt.Filter(" ", 1), mqtt.Filter("/", 1))
	c.Subscribe(mqtt.Filter(long[:65_533]+"/#", 1))
	for _, topic := range []string{long, versionName(v)[:1]} {
		c.Publish(mqtt.Publish{Topic: topic, Payload: "x", QoS: 1})
		equal(t, "topic", c.Message().Topic, topic)
	}
}
