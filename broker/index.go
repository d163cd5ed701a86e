package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Index implements session.Index with mochi's topic index. It persists nothing.
//
// mochi finds the filters that match a topic; every filter is entered there once. A table of our own holds the
// subscribers of each filter, because mochi copies a map of all subscribers for each message, loses no-local and
// retain-as-published when it merges overlapping subscriptions, and does not know which members of a shared group are
// connected.
type Index struct {
	topics    *mqtt.TopicsIndex
	retained  retainedTopics
	connected atomic.Pointer[func(client string) bool]
	count     atomic.Int64
	deepest   atomic.Int64 // levels of the deepest filter so far

	mu      sync.RWMutex
	filters map[string]*filter // by nameFor
}

// filter holds the subscriptions to one filter.
type filter struct {
	shared bool
	// members is append-only; any other change replaces the slice. Readers need no lock.
	members []member
	at      map[string]int // index in members, by client
	turn    int            // shared filters: the next member's turn
}

// member is one client's subscription to a filter. It begins after record since.
type member struct {
	client string
	sub    session.Subscription
	since  uint64
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{topics: mqtt.NewTopicsIndex(), retained: newRetainedTopics(), filters: make(map[string]*filter)}
}

// PreferConnected sets the function that reports whether a client is connected. A shared group's messages go to
// connected members first. Without it every client counts as connected.
func (x *Index) PreferConnected(connected func(client string) bool) { x.connected.Store(&connected) }

// Subscribe implements session.Index. It ignores filters that mochi treats as shared and MQTT does not ($SHARE/… in any
// case except $share): they match nothing that a client may publish.
func (x *Index) Subscribe(client string, sub session.Subscription, since uint64) {
	_, plain, shared := message.SplitShare(sub.Filter)
	if first, _, _ := strings.Cut(plain, "/"); strings.EqualFold(first, mqtt.SharePrefix) {
		return
	}
	if levels := int64(message.Levels(plain)); levels > x.deepest.Load() {
		x.deepest.Store(levels) // the manager's lock serialises Subscribe
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	name := nameFor(client, sub.Filter, shared)
	f := x.filters[name]
	if f == nil {
		f = &filter{shared: shared, at: make(map[string]int, 1)}
		name = strings.Clone(name)
		x.filters[name] = f
		for held, entry := range entries(name, plain) {
			x.topics.Subscribe(held, packets.Subscription{Filter: entry})
		}
	}
	if i, known := f.at[client]; known {
		f.members = slices.Clone(f.members)
		f.members[i].sub = sub
		return
	}
	client = strings.Clone(client)
	f.at[client] = len(f.members)
	f.members = append(f.members, member{client, sub, since})
	x.count.Add(1)
}

// nameFor returns the key of a filter: the filter itself, $share/{group} included. A shared filter's key also has the
// client's role and issuer, so that clients of different roles or issuers never share a group.
func nameFor(client, filter string, shared bool) string {
	if id, _, _ := message.SplitSessionKey(client); shared {
		return filter + client[len(id):]
	}
	return filter
}

// Unsubscribe implements session.Index.
func (x *Index) Unsubscribe(client, topicFilter string) {
	_, plain, shared := message.SplitShare(topicFilter)
	name := nameFor(client, topicFilter, shared)
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.filters[name]
	if f == nil {
		return
	}
	i, known := f.at[client]
	if !known {
		return
	}
	x.count.Add(-1)
	if f.remove(client, i); len(f.members) > 0 {
		return
	}
	delete(x.filters, name)
	for held, entry := range entries(name, plain) {
		x.topics.Unsubscribe(entry, held)
	}
}

// remove removes a client and moves the last member into its place.
func (f *filter) remove(client string, i int) {
	last := len(f.members) - 1
	members := slices.Clone(f.members)
	members[i], members[last] = members[last], member{}
	f.members = members[:last]
	if delete(f.at, client); i < last {
		f.at[members[i].client] = i
	}
}

// Count implements session.Index.
func (x *Index) Count() int { return int(x.count.Load()) }

// entries returns the filters to enter in mochi's index, by the name of each entry. a/+/# needs an entry for its parent
// level too: it matches a/b (MQTT 5, 4.7.1.2), which mochi misses.
func entries(name, plain string) map[string]string {
	all := map[string]string{name: plain}
	if parent, ok := strings.CutSuffix(plain, "/#"); ok && (parent == "+" || strings.HasSuffix(parent, "/+")) {
		all[name+parentMark] = parent
	}
	return all
}

// parentMark ends the name of a filter's second entry. Filters cannot contain a null character.
const parentMark = "\x00"

// shallow cuts a topic to one level more than the deepest filter has, because mochi's search is quadratic in the
// topic's levels. The same filters match: filters without # do not match deeper topics, and those with # match all of
// them.
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
	found := x.topics.Subscribers(x.shallow(rec.Topic)).Subscriptions
	if len(found) == 1 {
		for held := range found {
			x.matchOne(held, rec, fn)
		}
		return
	}
	matches := make(map[string]*session.Matched, len(found))
	for held := range found {
		for _, m := range x.chosen(strings.TrimSuffix(held, parentMark)) {
			matched := matches[m.client]
			if matched == nil {
				matched = &session.Matched{}
			}
			if m.matches(rec, matched) {
				matches[m.client] = matched
			}
		}
	}
	for client, matched := range matches {
		fn(client, *matched)
	}
}

