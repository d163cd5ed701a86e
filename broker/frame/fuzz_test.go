package frame

import (
	"bytes"
	"errors"
	"runtime/metrics"
	"testing"

	"cellgate/broker/shared/message"
)

// seeds are whole frames, valid and invalid.
var seeds = []string{
	"10 0D 0004'MQTT' 04 02 003C 0001'a'",
	"10 15 0004'MQTT' 04 06 003C 0001'a' 0003'w/t' 0001'x'",
	"10 11 0004'MQTT' 05 02 003C 03 210014 0001'a'",
	"10 1F 0004'MQTT' 05 C2 003C 05 1100000001 0001'a' 0004'user' 0006'secret'",
	"30 05 0003'a/b'",
	"32 08 0003'a/b' 0001 'x'",
	"34 09 0003'a/b' 0001 00 'x'",
	"30 06 0000 03 230001",
	"30 14 0003'a/b' 0E 260001'a'0001'b' 260001'a'0001'c'",
	"40 02 0001", "50 03 0001 87", "62 02 0001", "70 02 0001",
	"82 08 0001 0003'a/b' 01",
	"82 0B 0001 02 0B05 0003'a/b' 01",
	"82 10 0001 00 000A'$share/g/a' 05",
	"A2 07 0001 0003'a/b'",
	"C0 00", "E0 00", "E0 07 00 05 1100000001", "F0 0B 19 09 150001'x' 160002'yz'",
	"C0 FF FF FF FF 01", "C0 80 00",
}

// boundAllocation runs judge and fails the test if it allocates more than the input's size justifies, whatever lengths
// the input declares. The runtime accounts small objects in bulk, so allocations for earlier inputs can show up here:
// judge must exceed the limit three times in a row.
func boundAllocation(t *testing.T, input int, judge func()) {
	t.Helper()
	const slack = 64 << 10
	limit := uint64(128*input) + slack
	var grown uint64
	for range 3 {
		before := allocated()
		judge()
		if grown = allocated() - before; grown <= limit {
			return
		}
	}
	t.Errorf("%d bytes allocated for an input of %d", grown, input)
}

// allocated returns how many heap bytes this process has allocated in total.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// TestBoundAllocation checks that boundAllocation can fail.
func TestBoundAllocation(t *testing.T) {
	var probe testing.T
	var kept []byte
	boundAllocation(&probe, 10, func() { kept = make([]byte, 1<<20) })
	if !probe.Failed() || len(kept) == 0 {
		t.Error("1 MiB allocated for 10 bytes of input was not noticed")
	}
}

// FuzzScan checks that no input causes a panic, that every violation has a reason code, and that an accepted frame does
// not reach past its end.
func FuzzScan(f *testing.F) {
	for _, s := range seeds {
		f.Add(raw(f, s), byte(4))
		f.Add(raw(f, s), byte(5))
	}
	f.Fuzz(func(t *testing.T, b []byte, version byte) {
		boundAllocation(t, len(b), func() { fuzzScan(t, b, version) })
	})
}

func fuzzScan(t *testing.T, b []byte, version byte) {
	t.Helper()
	if version != Version5 {
		version = Version311
	}
	h, ok, err := Scan(b, version)
	var v *Violation
	if err != nil {
		if !errors.As(err, &v) || v.Reason < 0x80 || v.Why == "" {
			t.Fatalf("no reason code: %v", err)
		}
		return
	}
	if !ok || h.Size > len(b) {
		return
	}
	whole := b[:h.Size:h.Size]
	if err := parse(whole, version); err != nil && !errors.Is(err, errShort) && (!errors.As(err, &v) || v.Reason < 0x80) {
		t.Fatalf("no reason code: %v", err)
	}
	if h.Type == TypePublish {
		fuzzPublish(t, whole, h, version)
	}
}

