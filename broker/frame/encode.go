package frame

import "encoding/binary"

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP. The reason is omitted where MQTT 5 allows it, and always for
// 3.1.1.
func AppendAck(dst []byte, typ byte, id uint16, reason, version byte) []byte {
	first := typ << 4
	if typ == TypePubrel {
		first |= 2
	}
	if reason == ReasonSuccess || version != Version5 {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	return append(dst, first, 3, byte(id>>8), byte(id), reason)
}

// AppendRefusal appends a PUBACK, PUBREC or PUBCOMP of MQTT 5 with a reason string.
func AppendRefusal(dst []byte, typ byte, id uint16, reason byte, reasonString string) []byte {
	size := textSize(reasonString)
	dst = appendHeader(dst, typ<<4, 3+varintSize(size)+size)
	dst = append(binary.BigEndian.AppendUint16(dst, id), reason)
	return appendText(appendVarint(dst, size), propReason, reasonString)
}

// AppendSuback appends a SUBACK; an empty reasonString is omitted. For 3.1.1, which has none, every failure code becomes
// 0x80 (MQTT 3.1.1, 3.9.3).
func AppendSuback(dst []byte, id uint16, codes []byte, reasonString string, version byte) []byte {
	if version == Version5 {
		size := textSize(reasonString)
		dst = appendHeader(dst, TypeSuback<<4, 2+varintSize(size)+size+len(codes))
		dst = appendVarint(binary.BigEndian.AppendUint16(dst, id), size)
		return append(appendText(dst, propReason, reasonString), codes...)
	}
	dst = appendHeader(dst, TypeSuback<<4, 2+len(codes))
	dst = binary.BigEndian.AppendUint16(dst, id)
	for _, code := range codes {
		dst = append(dst, min(code, 0x80))
	}
	return dst
}

// AppendUnsuback appends an UNSUBACK. For 3.1.1 it has no codes (MQTT 3.1.1, 3.11).
func AppendUnsuback(dst []byte, id uint16, codes []byte, version byte) []byte {
	if version != Version5 {
		return append(dst, TypeUnsuback<<4, 2, byte(id>>8), byte(id))
	}
	dst = appendHeader(dst, TypeUnsuback<<4, 3+len(codes))
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(append(dst, 0), codes...)
}

// AppendDisconnect appends a server's DISCONNECT; for 3.1.1, which has none, it appends nothing. An empty reasonString
// or serverReference is omitted.
func AppendDisconnect(dst []byte, reason byte, reasonString, serverReference string, version byte) []byte {
	if version != Version5 {
		return dst
	}
	size := textSize(reasonString) + textSize(serverReference)
	if size == 0 {
		return append(dst, TypeDisconnect<<4, 1, reason)
	}
	dst = appendHeader(dst, TypeDisconnect<<4, 1+varintSize(size)+size)
	dst = appendVarint(append(dst, reason), size)
	dst = appendText(dst, propReason, reasonString)
	return appendText(dst, propServerReference, serverReference)
}

// AppendAuth appends an AUTH (MQTT 5, 3.15).
func AppendAuth(dst []byte, reason byte, method string) []byte {
	size := textSize(method)
	dst = appendHeader(dst, TypeAuth<<4, 1+varintSize(size)+size)
	dst = appendVarint(append(dst, reason), size)
	return appendText(dst, propAuthMethod, method)
}

// Connack is the answer to a CONNECT. Properties with the zero value are omitted.
type Connack struct {
	SessionPresent bool
	Reason         byte // MQTT 5 code; see returnCode for 3.1.1

	SessionExpiry    uint32 // s, sent with HasSessionExpiry: when it differs from the client's request
	HasSessionExpiry bool
	ReceiveMaximum   uint16
	MaximumPacket    uint32
	AssignedClientID string
	AliasMaximum     uint16
	ReasonString     string
	ServerKeepalive  uint16 // s, sent with HasKeepalive
	HasKeepalive     bool
	ResponseInfo     string
	ServerReference  string
	AuthMethod       string
}

// Append appends the CONNACK for the protocol version.
func (a *Connack) Append(dst []byte, version byte) []byte {
	var present byte
	if a.SessionPresent && a.Reason == ReasonSuccess {
		present = 1
	}
	if version != Version5 {
		return append(dst, TypeConnack<<4, 2, present, returnCode(a.Reason))
	}
	var room [256]byte
	props := a.appendProperties(room[:0])
	dst = appendHeader(dst, TypeConnack<<4, 2+varintSize(len(props))+len(props))
	dst = appendVarint(append(dst, present, a.Reason), len(props))
	return append(dst, props...)
}

func (a *Connack) appendProperties(dst []byte) []byte {
	if a.HasSessionExpiry {
		dst = binary.BigEndian.AppendUint32(append(dst, propSessionExpiry), a.SessionExpiry)
	}
	if a.ReceiveMaximum != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, propReceiveMaximum), a.ReceiveMaximum)
	}
	if a.MaximumPacket != 0 {
		dst = binary.BigEndian.AppendUint32(append(dst, propMaximumPacket), a.MaximumPacket)
	}
	if a.AliasMaximum != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, propAliasMaximum), a.AliasMaximum)
	}
	if a.HasKeepalive {
		dst = binary.BigEndian.AppendUint16(append(dst, propServerKeepalive), a.ServerKeepalive)
	}
	dst = appendText(dst, propAssignedClientID, a.AssignedClientID)
	dst = appendText(dst, propReason, a.ReasonString)
	dst = appendText(dst, propResponseInfo, a.ResponseInfo)
	dst = appendText(dst, propServerReference, a.ServerReference)
	return appendText(dst, propAuthMethod, a.AuthMethod)
}

func appendHeader(dst []byte, first byte, length int) []byte {
	return appendVarint(append(dst, first), length)
}

// appendVarint appends v, 0 to MaxLength, as a variable byte integer.
func appendVarint(dst []byte, v int) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80) //nolint:gosec // takes the low seven bits
		v >>= 7
	}
	return append(dst, byte(v)) //nolint:gosec // below 0x80
}

func varintSize(v int) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func textSize(s string) int {
	if s == "" {
		return 0
	}
	return 3 + len(s)
}

// appendText appends a string property of at most 65,535 bytes; an empty string is omitted.
func appendText(dst []byte, id byte, s string) []byte {
	if s == "" {
		return dst
	}
	dst = binary.BigEndian.AppendUint16(append(dst, id), uint16(len(s))) //nolint:gosec // the caller's strings are short
	return append(dst, s...)
}
