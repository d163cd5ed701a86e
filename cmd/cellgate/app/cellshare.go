package app

import (
	"hash/fnv"
	"strconv"
	"time"

	"cellgate/broker/shared/kafkaclient"
)

// alive returns the living gateways as Redis last answered, always including this one. While Redis is away, and until all had the time for a
// heartbeat since, no gateway is taken for dead.
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

// first reports whether this gateway does a task that any gateway can do and one should: its name and the task's have
// the highest hash (rendezvous hashing). A gateway that comes or goes moves only its own tasks.
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
	n := h.Sum64() // similar names have similar hashes, so it is mixed
	n = (n ^ n>>33) * 0xff51afd7ed558ccd
	n = (n ^ n>>33) * 0xc4ceb9fe1a85ec53
	return n ^ n>>33
}

// part returns this gateway's share of the limits towards a centre: living gateways share equally.
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
