package message

import (
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"cellgate/test/check"
)

const base = int64(1_700_000_000_000)

// samples are records that use every field.
func samples() []Record {
	all := Properties{
		ContentType: "application/json", ResponseTopic: "v1/X/res/1/accepted", Correlation: []byte{0, 1, 255},
		User: []UserProperty{{"a", "1"}, {"a", ""}, {"", ""}}, Expiry: math.MaxUint32, HasExpiry: true, UTF8Payload: true,
	}
	return []Record{
		{Kind: KindPublish},
		{Kind: KindPublish, QoS: 1, PacketID: 1, Client: "VIN", Topic: "v1/VIN/up/telemetry", Payload: []byte("{}"), ReceivedAt: base},
		{Kind: KindPublish, QoS: 2, Retain: true, Dup: true, PacketID: math.MaxUint16, Topic: "t", ReceivedAt: base + 1, Props: all},
		{Kind: KindPublish, Topic: strings.Repeat("x", MaxTopicBytes), Payload: make([]byte, 1<<16), ReceivedAt: base + math.MaxUint32},
		{Kind: KindPublish, Topic: "t", Props: Properties{HasExpiry: true}},
		{Kind: KindPublish, Topic: "t", Props: Properties{UTF8Payload: true}, Payload: []byte("é")},
		{Kind: KindPublish, Topic: "t", Props: Properties{BytesPayload: true}},
		{Kind: KindPublish, Topic: "t", Props: Properties{EmptyContentType: true}},
		{Kind: KindPublish, QoS: 1, Dup: true, PacketID: 3, Topic: "t", Original: math.MaxUint64, Payload: []byte("again")},
		{Kind: KindPublish, QoS: 1, Topic: "t", Epoch: math.MaxUint64, Original: 1, Payload: []byte("later")},
		{Kind: KindRelease, Client: "c", PacketID: 7},
		{Kind: KindSessionReset, Client: "c"},
		{Kind: KindRuleSet, Payload: []byte("hash")},
		Tick(false),
		Tick(true),
		Limit{Rule: "r", Version: "1"}.Record(),
		OperatorState("VIN", nil),
		OperatorState("VIN", []byte{3, 1, 2}),
	}
}

// same compares records as consumers see them: nil and empty are equal.
func same(a, b *Record) bool {
	norm := func(r Record) Record {
		r = r.Clone()
		for _, p := range []*[]byte{&r.Payload, &r.Props.Correlation} {
			if len(*p) == 0 {
				*p = nil
			}
		}
		if len(r.Props.User) == 0 {
			r.Props.User = nil
		}
		return r
	}
	return reflect.DeepEqual(norm(*a), norm(*b))
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	var dec Decoder
	var got Record // reused, as by a reader
	for range 2 {
		for i, want := range samples() {
			if want.ReceivedAt == 0 {
				want.ReceivedAt = base
			}
			b := want.Append([]byte("prefix"), base)
			if err := dec.Decode(b[len("prefix"):], base, &got); err != nil {
				t.Fatalf("sample %d: %v", i, err)
			}
			if !same(&got, &want) {
				t.Fatalf("sample %d: %+v, want %+v", i, got, want)
			}
		}
	}
}

