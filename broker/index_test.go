package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

func matches(x *Index, topic string) map[string]session.Matched { return matchesOf(x, topic, "") }

func matchesOf(x *Index, topic, publisher string) map[string]session.Matched {
	got := map[string]session.Matched{}
	x.Match(&message.Record{Topic: topic, Client: publisher, Seq: 1}, func(client string, m session.Matched) {
		m.IDs = slices.Sorted(slices.Values(m.IDs))
		if _, twice := got[client]; twice {
			got[client+" twice"] = m
		}
		got[client] = m
	})
	return got
}

func clients(x *Index, topic string) []string {
	return slices.Sorted(maps.Keys(matches(x, topic)))
}

func TestIndexMatch(t *testing.T) {
	t.Parallel()
	filters := []string{
		"a", "a/b", "a/+", "a/#", "+", "#", "+/+", "+/#", "v1/+/#", "v1/+/up/#", "v1/+/+/x", "/", "/+", "a//b", "$SYS/#", "$SYS/+",
		"$share", "$share/x", "$SHARE/g/a",
	}
	topics := []string{"a", "a/b", "a/b/c", "v1", "v1/X", "v1/X/up", "v1/X/up/telemetry", "v1/X/y/x", "/", "/a", "a//b", "$SYS/x", "b"}
	x := NewIndex()
	for _, f := range filters {
		x.Subscribe(f, session.Subscription{Filter: f}, 0)
	}
	for _, topic := range topics {
		var want []string
		for _, f := range filters {
			if message.ValidFilter(f) == nil && message.Match(f, topic) {
				want = append(want, f)
			}
		}
		slices.Sort(want)
		if got := clients(x, topic); !slices.Equal(got, want) {
			t.Errorf("%s is matched by %q, want %q", topic, got, want)
		}
	}
	for _, f := range filters {
		x.Unsubscribe(f, f)
		x.Unsubscribe(f, f)
	}
	if x.Count() != 0 {
		t.Errorf("%d subscriptions are left", x.Count())
	}
	for _, topic := range topics {
		if got := clients(x, topic); len(got) != 0 {
			t.Errorf("%s is still matched by %q", topic, got)
		}
	}
}

// Overlapping subscriptions merge into one, with the highest QoS and every identifier.
func TestIndexMerge(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	x.Subscribe("c", session.Subscription{Filter: "a/#", QoS: 2, ID: 7, NoLocal: true, RetainAsPublished: true}, 0)
	x.Subscribe("c", session.Subscription{Filter: "a/+", QoS: 0, NoLocal: true}, 0)
	x.Subscribe("c", session.Subscription{Filter: "a/b", QoS: 1, ID: 9}, 0)
	want := session.Matched{QoS: 2, RetainAsPublished: true, IDs: []uint32{7, 9}}
	if got := matches(x, "a/b"); len(got) != 1 || fmt.Sprint(got["c"]) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := matchesOf(x, "a/c", "c"); len(got) != 0 {
		t.Errorf("%+v: no local is lost where all have it", got)
	}
	want = session.Matched{QoS: 1, IDs: []uint32{9}}
	if got := matchesOf(x, "a/b", "c"); len(got) != 1 || fmt.Sprint(got["c"]) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v: what has no local counts for an own message", got, want)
	}
	x.Subscribe("c", session.Subscription{Filter: "a/#", QoS: 0, ID: 8}, 0) // replaces
	if got := matches(x, "a/c")["c"]; got.QoS != 0 || !slices.Equal(got.IDs, []uint32{8}) || x.Count() != 3 {
		t.Errorf("%+v, %d subscriptions", got, x.Count())
	}
}

func TestIndexShared(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	for _, c := range []string{"a", "b", "c"} {
		x.Subscribe(c, session.Subscription{Filter: "$share/g/t/#", QoS: 1}, 0)
	}
	x.Subscribe("d", session.Subscription{Filter: "$share/h/t/#", QoS: 1}, 0)
	x.Subscribe("a", session.Subscription{Filter: "t/x", QoS: 2, ID: 5}, 0)
	count := map[string]int{}
	for range 30 {
		for _, c := range clients(x, "t/y") {
			count[c]++
		}
	}
	if want := map[string]int{"a": 10, "b": 10, "c": 10, "d": 30}; !maps.Equal(count, want) {
		t.Errorf("members in turn: %v", count)
	}
	x.PreferConnected(func(client string) bool { return client == "b" })
	for range 5 {
		if got := clients(x, "t"); !slices.Equal(got, []string{"b", "d"}) {
			t.Errorf("%q, want the one that is connected", got)
		}
	}
	x.PreferConnected(func(string) bool { return false })
	if got := clients(x, "t/y"); len(got) != 2 {
		t.Errorf("%q: nobody connected is no reason to lose it", got)
	}
	for _, c := range []string{"a", "b", "c"} {
		x.Unsubscribe(c, "$share/g/t/#")
	}
	if got := clients(x, "t/y"); !slices.Equal(got, []string{"d"}) || len(x.filters) != 2 {
		t.Errorf("%q, %d filters", got, len(x.filters))
	}
}

