package app

import (
	"hash/fnv"
	"strconv"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// alive are the gateways that live, as Redis last told: this one always. While Redis is away nobody is taken for dead.
func (l *liveness) alive() []string {
	all, _ := l.gateways()
	names := []string{l.self.Node}
	for _, g := range all {
		if g.Lives && g.Node != l.self.Node {
			names = append(names, g.Node)
		}
	}
	return names
}

// first divides what each of several gateways can do, and one should: it is this gateway's when its name and that of the thing have
// the highest hash. One that comes or goes moves its own part alone.
func (l *liveness) first(topic string, id int) bool {
	mine := shareRank(l.self.Node, topic, id)
	for _, other := range l.alive()[1:] {
		if its := shareRank(other, topic, id); its > mine || its == mine && other > l.self.Node {
			return false
		}
	}
	return true
}

func shareRank(node, topic string, id int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "/" + topic + "/" + strconv.Itoa(id)))
	n := h.Sum64() // of names that begin alike it is close, so it is mixed
	n = (n ^ n>>33) * 0xff51afd7ed558ccd
	n = (n ^ n>>33) * 0xc4ceb9fe1a85ec53
	return n ^ n>>33
}

// part is this gateway's part of what the cell may send to a centre: the living ones have as much each.
func (c *centres) part(of func(time.Time) kafkaclient.FlowLimits) func(time.Time) kafkaclient.FlowLimits {
	if c.member == nil {
		return of
	}
	return func(now time.Time) kafkaclient.FlowLimits {
		limits, n := of(now), int64(len(c.liveness.alive()))
		divide := func(rate *int64) {
			if *rate > 0 { // 0 is no limit
				*rate = max(1, *rate/n)
			}
		}
		divide(&limits.Rate)
		for i := range limits.Rates {
			divide(&limits.Rates[i])
		}
		return limits
	}
}