func fuzzPublish(t *testing.T, f []byte, h Header, version byte) {
	var p Inbound
	if ScanPublish(f, h, version, &p) != nil {
		return
	}
	switch {
	case p.QoS > 2, (p.QoS == 0) != (p.PacketID == 0):
		t.Fatalf("QoS %d, packet identifier %d", p.QoS, p.PacketID)
	case len(p.Topic) > 0 && message.ValidTopic(string(p.Topic)) != nil:
		t.Fatalf("topic %q", p.Topic)
	case len(p.Topic)+len(p.Payload) > len(f):
		t.Fatal("more than the frame")
	}
	if p.HasProps {
		n := 0
		p.Props.EachUser(func(name, value []byte) {
			n++
			if !validText(name) || !validText(value) {
				t.Fatalf("user property %q %q", name, value)
			}
		})
		if n != p.Props.Users() {
			t.Fatalf("%d user properties, %d counted", n, p.Props.Users())
		}
	}
}

// FuzzConnect checks that an accepted CONNECT has exactly the fields that its flags announce.
func FuzzConnect(f *testing.F) {
	for _, s := range seeds[:4] {
		f.Add(raw(f, s)[2:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		boundAllocation(t, len(body), func() { fuzzConnect(t, body) })
	})
}

func fuzzConnect(t *testing.T, body []byte) {
	t.Helper()
	version, ok := ConnectVersion(body)
	if !ok || (version != Version311 && version != Version5) {
		return
	}
	frame := appendHeader(nil, TypeConnect<<4, len(body))
	head := len(frame)
	frame = append(frame, body...)
	h := Header{Type: TypeConnect, Head: head, Size: len(frame)}
	if CheckConnect(frame, h) != nil {
		return
	}
	whole, known := ConnectFront(body)
	if !known {
		t.Fatalf("% x: the front of a whole CONNECT is not known", body)
	}
	// No prefix of an accepted CONNECT may be accepted, and what is known of its front is the same. Long bodies are
	// sampled, because each check starts at the beginning.
	for n := 0; n < len(body); n += 1 + len(body)/1024 {
		if p, known := ConnectFront(body[:n]); known && p.MaximumPacket != whole.MaximumPacket {
			t.Fatalf("% x: the front of its first %d bytes is %+v", body, n, p)
		}
		h.Size = head + n
		if CheckConnect(frame[:h.Size], h) == nil {
			t.Fatalf("% x and its prefix of %d bytes are both accepted", body, n)
		}
	}
}

// FuzzProperties checks that an accepted section has only properties that the packet type allows.
func FuzzProperties(f *testing.F) {
	f.Add([]byte{0}, TypePublish)
	f.Add([]byte{5, 0x11, 0, 0, 0, 1}, TypeConnect)
	f.Add([]byte{6, 0x23, 0, 1, 0x23, 0, 1}, TypePublish)
	f.Add([]byte{14, 0x26, 0, 1, 'a', 0, 1, 'b', 0x26, 0, 1, 'a', 0, 1, 'c'}, typeWill)
	f.Add([]byte{0x80, 0}, TypeSubscribe)
	f.Fuzz(func(t *testing.T, b []byte, typ byte) {
		boundAllocation(t, len(b), func() { fuzzProperties(t, b, typ) })
	})
}

func fuzzProperties(t *testing.T, b []byte, typ byte) {
	t.Helper()
	var p Properties
	c := cursor{b: b}
	if p.scan(&c, typ) != nil {
		return
	}
	if p.set&^allowed(typ) != 0 {
		t.Fatalf("type %d has properties %b", typ, p.set)
	}
	if len(p.section) > 0 && bytes.Count(p.section, []byte{propUser}) < p.Users() {
		t.Fatalf("%d user properties in % x", p.Users(), p.section)
	}
}

// FuzzFilter checks that the scanner and the message package agree on topic filters and names.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"a/b", "+/a/#", "#", "a+", "foo#", "$share/g/a/#", "$share//a", "$SHARE/g/a", "", "a\x00", "\xff", "\xed\xa0\x80"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		boundAllocation(t, len(b), func() { fuzzFilter(t, b) })
	})
}

func fuzzFilter(t *testing.T, b []byte) {
	t.Helper()
	if got, want := checkFilter(b) == nil, message.ValidFilter(string(b)) == nil; got != want {
		t.Fatalf("filter %q: %v, want %v", b, got, want)
	}
	if got, want := len(b) > 0 && len(b) <= message.MaxTopicBytes && checkTopic(b) == nil,
		message.ValidTopic(string(b)) == nil; got != want {
		t.Fatalf("topic %q: %v, want %v", b, got, want)
	}
}
