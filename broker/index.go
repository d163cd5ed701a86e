package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cellgate/broker/message"
	"cellgate/broker/session"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Index is session.Index on mochi's topic index. It persists nothing.
//
// Every subscription is entered with a number of its own in the place of the subscription identifier. What
// mochi finds is then looked up by number: its own merging of overlapping subscriptions loses no-local and
// retain-as-published, and its choice among the members of a shared group does not know who is connected.
type Index struct {
	topics    *mqtt.TopicsIndex
	retained  retainedTopics
	connected atomic.Pointer[func(client string) bool]
	count     atomic.Int64

	mu      sync.RWMutex
	numbers map[subscriber]int
	subs    map[int]session.Subscription
	last    int
	groups  map[string]*group // by shared filter
}

type subscriber struct{ client, filter string }

// group is a shared filter's.
type group struct {
	members int
	turn    int // whose turn it is
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{
		topics: mqtt.NewTopicsIndex(), retained: retainedTopics{byBranch: make(map[string]map[string]*message.Record)},
		numbers: make(map[subscriber]int), subs: make(map[int]session.Subscription), groups: make(map[string]*group),
	}
}

// PreferConnected tells the index which clients are connected, so that a shared group's message goes to a
// member that can take it now. Before it is called every client counts as connected.
func (x *Index) PreferConnected(connected func(client string) bool) { x.connected.Store(&connected) }

// Subscribe implements session.Index. Filters that mochi would take for shared ones although MQTT does not
// ($SHARE/… in any other case than $share) match nothing that a client may publish, and are left out.
func (x *Index) Subscribe(client string, sub session.Subscription) {
	if !indexable(sub.Filter) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	key := subscriber{strings.Clone(client), sub.Filter}
	n, known := x.numbers[key]
	if !known {
		x.last++
		n = x.last
		x.numbers[key] = n
		x.count.Add(1)
		x.joinLocked(sub.Filter, 1)
	}
	x.subs[n] = sub
	for i, filter := range entries(sub.Filter) {
		x.topics.Subscribe(holder(key.client, i > 0), packets.Subscription{Filter: filter, Qos: sub.QoS, Identifier: n})
	}
}

// Unsubscribe implements session.Index.
func (x *Index) Unsubscribe(client, filter string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := subscriber{client, filter}
	n, known := x.numbers[key]
	if !known {
		return
	}
	delete(x.numbers, key)
	delete(x.subs, n)
	x.count.Add(-1)
	for i, entry := range entries(filter) {
		x.topics.Unsubscribe(entry, holder(client, i > 0))
	}
	x.joinLocked(filter, -1)
}

func (x *Index) joinLocked(filter string, n int) {
	if _, _, shared := message.SplitShare(filter); !shared {
		return
	}
	g := x.groups[filter]
	if g == nil {
		g = new(group)
		x.groups[filter] = g
	}
	if g.members += n; g.members == 0 {
		delete(x.groups, filter)
	}
}

// Count implements session.Index.
func (x *Index) Count() int { return int(x.count.Load()) }

// indexable reports whether mochi reads the filter's prefix as MQTT does.
func indexable(filter string) bool {
	first, _, _ := strings.Cut(filter, "/")
	return !strings.EqualFold(first, mqtt.SharePrefix) || first == "$share"
}

// entries are the filters under which mochi has to hold a filter: a/+/# also matches a/b (MQTT 5, 4.7.1.2),
// which mochi's index misses.
func entries(filter string) []string {
	if parent, ok := strings.CutSuffix(filter, "/#"); ok && (parent == "+" || strings.HasSuffix(parent, "/+")) {
		return []string{filter, parent}
	}
	return []string{filter}
}

// parentMark is behind the name of a client whose second entry it is: the client may have a subscription to the
// parent of its own, which is another one. No client identifier has a null character.
const parentMark = "\x00"

// holder is the name under which mochi holds a client's entry.
func holder(client string, parent bool) string {
	if parent {
		return client + parentMark
	}
	return client
}

