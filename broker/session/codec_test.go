package session

import (
	"reflect"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func sampleState() *state {
	return &state{
		vehicle: true, version: 5, expiry: time.Hour, since: 1, endsAt: 1 << 40, notAfter: 3, floor: 4,
		subs: []Subscription{
			{Filter: "a/+", QoS: 1, ID: 268_435_455, NoLocal: true}, {Filter: "b/#", QoS: 2, RetainAsPublished: true, RetainHandling: 2},
		},
		willAt: 7,
		will: &Will{
			Topic: "w", Payload: []byte("gone"), QoS: 2, Retain: true, Delay: time.Minute,
			Props: message.Properties{ContentType: "text/plain", Correlation: []byte{}, User: []message.UserProperty{{Name: "n", Value: "v"}}},
		},
	}
}

func TestSessionRecord(t *testing.T) {
	t.Parallel()
	for name, st := range map[string]*state{
		"full": sampleState(), "never ends": {version: 4, expiry: MaxExpiry, subs: []Subscription{}},
		"a service's": {version: 5, subs: []Subscription{}, id: "svc/1", share: &share{owner: "svc"}},
		"of before":   {version: 5, subs: []Subscription{}, id: "svc/1"},
	} {
		got := state{id: st.id}
		owner, err := got.decode(st.encode(), &message.Decoder{})
		check.OK(t, err)
		if owner != ownerOfClient(st.id) {
			t.Errorf("%s: owner %q", name, owner)
		}
		got.share = st.share
		if st.will != nil {
			st.will.Props.Correlation, got.will.Props.Correlation = nil, nil
		}
		if !reflect.DeepEqual(&got, st) {
			t.Errorf("%s: %+v became %+v", name, st, &got)
		}
	}
}

// FuzzValues checks that reading any state file returns or fails, but never panics.
func FuzzValues(f *testing.F) {
	e := entry{qos: 1, retain: true, ids: []uint32{1, 300}, body: &body{topic: "t", payload: []byte("p"), expires: 5}}
	f.Add(sampleState().encode())
	f.Add(e.encode())
	f.Add(encodeInflight(7, released))
	f.Add([]byte{0, 7, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var dec message.Decoder
		_, _ = new(state).decode(b, &dec)
		_, _ = decodeEntry(b, &dec)
		_, _ = decodeIncoming(b, 100)
		_ = new(entry).restoreInflight(b, b)
	})
}
