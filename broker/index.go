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
	deepest   atomic.Int64 // levels of the deepest filter there was

	mu      sync.RWMutex
	numbers map[subscriber]int
	subs    map[int]numbered
	last    int
	groups  map[string]*group // by shared filter
}

type subscriber struct{ client, filter string }

// numbered is a subscription, and the record behind which it begins.
type numbered struct {
	session.Subscription
	since uint64
}

// group is a shared filter's.
type group struct {
	members int
	turn    int // whose turn it is
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{
		topics: mqtt.NewTopicsIndex(), retained: newRetainedTopics(),
		numbers: make(map[subscriber]int), subs: make(map[int]numbered), groups: make(map[string]*group),
	}
}

// PreferConnected tells the index which clients are connected, so that a shared group's message goes to a
// member that can take it now. Before it is called every client counts as connected.
func (x *Index) PreferConnected(connected func(client string) bool) { x.connected.Store(&connected) }

// Subscribe implements session.Index. Filters that mochi would take for shared ones although MQTT does not
// ($SHARE/… in any other case than $share) match nothing that a client may publish, and are left out.
func (x *Index) Subscribe(client string, sub session.Subscription, since uint64) {
	if !indexable(sub.Filter) {
		return
	}
	if levels := int64(strings.Count(sub.Filter, "/") + 1); levels > x.deepest.Load() {
		x.deepest.Store(levels) // nobody enters another meanwhile: the manager's lock
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
	} else {
		since = x.subs[n].since
	}
	x.subs[n] = numbered{sub, since}
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

// shallow cuts a topic behind one level more than the deepest filter has. The same filters match it: one that ends in a
// level of its own does not match more levels, and one that ends in # matches them all. mochi's search is quadratic
// in the levels of a topic.
func (x *Index) shallow(topic string) string {
	at := 0
	for range x.deepest.Load() + 1 {
		next := strings.IndexByte(topic[at:], '/')
		if next < 0 {
			return topic
		}
		at += next + 1
	}
	return topic[:at-1]
}

// Match implements session.Index.
func (x *Index) Match(rec *message.Record, fn func(client string, m session.Matched)) {
	if x.Count() == 0 || rec.Topic == "" {
		return
	}
	found := x.topics.Subscribers(x.shallow(rec.Topic))
	if len(found.Subscriptions) == 0 && len(found.Shared) == 0 {
		return
	}
	matches := make(map[string]*session.Matched, len(found.Subscriptions)+len(found.Shared))
	for held, sub := range found.Subscriptions {
		client := strings.TrimSuffix(held, parentMark)
		for _, n := range sub.Identifiers {
			x.merge(matches, client, n, rec, client == rec.Client)
		}
	}
	for filter, members := range found.Shared {
		for _, parent := range []bool{false, true} {
			if client, n, ok := x.choose(filter, members, parent); ok {
				x.merge(matches, client, n, rec, false) // no local is not allowed on shared ones
			}
		}
	}
	for client, m := range matches {
		fn(client, *m)
	}
}

// merge adds subscription n to what its client gets: one copy, with the highest QoS and all
// subscription identifiers (MQTT 5, 3.3.4). Of what the client publishes itself a subscription with no local
// gets nothing. The lock is taken for each: who subscribes does not wait for a message with thousands of subscribers.
func (x *Index) merge(matches map[string]*session.Matched, client string, n int, rec *message.Record, own bool) {
	x.mu.RLock()
	sub, ok := x.subs[n]
	x.mu.RUnlock()
	if !ok || (own && sub.NoLocal) || (rec.Seq != 0 && rec.Seq <= sub.since) { // gone since mochi was asked, or not for it
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
	shared := x.topics.Subscribers(x.shallow(topic)).Shared
	for i, entry := range entries(filter) {
		client, n, found := x.choose(entry, shared[entry], i > 0)
		x.mu.RLock()
		sub, ok := x.subs[n]
		x.mu.RUnlock()
		if found && ok {
			return client, sub.Subscription, true
		}
	}
	return "", session.Subscription{}, false
}

// choose picks one member of a shared group: the connected ones in turn, in an order that does not
// change from call to call; all of them in turn when none is connected. members are what mochi holds under the
// filter; with parent the group is the one whose second entry that is: see entries.
func (x *Index) choose(filter string, members map[string]packets.Subscription, parent bool) (client string, n int, ok bool) {
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
	if parent {
		filter += "/#"
	}
	turn, ok := x.turn(filter)
	if !ok {
		return "", 0, false
	}
	client = candidates[turn%len(candidates)]
	return client, members[holder(client, parent)].Identifier, true
}

// turn is a running number of a shared filter's group; false when it has no member any more.
func (x *Index) turn(filter string) (int, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.groups[filter]
	if g == nil {
		return 0, false
	}
	g.turn++
	return g.turn - 1, true
}

// Retain implements session.Index.
func (x *Index) Retain(msg *message.Record) { x.retained.retain(msg) }

// Retained implements session.Index.
func (x *Index) Retained(filter string, at *session.RetainedAt, most int, fn func(*message.Record)) (more bool) {
	return x.retained.match(filter, at, most, fn)
}
