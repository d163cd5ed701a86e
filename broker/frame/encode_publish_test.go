package frame

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"

	"github.com/eclipse/paho.golang/packets"
)

func TestPublishBytes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pub     Publish
		version byte
		want    string
	}{
		"3.1.1 QoS 0":            {Publish{Topic: "a/b", Payload: []byte("hi"), PacketID: 9}, Version311, "30 07 0003'a/b''hi'"},
		"3.1.1 QoS 1 dup retain": {Publish{Topic: "a", Payload: []byte("x"), QoS: 1, Dup: true, Retain: true, PacketID: 0x0102}, Version311, "3B 06 0001'a' 0102 'x'"},
		"3.1.1 knows no alias":   {Publish{Topic: "a", QoS: 1, PacketID: 7, Alias: 3, OmitTopic: true, HasExpiry: true, SubscriptionIDs: []uint32{1}}, Version311, "32 05 0001'a' 0007"},
		"5 without properties":   {Publish{Topic: "a", Payload: []byte("x"), QoS: 2, PacketID: 1}, Version5, "34 07 0001'a' 0001 00 'x'"},
		"5 omits the topic":      {Publish{Topic: "a", Alias: 0x1234, OmitTopic: true}, Version5, "30 06 0000 03 23 1234"},
		"5 needs an alias to":    {Publish{Topic: "a", OmitTopic: true}, Version5, "30 04 0001'a' 00"},
		"5 expiry 0 is a value":  {Publish{Topic: "a", HasExpiry: true}, Version5, "30 09 0001'a' 05 02 00000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := tc.pub.Append([]byte("before"), tc.version)
			want := append([]byte("before"), raw(t, tc.want)...)
			if !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			if n := tc.pub.Size(tc.version); n != len(got)-len("before") {
				t.Errorf("Size is %d, the frame has %d bytes", n, len(got)-len("before"))
			}
		})
	}
}

// TestPublishDecodes decodes encoded PUBLISHes with another implementation.
func TestPublishDecodes(t *testing.T) {
	t.Parallel()
	pub := full(strings.Repeat("x", 20_000))
	b := pub.Append(nil, Version5)
	if n := pub.Size(Version5); n != len(b) {
		t.Fatalf("Size is %d, the frame has %d bytes", n, len(b))
	}
	cp, err := packets.ReadPacket(bytes.NewReader(b))
	check.OK(t, err)
	got, ok := cp.Content.(*packets.Publish)
	if !ok {
		t.Fatalf("decoded as %T", cp.Content)
	}
	if got.Topic != pub.Topic || got.QoS != 1 || got.PacketID != 77 || !got.Duplicate || !got.Retain || !bytes.Equal(got.Payload, pub.Payload) {
		t.Errorf("decoded as %+v", got)
	}
	props := got.Properties
	if props.ContentType != "application/json" || props.ResponseTopic != "r/t" || string(props.CorrelationData) != "\x00\x01" ||
		*props.PayloadFormat != 1 || *props.MessageExpiry != 90 || *props.TopicAlias != 5 {
		t.Errorf("properties decoded as %+v", props)
	}
	if want := []packets.User{{Key: "k", Value: "1"}, {Key: "k", Value: ""}}; !slices.Equal(props.User, want) {
		t.Errorf("user properties decoded as %+v", props.User)
	}
}

func TestPublishSubscriptionIDs(t *testing.T) {
	t.Parallel()
	pub := Publish{Topic: "t", SubscriptionIDs: []uint32{1, 268_435_455}}
	if got, want := pub.Append(nil, Version5), raw(t, "30 0B 0001't' 07 0B01 0BFFFFFF7F"); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestPublishAllocatesNothing(t *testing.T) {
	pub := full("payload")
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = pub.Append(buf[:0], Version5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func full(payload string) Publish {
	return Publish{
		Topic: "v1/VIN/up/telemetry", Payload: []byte(payload), QoS: 1, Retain: true, Dup: true, PacketID: 77, Alias: 5,
		Props: message.Properties{
			ContentType: "application/json", ResponseTopic: "r/t", Correlation: []byte{0, 1}, UTF8Payload: true,
			User: []message.UserProperty{{Name: "k", Value: "1"}, {Name: "k"}}, Expiry: 100, HasExpiry: true,
		},
		ExpiryLeft: 90, HasExpiry: true,
	}
}