// Match implements session.Index.
func (x *Index) Match(topic, publisher string, fn func(client string, m session.Matched)) {
	if x.Count() == 0 || topic == "" {
		return
	}
	found := x.topics.Subscribers(topic)
	if len(found.Subscriptions) == 0 && len(found.Shared) == 0 {
		return
	}
	matches := make(map[string]*session.Matched, len(found.Subscriptions)+len(found.Shared))
	x.mu.Lock()
	for held, sub := range found.Subscriptions {
		client := strings.TrimSuffix(held, parentMark)
		for _, n := range sub.Identifiers {
			x.mergeLocked(matches, client, n, client == publisher)
		}
	}
	for filter, members := range found.Shared {
		for _, parent := range []bool{false, true} {
			if client, n, ok := x.selectLocked(filter, members, parent); ok {
				x.mergeLocked(matches, client, n, false) // no local is not allowed on shared ones
			}
		}
	}
	x.mu.Unlock()
	for client, m := range matches {
		fn(client, *m)
	}
}

// mergeLocked adds subscription n to what its client gets: one copy, with the highest QoS and all
// subscription identifiers (MQTT 5, 3.3.4). Of what the client publishes itself a subscription with no local
// gets nothing.
func (x *Index) mergeLocked(matches map[string]*session.Matched, client string, n int, own bool) {
	sub, ok := x.subs[n]
	if !ok || (own && sub.NoLocal) { // gone since mochi was asked, or not for it
		return
	}
	m := matches[client]
	if m == nil {
		m = &session.Matched{}
		matches[client] = m
	}
	m.QoS = max(m.QoS, sub.QoS)
	m.RetainAsPublished = m.RetainAsPublished || sub.RetainAsPublished
	if sub.ID != 0 {
		m.IDs = append(m.IDs, sub.ID)
	}
	if _, _, shared := message.SplitShare(sub.Filter); shared {
		m.Shared = append(m.Shared, sub.Filter)
	}
}

// Member implements session.Index.
func (x *Index) Member(filter, topic string) (client string, sub session.Subscription, ok bool) {
	shared := x.topics.Subscribers(topic).Shared
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, entry := range entries(filter) {
		client, n, found := x.selectLocked(entry, shared[entry], i > 0)
		if sub, ok := x.subs[n]; found && ok {
			return client, sub, true
		}
	}
	return "", session.Subscription{}, false
}

// selectLocked picks one member of a shared group: the connected ones in turn, in an order that does not
// change from call to call; all of them in turn when none is connected. members are what mochi holds under the
// filter; with parent the group is the one whose second entry that is: see entries.
func (x *Index) selectLocked(filter string, members map[string]packets.Subscription, parent bool) (client string, n int, ok bool) {
	g := x.groups[filter]
	if parent {
		g = x.groups[filter+"/#"]
	}
	if g == nil {
		return "", 0, false
	}
	connected := func(string) bool { return true }
	if fn := x.connected.Load(); fn != nil {
		connected = *fn
	}
	all := make([]string, 0, len(members))
	for held := range members {
		if c, isParent := strings.CutSuffix(held, parentMark); isParent == parent {
			all = append(all, c)
		}
	}
	candidates := make([]string, 0, len(all))
	for _, c := range all {
		if connected(c) {
			candidates = append(candidates, c)
		}
	}
	if len(candidates) == 0 {
		candidates = all
	}
	if len(candidates) == 0 {
		return "", 0, false
	}
	slices.Sort(candidates)
	client = candidates[g.turn%len(candidates)]
	g.turn++
	return client, members[holder(client, parent)].Identifier, true
}

// Retain implements session.Index.
func (x *Index) Retain(msg *message.Record) { x.retained.retain(msg) }

// Retained implements session.Index.
func (x *Index) Retained(filter string, fn func(*message.Record)) { x.retained.match(filter, fn) }
