package frame

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"cellgate/test/check"
)

// raw converts text like "10 04 'MQTT'" into bytes: hex pairs and quoted ASCII.
func raw(t testing.TB, s string) []byte {
	t.Helper()
	var out []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part...)
			continue
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatalf("bad hex %q: %v", part, err)
		}
		out = append(out, b...)
	}
	return out
}

// parse scans one whole inbound frame of any type, as the broker does.
func parse(f []byte, version byte) error {
	h, ok, err := Scan(f, version)
	if err != nil {
		return err
	}
	if !ok || h.Size != len(f) {
		return errShort
	}
	switch h.Type {
	case TypeConnect:
		if _, ok := ConnectVersion(f[h.Head:]); !ok {
			return errShort
		}
		return CheckConnect(f, h)
	case TypePublish:
		return ScanPublish(f, h, version, new(Inbound))
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		_, err = ScanAck(f, h, version)
	case TypeSubscribe:
		err = CheckSubscribe(f, h, version)
	case TypeUnsubscribe:
		err = CheckUnsubscribe(f, h, version)
	case TypePingreq:
		err = CheckPingreq(h)
	case TypeDisconnect:
		_, err = ScanDisconnect(f, h, version)
	case TypeAuth:
		_, err = ScanAuth(f, h)
	}
	return err
}

var errShort = errors.New("frame is incomplete or of no MQTT")

