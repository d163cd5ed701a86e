package frame

import "encoding/binary"

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
type Ack struct {
	PacketID uint16
	Reason   byte
}

// ScanAck checks a whole PUBACK, PUBREC, PUBREL or PUBCOMP frame (MQTT 5, 3.4 to 3.7). It allocates only on a
// violation.
func ScanAck(f []byte, h Header, version byte) (Ack, error) {
	b := f[h.Head:h.Size]
	if len(b) < 2 {
		return Ack{}, malformed("acknowledgement without a packet identifier")
	}
	a := Ack{PacketID: binary.BigEndian.Uint16(b)}
	if a.PacketID == 0 {
		return a, protocolError("packet identifier 0")
	}
	if len(b) == 2 {
		return a, nil
	}
	if version != Version5 {
		return a, malformed("acknowledgement longer than its packet identifier")
	}
	a.Reason = b[2]
	if !ackReason(h.Type, a.Reason) {
		return a, protocolError("reason code not allowed in this packet")
	}
	return a, ackProperties(b[3:], h.Type)
}

func ackProperties(b []byte, typ byte) error {
	if len(b) == 0 {
		return nil
	}
	var p Properties
	c := cursor{b: b}
	if err := p.scan(&c, typ); err != nil {
		return err
	}
	if c.left() > 0 {
		return malformed("bytes after the properties")
	}
	return nil
}

// ackReason reports whether the reason code is allowed in the packet type (MQTT 5, tables 3-4 to 3-7).
func ackReason(typ, reason byte) bool {
	if typ == TypePubrel || typ == TypePubcomp {
		return reason == ReasonSuccess || reason == ReasonPacketIDNotFound
	}
	switch reason {
	case ReasonSuccess, ReasonNoSubscribers, ReasonUnspecified, ReasonImplementation, ReasonNotAuthorized,
		ReasonTopicInvalid, ReasonPacketIDInUse, ReasonQuotaExceeded, ReasonPayloadFormat:
		return true
	}
	return false
}