// TestEpochOnDisk checks the encoding of a connection's epoch.
func TestEpochOnDisk(t *testing.T) {
	t.Parallel()
	r := Record{Kind: KindPublish, QoS: 1, PacketID: 2, Client: "V", Topic: "t", Epoch: 1_700_000_000_000, Payload: []byte("p"), ReceivedAt: base + 3}
	const want = "01 11 03 02 0156 0174 09 80d095ffbc31 00 70"
	if got := hex.EncodeToString(r.Append(nil, base)); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCutRecordsAreMalformed(t *testing.T) {
	t.Parallel()
	var dec Decoder
	r := samples()[2]
	whole := r.Append(nil, base)
	for n := range len(whole) {
		var got Record
		if err := dec.Decode(whole[:n], base, &got); !errors.Is(err, errMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for name, b := range map[string][]byte{
		"kind 0":           {0, 0, 0, 0, 0, 0},
		"QoS 3":            {1, 3, 0, 0, 0, 0},
		"unknown bits":     {1, 1 << 5, 0, 0, 0, 0},
		"unknown property": {1, bitProps, 0, 0, 0, 0, 99, 0},
		"long uvarint":     {1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0},
		"length past end":  {1, 0, 0, 0, 200, 1, 'x'},
	} {
		var got Record
		if err := dec.Decode(b, base, &got); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestDecoderForgetsNames(t *testing.T) {
	t.Parallel()
	var dec Decoder
	var got Record
	for i := range maxNames + 10 {
		r := Record{Kind: KindPublish, Client: string(rune(i + 0x10000)), ReceivedAt: base}
		if err := dec.Decode(r.Append(nil, base), base, &got); err != nil || got.Client != r.Client {
			t.Fatal(err, got.Client)
		}
		if len(dec.names) > maxNames {
			t.Fatalf("%d names", len(dec.names))
		}
	}
}

func TestCodecDoesNotAllocate(t *testing.T) {
	r := samples()[1]
	buf := make([]byte, 0, 1024)
	var dec Decoder
	var got Record
	if n := testing.AllocsPerRun(100, func() {
		buf = r.Append(buf[:0], base)
		check.OK(t, dec.Decode(buf, base, &got))
	}); n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestFlagsAndVIN(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rec  Record
		want Flags
		vin  string
	}{
		{Record{Kind: KindPublish, Topic: "v1/VIN/up/telemetry"}, FlagUplink, "VIN"},
		{Record{Kind: KindPublish, Topic: "v1/VIN/up/a/b", Retain: true}, FlagUplink | FlagRetain, "VIN"},
		{Record{Kind: KindPublish, Topic: "v1/VIN/res/1/accepted"}, FlagResult, "VIN"},
		{Record{Kind: KindPublish, Topic: "v1/VIN/cmd/1/lock"}, FlagOther, "VIN"},
		{Record{Kind: KindPublish, Topic: "v1/VIN/up"}, FlagUplink, "VIN"},
		{Record{Kind: KindPublish, Topic: "v1/VIN"}, FlagOther, ""},
		{Record{Kind: KindPublish, Topic: "v1//up/x"}, FlagOther, ""},
		{Record{Kind: KindPublish, Topic: "v2/VIN/up/x"}, FlagOther, ""},
		{Record{Kind: KindRelease, Topic: "v1/VIN/up/x", Retain: true}, FlagControl, "VIN"},
	} {
		if got := c.rec.Flags(); got != c.want || c.rec.VIN() != c.vin {
			t.Errorf("%q: flags %b, want %b; VIN %q", c.rec.Topic, got, c.want, c.rec.VIN())
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	r := samples()[2]
	r.Payload = []byte("payload")
	c := r.Clone()
	r.Payload[0], r.Props.Correlation[0], r.Props.User[0].Name = 'X', 9, "changed"
	if string(c.Payload) != "payload" || c.Props.Correlation[0] != 0 || c.Props.User[0].Name != "a" {
		t.Fatalf("%+v", c)
	}
}

func TestExpiresAt(t *testing.T) {
	t.Parallel()
	r := Record{ReceivedAt: base}
	if _, ok := r.ExpiresAt(); ok {
		t.Fatal("a message without expiry expires")
	}
	r.Props = Properties{HasExpiry: true, Expiry: 60}
	if at, ok := r.ExpiresAt(); !ok || at.UnixMilli() != base+60_000 {
		t.Fatal(at, ok)
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	if got := ID("gw-1", 36, 12345); got != "gw-1-10-12345" {
		t.Fatal(got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range samples() {
		if len(r.Payload) < 1024 {
			r.ReceivedAt = max(r.ReceivedAt, base)
			f.Add(r.Append(nil, base))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var dec Decoder
		var r, again Record
		if err := dec.Decode(b, base, &r); err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		if r.ReceivedAt < base {
			return // no writer does this: times never decrease within a batch
		}
		if err := dec.Decode(r.Append(nil, base), base, &again); err != nil || !same(&r, &again) {
			t.Fatalf("%v: %+v reads back as %+v", err, r, again)
		}
	})
}
