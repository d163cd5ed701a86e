package frame

// MaxLength is the largest remaining length in bytes that MQTT can encode (MQTT 5, 2.1.4).
const MaxLength = 268_435_455

// Header is the fixed header at the front of a frame.
type Header struct {
	// Type is the control packet type, 1 to 15.
	Type byte
	// Flags are the low four bits of the first byte. Scan has checked the reserved ones.
	Flags byte
	// Head is the size of the fixed header in bytes, 2 to 5.
	Head int
	// Size is the size of the whole frame in bytes, fixed header included.
	Size int
}

// Scan reads the fixed header of a client's frame at the front of b. If b is too short to hold the header, ok is false
// and err is nil. The frame may be longer than b: compare Size. Scan allocates only on a violation, whatever length the
// header declares.
func Scan(b []byte, version byte) (h Header, ok bool, err error) {
	if len(b) == 0 {
		return Header{}, false, nil
	}
	h.Type, h.Flags = b[0]>>4, b[0]&0x0F
	if err := checkFlags(h.Type, h.Flags, version); err != nil {
		return h, false, err
	}
	if len(b) >= 2 && b[1] < 0x80 { // a remaining length below 128
		h.Head, h.Size = 2, int(b[1])+2
		return h, true, nil
	}
	return scanLength(b, h, version)
}

func scanLength(b []byte, h Header, version byte) (Header, bool, error) {
	length, n, err := varint(b[1:], version)
	if err != nil || n == 0 {
		return h, false, err
	}
	h.Head = 1 + n
	h.Size = h.Head + int(length)
	return h, true, nil
}

// varint reads a variable byte integer (MQTT 5, 1.5.5); n is 0 when b ends within it. Only MQTT 5 requires the shortest
// encoding.
func varint(b []byte, version byte) (value uint32, n int, err error) {
	for i := 0; i < len(b); i++ {
		if i == 4 {
			return 0, 0, malformed("variable byte integer longer than four bytes")
		}
		value |= uint32(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			if b[i] == 0 && i > 0 && version == Version5 {
				return 0, 0, malformed("variable byte integer not in its shortest form")
			}
			return value, i + 1, nil
		}
		if i == 3 {
			return 0, 0, malformed("variable byte integer longer than four bytes")
		}
	}
	return 0, 0, nil
}

// checkFlags checks the flags of the fixed header (MQTT 5, 2.1.3), and that a client may send the packet type.
func checkFlags(typ, flags, version byte) error {
	switch typ {
	case TypePublish:
		switch {
		case flags&0x06 == 0x06:
			return malformed("PUBLISH with QoS 3")
		case flags&0x0E == 0x08:
			return malformed("PUBLISH with QoS 0 and DUP")
		}
		return nil
	case TypePubrel, TypeSubscribe, TypeUnsubscribe:
		if flags != 2 {
			return malformed("reserved flags of the fixed header are not 0010")
		}
		return nil
	case 0:
		return malformed("control packet type 0")
	case TypeConnack, TypeSuback, TypeUnsuback, TypePingresp:
		return protocolError("a client may not send this packet type")
	case TypeAuth:
		if version != Version5 {
			return malformed("AUTH is MQTT 5 only")
		}
	}
	if flags != 0 {
		return malformed("reserved flags of the fixed header are not zero")
	}
	return nil
}