func TestScan(t *testing.T) {
	t.Parallel()
	const ok = 0
	tests := []struct {
		name    string
		frame   string
		version byte
		reason  byte // 0: accepted
	}{
		{"publish qos 0", "30 05 0003'a/b'", 4, ok},
		{"publish qos 0 on 5", "30 07 0003'a/b' 00 'x'", 5, ok},
		{"publish qos 1", "32 08 0003'a/b' 0001 'x'", 4, ok},
		{"publish empty payload on 5", "32 08 0003'a/b' 0001 00", 5, ok},
		{"publish without property length on 5", "32 07 0003'a/b' 0001", 5, ReasonMalformed},
		{"publish qos 3", "36 08 0003'a/b' 0001 'x'", 4, ReasonMalformed},
		{"publish qos 0 dup", "38 05 0003'a/b'", 4, ReasonMalformed},
		{"publish packet id 0", "32 07 0003'a/b' 0000", 4, ReasonProtocolError},
		{"publish without packet id", "32 06 0003'a/b' 00", 4, ReasonMalformed},
		{"publish topic too long", "30 05 0004'a/b'", 4, ReasonMalformed},
		{"publish one byte", "30 01 00", 4, ReasonMalformed},
		{"publish plus", "30 05 0003'a/+'", 4, ReasonTopicInvalid},
		{"publish hash", "30 05 0003'a/#'", 4, ReasonTopicInvalid},
		{"publish nul", "30 05 0003'a' 00 'b'", 4, ReasonMalformed},
		{"publish surrogate", "30 05 0003 EDA080", 4, ReasonMalformed},
		{"publish overlong", "30 04 0002 C080", 4, ReasonMalformed},
		{"publish wildcard after utf-8", "30 06 0004 C3A4 '/#'", 4, ReasonTopicInvalid},
		{"publish nul after utf-8", "30 05 0003 C3A4 00", 4, ReasonMalformed},
		{"publish utf-8", "30 06 0004 C3A4 '/b'", 4, ok},
		{"publish empty topic", "30 02 0000", 4, ReasonMalformed},
		{"publish empty topic on 5", "30 03 0000 00", 5, ReasonProtocolError},
		{"publish alias", "30 06 0000 03 230001", 5, ok},
		{"publish alias 0", "30 09 0003'a/b' 03 230000", 5, ReasonTopicAliasInvalid},
		{"publish alias twice", "30 09 0000 06 230001 230001", 5, ReasonProtocolError},
		{"publish subscription id", "30 08 0003'a/b' 02 0B01", 5, ReasonProtocolError},
		{"publish unknown property", "30 08 0003'a/b' 02 7F01", 5, ReasonMalformed},
		{"publish property 0", "30 08 0003'a/b' 02 0001", 5, ReasonMalformed},
		{"publish session expiry", "30 0B 0003'a/b' 05 1100000001", 5, ReasonProtocolError},
		{"publish property cut", "30 08 0003'a/b' 02 0200", 5, ReasonMalformed},
		{"publish property length beyond", "30 06 0003'a/b' 05", 5, ReasonMalformed},
		{"publish format 2", "30 08 0003'a/b' 02 0102", 5, ReasonProtocolError},
		{"publish response topic wildcard", "30 0A 0003'a/b' 04 080001'#'", 5, ReasonTopicInvalid},
		{"publish user twice", "30 14 0003'a/b' 0E 260001'a'0001'b' 260001'a'0001'c'", 5, ok},
		{"publish user not utf-8", "30 0D 0003'a/b' 07 260001'a'0001 FF", 5, ReasonMalformed},
		{"puback", "40 02 0001", 4, ok},
		{"puback id 0", "40 02 0000", 4, ReasonProtocolError},
		{"puback flags", "41 02 0001", 4, ReasonMalformed},
		{"puback reason on 3.1.1", "40 03 0001 00", 4, ReasonMalformed},
		{"puback reason", "40 03 0001 87", 5, ok},
		{"puback bad reason", "40 03 0001 92", 5, ReasonProtocolError},
		{"puback reason string", "40 08 0001 00 04 1F0001'x'", 5, ok},
		{"puback trailing", "40 05 0001 00 00 00", 5, ReasonMalformed},
		{"pubrel flags", "60 02 0001", 4, ReasonMalformed},
		{"pubrel", "62 02 0001", 4, ok},
		{"pubrel reason", "62 03 0001 92", 5, ok},
		{"pubrel bad reason", "62 03 0001 87", 5, ReasonProtocolError},
		{"pubcomp", "70 02 0001", 4, ok},
		{"subscribe", "82 08 0001 0003'a/b' 01", 4, ok},
		{"subscribe flags", "80 08 0001 0003'a/b' 01", 4, ReasonMalformed},
		{"subscribe nothing", "82 02 0001", 4, ReasonProtocolError},
		{"subscribe id 0", "82 08 0000 0003'a/b' 01", 4, ReasonProtocolError},
		{"subscribe qos 3", "82 08 0001 0003'a/b' 03", 4, ReasonMalformed},
		{"subscribe reserved on 3.1.1", "82 08 0001 0003'a/b' 04", 4, ReasonMalformed},
		{"subscribe without options", "82 07 0001 0003'a/b'", 4, ReasonMalformed},
		{"subscribe truncated on 5", "82 08 0001 00 0003'a/b'", 5, ReasonMalformed},
		{"subscribe options on 5", "82 09 0001 00 0003'a/b' 2D", 5, ok},
		{"subscribe retain handling 3", "82 09 0001 00 0003'a/b' 31", 5, ReasonProtocolError},
		{"subscribe reserved on 5", "82 09 0001 00 0003'a/b' 41", 5, ReasonMalformed},
		{"subscribe id property 0", "82 0B 0001 02 0B00 0003'a/b' 01", 5, ReasonProtocolError},
		{"subscribe id property", "82 0B 0001 02 0B05 0003'a/b' 01", 5, ok},
		{"subscribe empty filter", "82 05 0001 0000 01", 4, ReasonMalformed},
		{"subscribe a+", "82 07 0001 0002'a+' 01", 4, ReasonFilterInvalid},
		{"subscribe foo#", "82 09 0001 0004'foo#' 01", 4, ReasonFilterInvalid},
		{"subscribe #/a", "82 08 0001 0003'#/a' 01", 4, ReasonFilterInvalid},
		{"subscribe share without filter", "82 0E 0001 0009'$share/g/' 01", 4, ReasonFilterInvalid},
		{"subscribe share wildcard group", "82 0F 0001 000A'$share/+/a' 01", 4, ReasonFilterInvalid},
		{"subscribe share no local", "82 10 0001 00 000A'$share/g/a' 05", 5, ReasonProtocolError},
		{"unsubscribe", "A2 07 0001 0003'a/b'", 4, ok},
		{"unsubscribe nothing", "A2 02 0001", 4, ReasonProtocolError},
		{"unsubscribe cut", "A2 06 0001 0003'a/'", 4, ReasonMalformed},
		{"pingreq", "C0 00", 4, ok},
		{"pingreq body", "C0 01 00", 4, ReasonMalformed},
		{"pingresp", "D0 00", 4, ReasonProtocolError},
		{"connack", "20 02 0000", 4, ReasonProtocolError},
		{"type 0", "00 00", 4, ReasonMalformed},
		{"auth on 3.1.1", "F0 00", 4, ReasonMalformed},
		{"auth", "F0 0B 19 09 150001'x' 160002'yz'", 5, ok},
		{"auth empty", "F0 00", 5, ReasonProtocolError},
		{"auth data without method", "F0 07 19 05 160002'yz'", 5, ReasonProtocolError},
		{"disconnect", "E0 00", 4, ok},
		{"disconnect body on 3.1.1", "E0 01 00", 4, ReasonMalformed},
		{"disconnect expiry", "E0 07 00 05 1100000001", 5, ok},
		{"disconnect server's reason", "E0 01 8B", 5, ReasonProtocolError},
		{"length not shortest on 5", "C0 80 00", 5, ReasonMalformed},
		{"length not shortest on 3.1.1", "C0 80 00", 4, ok},
		{"length five bytes", "C0 FF FF FF FF 01", 4, ReasonMalformed},
		{"connect 3.1.1", "10 0D 0004'MQTT' 04 02 003C 0001'a'", 4, ok},
		{"connect 5", "10 0E 0004'MQTT' 05 02 003C 00 0001'a'", 5, ok},
		{"connect reserved flag", "10 0D 0004'MQTT' 04 03 003C 0001'a'", 4, ReasonMalformed},
		{"connect empty id not clean", "10 0C 0004'MQTT' 04 00 003C 0000", 4, ReasonClientIDInvalid},
		{"connect will qos without will", "10 0D 0004'MQTT' 04 0A 003C 0001'a'", 4, ReasonMalformed},
		{"connect password alone", "10 10 0004'MQTT' 04 42 003C 0001'a' 0001'p'", 4, ReasonMalformed},
		{"connect password alone on 5", "10 11 0004'MQTT' 05 42 003C 00 0001'a' 0001'p'", 5, ok},
		{"connect trailing", "10 0E 0004'MQTT' 04 02 003C 0001'a' 00", 4, ReasonMalformed},
		{"connect user missing", "10 0D 0004'MQTT' 04 82 003C 0001'a'", 4, ReasonMalformed},
		{"connect will", "10 15 0004'MQTT' 04 06 003C 0001'a' 0003'w/t' 0001'x'", 4, ok},
		{"connect will wildcard", "10 15 0004'MQTT' 04 06 003C 0001'a' 0003'w/#' 0001'x'", 4, ReasonTopicInvalid},
		{"connect receive maximum 0", "10 11 0004'MQTT' 05 02 003C 03 210000 0001'a'", 5, ReasonProtocolError},
		{"connect packet size 0", "10 13 0004'MQTT' 05 02 003C 05 2700000000 0001'a'", 5, ReasonProtocolError},
		{"connect auth data alone", "10 12 0004'MQTT' 05 02 003C 04 160001'x' 0001'a'", 5, ReasonProtocolError},
		{"connect will delay in connect", "10 13 0004'MQTT' 05 02 003C 05 1800000001 0001'a'", 5, ReasonProtocolError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := parse(raw(t, tt.frame), tt.version)
			var v *Violation
			switch {
			case tt.reason == 0 && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.reason != 0 && !errors.As(err, &v):
				t.Fatalf("got %v, want reason %#x", err, tt.reason)
			case tt.reason != 0 && v.Reason != tt.reason:
				t.Fatalf("got reason %#x (%s), want %#x", v.Reason, v.Why, tt.reason)
			}
		})
	}
}

// Every prefix of a legal frame is either incomplete or, with its length adjusted to the prefix, scanned without a
// panic.
func TestScanTruncated(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"32 17 0003'a/b' 0001 0E 260001'a'0001'b' 260001'a'0001'c' 'xx'",
		"82 0B 0001 02 0B05 0003'a/b' 01",
		"10 15 0004'MQTT' 04 06 003C 0001'a' 0003'w/t' 0001'x'",
		"F0 0B 19 09 150001'x' 160002'yz'",
	} {
		f := raw(t, s)
		for n := 2; n < len(f); n++ {
			cut := append([]byte(nil), f[:n]...)
			cut[1] = byte(n - 2)
			_ = parse(cut, Version5)
			_ = parse(cut, Version311)
		}
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	f := raw(t, "32 19 0003'a/b' 0001 10 0100 0200000001 260001'a'0001'c' 03 0000 'xx'")
	f[1] = byte(len(f) - 2)
	f[9] = byte(2 + 5 + 7 + 3)
	var p Inbound
	check.OK(t, parse(f, Version5))
	if n := testing.AllocsPerRun(100, func() {
		h, _, _ := Scan(f, Version5)
		if err := ScanPublish(f, h, Version5, &p); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a PUBLISH", n)
	}
}