// TestIndexSharesAmongItsOwn checks that clients of different issuers or roles never share a group, even with the same
// group name: each group gets every message.
func TestIndexSharesAmongItsOwn(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	key := message.SessionKey
	one, two := key("one", "service", "cell"), key("two", "service", "cell")
	other, operator := key("one", "service", "https://idp"), key("one", "operator", "cell")
	for _, c := range []string{one, two, other, operator} {
		x.Subscribe(c, session.Subscription{Filter: "$share/g/t/+/#", QoS: 1}, 0)
	}
	count := map[string]int{}
	for _, topic := range []string{"t/y", "t/y/z"} {
		for range 10 {
			for _, c := range clients(x, topic) {
				count[c]++
			}
		}
	}
	if want := map[string]int{one: 10, two: 10, other: 20, operator: 20}; !maps.Equal(count, want) {
		t.Errorf("members in turn: %v", count)
	}
	x.Unsubscribe(two, "$share/g/t/+/#")
	for range 3 {
		if client, _, ok := x.Member("$share/g/t/+/#", two); client != one || !ok {
			t.Errorf("%q takes over from %q", client, two)
		}
	}
	for _, c := range []string{one, other, operator} {
		x.Unsubscribe(c, "$share/g/t/+/#")
	}
	if _, _, ok := x.Member("$share/g/t/+/#", two); ok || len(x.filters) != 0 || len(clients(x, "t/y")) != 0 {
		t.Errorf("%d filters are left", len(x.filters))
	}
}

func TestIndexSharedWildcardParent(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	x.Subscribe("a", session.Subscription{Filter: "$share/g/v1/+/#", QoS: 1}, 0)
	x.Subscribe("b", session.Subscription{Filter: "$share/g/v1/+/#", QoS: 1}, 0)
	for _, topic := range []string{"v1/X", "v1/X/up/y"} {
		if got := clients(x, topic); len(got) != 1 {
			t.Errorf("%s: %q, want one member", topic, got)
		}
	}
}

func TestRetained(t *testing.T) {
	t.Parallel()
	topics := []string{"a", "a/b", "a/b/c", "v1/X", "v1/X/up/t", "v1/X/up/u", "v1/Y/up/t", "$SYS/x"}
	x := NewIndex()
	for _, topic := range topics {
		x.Retain(&message.Record{Topic: topic, Payload: []byte("x")})
	}
	for _, filter := range []string{"#", "+", "a", "a/#", "a/+", "v1/X", "v1/X/#", "v1/X/up/+", "v1/+/up/t", "v1/X/up/t", "$SYS/#", "none/#"} {
		var got, want []string
		x.Retained(filter, &session.RetainedAt{}, 1000, func(r *message.Record) { got = append(got, r.Topic) })
		slices.Sort(got)
		for _, topic := range topics {
			if message.Match(filter, topic) {
				want = append(want, topic)
			}
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	for _, topic := range topics {
		x.Retain(&message.Record{Topic: topic})
	}
	if n := len(x.retained.branches.at); n != 0 {
		t.Errorf("%d branches are left", n)
	}
}

// a/+/# is also entered as a/+. That must not affect the client's own subscription to a/+, or another group's.
func TestIndexWildcardParentIsNotAnother(t *testing.T) {
	t.Parallel()
	subscribe := func(x *Index, order ...string) {
		for _, f := range order {
			x.Subscribe("c", session.Subscription{Filter: f, ID: uint32(len(f))}, 0)
		}
	}
	for _, order := range [][]string{{"a/+", "a/+/#"}, {"a/+/#", "a/+"}} {
		x := NewIndex()
		subscribe(x, order...)
		if got := matches(x, "a/b")["c"].IDs; !slices.Equal(got, []uint32{3, 5}) {
			t.Errorf("%q: identifiers %v", order, got)
		}
		for _, gone := range order {
			x.Unsubscribe("c", gone)
			if got := clients(x, "a/b"); !slices.Equal(got, []string{"c"}) {
				t.Errorf("%q, %s unsubscribed: %q", order, gone, got)
			}
			subscribe(x, gone)
		}
	}
	x := NewIndex()
	x.Subscribe("c", session.Subscription{Filter: "$share/g/a/+"}, 0)
	x.Subscribe("d", session.Subscription{Filter: "$share/g/a/+/#"}, 0)
	for range 2 {
		if got := clients(x, "a/b"); !slices.Equal(got, []string{"c", "d"}) {
			t.Errorf("shared: %q, want a member of each", got)
		}
	}
	if client, _, _ := x.Member("$share/g/a/+/#", "c"); client != "d" {
		t.Errorf("member %q", client)
	}
	if client, _, _ := x.Member("$share/g/a/+", "d"); client != "c" {
		t.Errorf("member %q", client)
	}
}

// Members of a filter are added and removed in any order, also during Match.
func TestIndexMembers(t *testing.T) {
	t.Parallel()
	x := NewIndex()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			seen := map[string]bool{}
			x.Match(&message.Record{Topic: "t", Seq: 1}, func(client string, m session.Matched) {
				if seen[client] || m.QoS != 1 {
					t.Errorf("%s twice, or at QoS %d", client, m.QoS)
				}
				seen[client] = true
			})
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	there := map[string]bool{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		client := "c" + strconv.Itoa(rnd.IntN(50))
		if rnd.IntN(2) == 0 {
			x.Subscribe(client, session.Subscription{Filter: "t", QoS: 1, ID: rnd.Uint32N(3)}, 0)
			there[client] = true
		} else {
			x.Unsubscribe(client, "t")
			delete(there, client)
		}
		if x.Count() != len(there) {
			t.Fatalf("%d subscriptions, want %d", x.Count(), len(there))
		}
	}
	close(stop)
	wg.Wait()
	if got, want := clients(x, "t"), slices.Sorted(maps.Keys(there)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
