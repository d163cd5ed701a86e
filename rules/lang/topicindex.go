package lang

import (
	"slices"
	"strings"
)

// topicIndex finds the rules whose filters match a topic. It is a tree of topic levels: the cost of a lookup depends on
// the topic's levels and the matching rules, not on the number of other rules.
type topicIndex struct {
	root  topicNode
	lists [][]uint16 // each the rules whose filters end at the same node, ascending
}

type topicNode struct {
	levels map[string]*topicNode
	plus   *topicNode
	rules  int // 1-based list of the rules whose filters end here; 0: none
	below  int // the same for filters that end here with '#'
}

// add adds a valid filter. Add rules in ascending order.
func (x *topicIndex) add(filter string, rule uint16) {
	n := &x.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" {
			x.enter(&n.below, rule)
			return
		}
		n = n.child(level)
	}
	x.enter(&n.rules, rule)
}

func (x *topicIndex) enter(list *int, rule uint16) {
	if *list == 0 {
		x.lists = append(x.lists, nil)
		*list = len(x.lists)
	}
	l := &x.lists[*list-1]
	if n := len(*l); n == 0 || (*l)[n-1] != rule {
		*l = append(*l, rule)
	}
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

// match appends the lists of the rules whose filters match the topic. Wildcards in the first level do not match topics
// that begin with '$' (MQTT 5, 4.7.2). It allocates only if out must grow.
func (x *topicIndex) match(topic string, out []int) []int {
	if strings.HasPrefix(topic, "$") {
		level, rest, more := strings.Cut(topic, "/")
		if c := x.root.levels[level]; c != nil {
			return c.match(rest, more, out)
		}
		return out
	}
	return x.root.match(topic, true, out)
}

// rules appends the rules whose filters match the topic, each once, ascending.
func (x *topicIndex) rules(topic string, out []uint16) []uint16 {
	from := len(out)
	for _, list := range x.match(topic, nil) {
		out = append(out, x.lists[list]...)
	}
	slices.Sort(out[from:])
	return out[:from+len(slices.Compact(out[from:]))]
}

func (n *topicNode) match(topic string, more bool, out []int) []int {
	if n.below > 0 {
		out = append(out, n.below-1)
	}
	if !more {
		if n.rules > 0 {
			out = append(out, n.rules-1)
		}
		return out
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
