package lang

import (
	"slices"
	"strings"
)

// topicIndex finds the rules whose filters match a topic. It is a tree of topic levels, so the cost of a
// look-up depends on the topic's levels and on the rules that match, not on those that do not.
type topicIndex struct {
	root topicNode
}

type topicNode struct {
	levels map[string]*topicNode
	plus   *topicNode
	rules  []uint16 // whose filters end here
	below  []uint16 // whose filters end here with '#'
}

// add enters a valid filter.
func (x *topicIndex) add(filter string, rule uint16) {
	n := &x.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" {
			n.below = append(n.below, rule)
			return
		}
		n = n.child(level)
	}
	n.rules = append(n.rules, rule)
}

func (n *topicNode) child(level string) *topicNode {
	if level == "+" {
		if n.plus == nil {
			n.plus = &topicNode{}
		}
		return n.plus
	}
	if n.levels == nil {
		n.levels = map[string]*topicNode{}
	}
	c := n.levels[level]
	if c == nil {
		c = &topicNode{}
		n.levels[level] = c
	}
	return c
}

// match appends the rules whose filters match the topic, each once, ascending. Wildcards in the first
// level do not match topics that begin with '$' (MQTT 5, 4.7.2). It allocates only to grow out.
func (x *topicIndex) match(topic string, out []uint16) []uint16 {
	from := len(out)
	if strings.HasPrefix(topic, "$") {
		level, rest, more := strings.Cut(topic, "/")
		if c := x.root.levels[level]; c != nil {
			out = c.match(rest, more, out)
		}
	} else {
		out = x.root.match(topic, true, out)
	}
	if found := out[from:]; len(found) > 1 {
		slices.Sort(found)
		out = out[:from+len(slices.Compact(found))]
	}
	return out
}

func (n *topicNode) match(topic string, more bool, out []uint16) []uint16 {
	out = append(out, n.below...)
	if !more {
		return append(out, n.rules...)
	}
	level, rest, more := strings.Cut(topic, "/")
	if c := n.levels[level]; c != nil {
		out = c.match(rest, more, out)
	}
	if n.plus != nil {
		out = n.plus.match(rest, more, out)
	}
	return out
}
