// Package mqtt is the MQTT client of the tests. It speaks 3.1.1 and 5, sends any packet, invalid ones too, decodes what
// the gateway sends, and reports everything in it that a server may not send. It has its own codec and imports nothing
// of the gateway, so that it checks the gateway's codec against the standard.
//
// Client returns errors, for load and for goroutines; T fails its test.
package mqtt

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Control packet types.
const (
	CONNECT byte = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

// Protocol levels.
const (
	V4 byte = 4 // MQTT 3.1.1
	V5 byte = 5
)

// Property identifiers.
const (
	PayloadFormat           byte = 0x01
	MessageExpiry           byte = 0x02
	ContentType             byte = 0x03
	ResponseTopic           byte = 0x08
	CorrelationData         byte = 0x09
	SubscriptionID          byte = 0x0B
	SessionExpiry           byte = 0x11
	AssignedClientID        byte = 0x12
	ServerKeepalive         byte = 0x13
	AuthMethod              byte = 0x15
	AuthData                byte = 0x16
	RequestProblem          byte = 0x17
	WillDelay               byte = 0x18
	RequestResponse         byte = 0x19
	ResponseInformation     byte = 0x1A
	ServerReference         byte = 0x1C
	ReasonString            byte = 0x1F
	ReceiveMaximum          byte = 0x21
	TopicAliasMaximum       byte = 0x22
	TopicAlias              byte = 0x23
	MaximumQoS              byte = 0x24
	RetainAvailable         byte = 0x25
	UserProperty            byte = 0x26
	MaximumPacketSize       byte = 0x27
	WildcardAvailable       byte = 0x28
	SubscriptionIDAvailable byte = 0x29
	SharedAvailable         byte = 0x2A
)

// kind is the wire form of a property: a fixed number of bytes, or one of these.
type kind int

const (
	kindVarint kind = -1 - iota
	kindData
	kindPair
)

var propertyKinds = map[byte]kind{
	PayloadFormat: 1, MessageExpiry: 4, ContentType: kindData, ResponseTopic: kindData, CorrelationData: kindData,
	SubscriptionID: kindVarint, SessionExpiry: 4, AssignedClientID: kindData, ServerKeepalive: 2,
	AuthMethod: kindData, AuthData: kindData, RequestProblem: 1, WillDelay: 4, RequestResponse: 1,
	ResponseInformation: kindData, ServerReference: kindData, ReasonString: kindData, ReceiveMaximum: 2, TopicAliasMaximum: 2,
	TopicAlias: 2, MaximumQoS: 1, RetainAvailable: 1, UserProperty: kindPair, MaximumPacketSize: 4, WildcardAvailable: 1,
	SubscriptionIDAvailable: 1, SharedAvailable: 1,
}

// Frame builds a packet from its first byte and the parts of its body.
func Frame(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return slices.Concat([]byte{first}, Varint(uint32(len(body))), body)
}

// Varint encodes a variable byte integer.
func Varint(v uint32) []byte {
	var b []byte
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// Uint16 encodes a two byte integer.
func Uint16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// Uint32 encodes a four byte integer.
func Uint32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// Text encodes a length of two bytes and the bytes.
func Text(s string) []byte { return slices.Concat(Uint16(uint16(len(s))), []byte(s)) }

// Number encodes a numeric property.
func Number(id byte, v uint32) []byte {
	switch propertyKinds[id] {
	case kindVarint:
		return slices.Concat([]byte{id}, Varint(v))
	case 1:
		return []byte{id, byte(v)}
	case 2:
		return slices.Concat([]byte{id}, Uint16(uint16(v)))
	default:
		return slices.Concat([]byte{id}, Uint32(v))
	}
}

// String encodes a property of text or binary data.
func String(id byte, s string) []byte { return slices.Concat([]byte{id}, Text(s)) }

// User encodes a user property.
func User(name, value string) []byte {
	return slices.Concat([]byte{UserProperty}, Text(name), Text(value))
}

// Properties encodes a whole property section.
func Properties(list ...[]byte) []byte {
	b := slices.Concat(list...)
	return slices.Concat(Varint(uint32(len(b))), b)
}

func when(there bool, part []byte) []byte {
	if there {
		return part
	}
	return nil
}

// On5 returns a property section on MQTT 5, and nothing on 3.1.1.
func On5(v byte, list ...[]byte) []byte { return when(v == V5, Properties(list...)) }

// Will is the will of a CONNECT.
type Will struct {
	Topic, Payload string
	QoS            byte
	Retain         bool
	Props          [][]byte
}

// Connect is a CONNECT before it is encoded. Zero values give a valid one.
type Connect struct {
	Version   byte // V4 when 0
	ID        string
	Keep      bool   // no clean session: an existing one is resumed
	Keepalive uint16 // seconds
	User      string // User and Password are sent if not empty
	Password  string
	Will      *Will
	Props     [][]byte

	Name     *string // another protocol name than MQTT
	Level    *byte   // another level than that of Version; the form stays
	Flip     byte    // connect flags to flip; the payload stays
	Trailing []byte  // bytes after the payload
}

func (c Connect) flags() byte {
	var flags byte
	if !c.Keep {
		flags |= 0x02
	}
	if w := c.Will; w != nil {
		flags |= 0x04 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
	}
	if c.Password != "" {
		flags |= 0x40
	}
	if c.User != "" {
		flags |= 0x80
	}
	return flags ^ c.Flip
}

// Encode returns the packet.
func (c Connect) Encode() []byte {
	c.Version = cmp.Or(c.Version, V4)
	name, level := "MQTT", c.Version
	if c.Name != nil {
		name = *c.Name
	}
	if c.Level != nil {
		level = *c.Level
	}
	body := slices.Concat(Text(name), []byte{level, c.flags()}, Uint16(c.Keepalive), On5(c.Version, c.Props...), Text(c.ID))
	if w := c.Will; w != nil {
		body = slices.Concat(body, On5(c.Version, w.Props...), Text(w.Topic), Text(w.Payload))
	}
	for _, s := range []string{c.User, c.Password} {
		if s != "" {
			body = slices.Concat(body, Text(s))
		}
	}
	return Frame(CONNECT<<4, body, c.Trailing)
}

// Publish is a PUBLISH before it is encoded.
type Publish struct {
	Topic, Payload string
	QoS            byte
	Retain, Dup    bool
	ID             uint16
	Props          [][]byte
}

// Encode returns the packet.
func (p Publish) Encode(version byte) []byte {
	first := PUBLISH<<4 | p.QoS<<1
	if p.Dup {
		first |= 8
	}
	if p.Retain {
		first |= 1
	}
	return Frame(first, Text(p.Topic), when(p.QoS > 0, Uint16(p.ID)), On5(version, p.Props...), []byte(p.Payload))
}

// Subscription is a subscription of a SUBSCRIBE.
type Subscription struct {
	Filter  string
	Options byte // the QoS, and on MQTT 5 the others
}

// Filter returns a subscription to a filter.
func Filter(name string, options byte) Subscription { return Subscription{name, options} }

// Options of a Subscription other than its QoS (MQTT 5, 3.8.3.1).
const (
	NoLocal           = 0x04
	RetainAsPublished = 0x08
	RetainIfNew       = 0x10
	RetainNever       = 0x20
)

// Subscribe encodes a SUBSCRIBE.
func Subscribe(version byte, id uint16, props [][]byte, filters ...Subscription) []byte {
	body := slices.Concat(Uint16(id), On5(version, props...))
	for _, f := range filters {
		body = slices.Concat(body, Text(f.Filter), []byte{f.Options})
	}
	return Frame(SUBSCRIBE<<4|2, body)
}

// Unsubscribe encodes an UNSUBSCRIBE.
func Unsubscribe(version byte, id uint16, filters ...string) []byte {
	body := slices.Concat(Uint16(id), On5(version))
	for _, f := range filters {
		body = slices.Concat(body, Text(f))
	}
	return Frame(UNSUBSCRIBE<<4|2, body)
}

// Ack encodes a PUBACK, PUBREC, PUBREL or PUBCOMP in its shortest form, with a reason if not 0.
func Ack(typ byte, id uint16, reason byte) []byte {
	first := typ << 4
	if typ == PUBREL {
		first |= 2
	}
	return Frame(first, Uint16(id), when(reason != 0, []byte{reason}))
}

// Pingreq encodes a PINGREQ.
func Pingreq() []byte { return Frame(PINGREQ << 4) }

// Disconnect encodes a DISCONNECT in its shortest form.
func Disconnect() []byte { return Frame(DISCONNECT << 4) }
