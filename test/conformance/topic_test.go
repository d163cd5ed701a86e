package conformance

import (
	"strings"
	"testing"
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
		"R/#": "R R/ R/a R/a/ R/a/b R/a/b/c R//b", "R/+": "R/ R/a", "R/+/b": "R/a/b R//b", "R/a/#": "R/a R/a/ R/a/b R/a/b/c",
		"R/+/#": "R/ R/a R/a/ R/a/b R/a/b/c R//b", "R/a/+": "R/a/ R/a/b", "+/a": "R/a", "R": "R", "R/": "R/", "R/+/+": "R/a/ R/a/b R//b",
		"+/+/b": "R/a/b R//b", "R/a/b/#": "R/a/b R/a/b/c", "R/a/+/c": "R/a/b/c", "R/+/b/#": "R/a/b R/a/b/c R//b", "R//#": "R/ R//b",
	} {
		t.Run(f, func(t *testing.T) {
			c := e.client(t, v)
			c.subscribe(filter{strings.ReplaceAll(f, "R", root), 1})
			for _, topic := range strings.Fields("R R/ R/a R/a/ R/a/b R/a/b/c R//b") {
				c.publish(publish{topic: strings.ReplaceAll(topic, "R", root), payload: "x", qos: 1})
			}
			end := root + "/end-of-" + c.id
			c.subscribe(filter{"/" + end, 1})
			c.publish(publish{topic: "/" + end, qos: 1})
			var got []string
			for p := c.message(); p.topic != "/"+end; p = c.message() {
				if strings.HasPrefix(p.topic, root) { // a leading + matches what other tests publish, too
					got = append(got, strings.Replace(p.topic, root, "R", 1))
				}
			}
			equalList(t, "topics", got, strings.Fields(want)...)
		})
		root = e.unique()
	}
	leading := "/" + e.unique()
	c := e.client(t, v)
	c.subscribe(filter{"+" + leading, 1})
	c.subscribe(filter{leading[1:], 1})
	c.publish(publish{topic: leading, payload: "empty first level", qos: 1})
	equal(t, "payload", c.message().payload, "empty first level")
}

func testBadFilters(t *testing.T, e *env, v byte) {
	for _, f := range []string{"", "#/", "#/a", "a/#/b", "a#", "a/b#", "##", "a+", "+a", "a/b+/c", "++", "a/+#", "a/#+"} {
		t.Run(f, func(t *testing.T) {
			e.violates(t, v, subscribe(v, 1, nil, filter{f, 0}), 0x81, 0x82, 0x8F)
			e.violates(t, v, unsubscribe(v, 1, f), 0x81, 0x82, 0x8F)
		})
	}
}

// testDollar: clients cannot publish on topics that begin with $, and so such filters are refused; a wildcard
// at the front never brings one.
func testDollar(t *testing.T, e *env, v byte) {
	end := "dollar/" + e.unique()
	w := e.client(t, v)
	w.subscribe(filter{"#", 1}, filter{"+/monitor", 1})
	c := e.client(t, v)
	c.send(publish{topic: "$SYS/monitor", payload: "no", qos: 1, id: 1}.encode(v))
	if v == v5 {
		c.expectAck(tPuback, 1, 0x87)
	} else {
		c.expectClosed()
	}
	e.client(t, v).publish(publish{topic: end, qos: 1})
	for p := w.message(); p.topic != end; p = w.message() {
		if strings.HasPrefix(p.topic, "$") {
			t.Errorf("got %q", p.topic)
		}
	}
	refused := map[byte]byte{v4: 0x80, v5: 0x87}[v]
	equalList(t, "codes", w.subscribe(filter{"$SYS/#", 0}), refused)
}

// testNoNormalization uses names that Unicode, letter case or paths would take for one another.
func testNoNormalization(t *testing.T, e *env, v byte) {
	root := "plain/" + e.unique()
	names := []string{
		"\u00E9", "e\u0301", "a", "A", "a/../b", "b", "a//b", "a/b", " a", "a ", "\u212B", "\u00C5", "%61", "\\u0061", "\U0001F697",
		"\uFF0F", "a\u200B",
	}
	var clients []*client
	for _, name := range names {
		c := e.client(t, v)
		c.subscribe(filter{root + "/" + name, 1})
		clients = append(clients, c)
	}
	pub := e.client(t, v)
	for _, name := range names {
		pub.publish(publish{topic: root + "/" + name, payload: name, qos: 1})
	}
	for i, c := range clients {
		equal(t, "payload", c.message().payload, names[i])
		c.nothingBut(t, e, root+"/"+names[i])
	}
}

// testTopicLengths uses the shortest and the longest.
func testTopicLengths(t *testing.T, e *env, v byte) {
	long := "long/" + e.unique() + "/"
	long += strings.Repeat("x", 65_535-len(long))
	c := e.client(t, v)
	c.subscribe(filter{long, 1})
	c.subscribe(filter{versionName(v)[:1], 1}, filter{" ", 1}, filter{"/", 1})
	c.subscribe(filter{long[:65_533] + "/#", 1})
	for _, topic := range []string{long, versionName(v)[:1]} {
		c.publish(publish{topic: topic, payload: "x", qos: 1})
		equal(t, "topic", c.message().topic, topic)
	}
}