// matchOne is Match where one filter alone has subscriptions: no client has two that match.
func (x *Index) matchOne(held string, rec *message.Record, fn func(client string, m session.Matched)) {
	for _, m := range x.chosen(strings.TrimSuffix(held, parentMark)) {
		if matched := (session.Matched{}); m.matches(rec, &matched) {
			fn(m.client, matched)
		}
	}
}

// matches merges the subscription into matched and reports whether it matches the record: the client gets one copy,
// with the highest QoS and all subscription identifiers (MQTT 5, 3.3.4). A no-local subscription does not match the
// client's own messages; shared subscriptions cannot be no-local.
func (m *member) matches(rec *message.Record, matched *session.Matched) bool {
	if (m.sub.NoLocal && m.client == rec.Client) || (rec.Seq != 0 && rec.Seq <= m.since) {
		return false
	}
	matched.QoS = max(matched.QoS, m.sub.QoS)
	matched.RetainAsPublished = matched.RetainAsPublished || m.sub.RetainAsPublished
	if m.sub.ID != 0 {
		matched.IDs = append(matched.IDs, m.sub.ID)
	}
	if _, _, shared := message.SplitShare(m.sub.Filter); shared {
		matched.Shared = append(matched.Shared, m.sub.Filter)
	}
	return true
}

// chosen returns the members of a filter that get a message: all, or one of a shared group.
func (x *Index) chosen(name string) []member {
	x.mu.RLock()
	f := x.filters[name]
	var members []member
	if f != nil {
		members = f.members
	}
	x.mu.RUnlock()
	if f == nil || !f.shared {
		return members
	}
	return x.choose(f, members)
}

// Member implements session.Index.
func (x *Index) Member(filter, of string) (client string, sub session.Subscription, ok bool) {
	for _, m := range x.chosen(nameFor(of, filter, true)) {
		return m.client, m.sub, true
	}
	return "", session.Subscription{}, false
}

// choose picks one member of a shared group: in turn, by their order in members, among the connected ones, or among all
// if none is connected.
func (x *Index) choose(f *filter, members []member) []member {
	x.mu.Lock()
	turn := f.turn
	f.turn++
	x.mu.Unlock()
	candidates := members
	if connected := x.connected.Load(); connected != nil {
		candidates = make([]member, 0, len(members))
		for _, m := range members {
			if (*connected)(m.client) {
				candidates = append(candidates, m)
			}
		}
		if len(candidates) == 0 {
			candidates = members
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	i := turn % len(candidates)
	return candidates[i : i+1]
}

// Retain implements session.Index.
func (x *Index) Retain(msg *message.Record) { x.retained.retain(msg) }

// Retained implements session.Index.
func (x *Index) Retained(filter string, at *session.RetainedAt, most int, fn func(*message.Record)) (more bool) {
	return x.retained.match(filter, at, most, fn)
}
