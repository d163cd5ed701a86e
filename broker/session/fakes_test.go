package session

import (
	"slices"
	"strings"
	"sync"
	"time"

	"cellgate/broker/shared/message"
)

type memJournal struct {
	epoch uint64
	wall  func() time.Time // nil: time.Now

	mu   sync.Mutex
	recs []message.Record
	fail error
}

func (j *memJournal) Append(recs []message.Record) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return 0, j.fail
	}
	wall := j.wall
	if wall == nil {
		wall = time.Now
	}
	for i := range recs {
		recs[i].Seq, recs[i].ReceivedAt = uint64(len(j.recs))+1, wall().UnixMilli()
		j.recs = append(j.recs, recs[i].Clone())
	}
	return uint64(len(j.recs)), nil
}

func (j *memJournal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return uint64(len(j.recs))
}

func (j *memJournal) Epoch() uint64 { return j.epoch }

func (j *memJournal) from(seq uint64) []message.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.recs[seq-1:])
}

// lose removes the journal's tail after a sequence, like a crash that loses what was not durable.
func (j *memJournal) lose(after uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.recs = j.recs[:after]
}

func (j *memJournal) setFail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = err
}

func (j *memJournal) topics(seq uint64) []string {
	var out []string
	for _, rec := range j.from(seq) {
		out = append(out, rec.Topic)
	}
	return out
}

// testIndex is an index that tries every filter.
type testIndex struct {
	connected func(string) bool

	mu       sync.RWMutex
	subs     map[string]map[string]Subscription // client, filter
	since    map[string]uint64                  // by client and filter
	retained map[string]*message.Record
}

func (x *testIndex) Subscribe(client string, sub Subscription, since uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.subs[client][sub.Filter]; !known {
		x.since[client+"\x00"+sub.Filter] = since
	}
	if x.subs[client] == nil {
		x.subs[client] = map[string]Subscription{}
	}
	x.subs[client][sub.Filter] = sub
}

func (x *testIndex) Unsubscribe(client, filter string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.subs[client], filter)
}

func (x *testIndex) Count() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := 0
	for _, subs := range x.subs {
		n += len(subs)
	}
	return n
}

func (x *testIndex) Match(rec *message.Record, fn func(string, Matched)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	merged := map[string]*Matched{}
	groups := map[string]map[string]Subscription{}
	for client, subs := range x.subs {
		for filter, sub := range subs {
			_, plain, shared := message.SplitShare(filter)
			switch {
			case !message.Match(plain, rec.Topic), rec.Seq <= x.since[client+"\x00"+filter]:
			case sub.NoLocal && client == rec.Client:
			case !shared:
				merge(merged, client, sub)
			default:
				if groups[filter] == nil {
					groups[filter] = map[string]Subscription{}
				}
				groups[filter][client] = sub
			}
		}
	}
	for _, members := range groups {
		client := x.pick(members)
		merge(merged, client, members[client])
	}
	for client, m := range merged {
		fn(client, *m)
	}
}

// pick returns the first connected member of a group by name, or the first one if none is connected.
func (x *testIndex) pick(members map[string]Subscription) string {
	var names []string
	for client := range members {
		names = append(names, client)
	}
	slices.Sort(names)
	for _, client := range names {
		if x.connected != nil && x.connected(client) {
			return client
		}
	}
	return names[0]
}

func merge(merged map[string]*Matched, client string, sub Subscription) {
	m := merged[client]
	if m == nil {
		m = &Matched{}
		merged[client] = m
	}
	m.QoS = max(m.QoS, sub.QoS)
	m.RetainAsPublished = m.RetainAsPublished || sub.RetainAsPublished
	if sub.ID != 0 {
		m.IDs = append(m.IDs, sub.ID)
		slices.Sort(m.IDs)
	}
	if strings.HasPrefix(sub.Filter, "$share/") {
		m.Shared = append(m.Shared, sub.Filter)
	}
}

func (x *testIndex) Member(filter, _ string) (string, Subscription, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	members := map[string]Subscription{}
	for client, subs := range x.subs {
		if sub, ok := subs[filter]; ok {
			members[client] = sub
		}
	}
	if len(members) == 0 {
		return "", Subscription{}, false
	}
	client := x.pick(members)
	return client, members[client], true
}

func (x *testIndex) Retain(msg *message.Record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(msg.Payload) == 0 {
		delete(x.retained, msg.Topic)
		return
	}
	x.retained[msg.Topic] = msg
}

func (x *testIndex) Retained(filter string, _ *RetainedAt, _ int, fn func(*message.Record)) (more bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for topic, msg := range x.retained {
		if message.Match(filter, topic) {
			fn(msg)
		}
	}
	return false
}
