package mqtt

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// serverMaySend lists the properties that a server may send, by packet type (MQTT 5, table 2-4).
var serverMaySend = map[byte][]byte{
	CONNACK: {
		SessionExpiry, ReceiveMaximum, MaximumQoS, RetainAvailable, MaximumPacketSize, AssignedClientID,
		TopicAliasMaximum, ReasonString, UserProperty, WildcardAvailable, SubscriptionIDAvailable, SharedAvailable, ServerKeepalive, ResponseInformation,
		ServerReference, AuthMethod, AuthData,
	},
	PUBLISH: {PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, SubscriptionID, TopicAlias, UserProperty},
	PUBACK:  {ReasonString, UserProperty}, PUBREC: {ReasonString, UserProperty}, PUBREL: {ReasonString, UserProperty}, PUBCOMP: {ReasonString, UserProperty},
	SUBACK: {ReasonString, UserProperty}, UNSUBACK: {ReasonString, UserProperty},
	DISCONNECT: {ReasonString, UserProperty, ServerReference}, AUTH: {AuthMethod, AuthData, ReasonString, UserProperty},
}

// Packet is a decoded packet of the gateway.
type Packet struct {
	Type, Flags byte
	Size        int
	ID          uint16
	Reason      byte // of CONNACK, acknowledgements, DISCONNECT, AUTH
	Present     byte // CONNACK's first byte
	Codes       []byte
	Topic       string
	Payload     string
	Props       []Property
}

// Property is a property of a packet of the gateway.
type Property struct {
	ID    byte
	Num   uint32
	Value string
	Name  string // of a user property
}

func (p Packet) String() string {
	return fmt.Sprintf("a packet of type %d (identifier %d, reason 0x%02X, topic %q)", p.Type, p.ID, p.Reason, p.Topic)
}

// QoS returns the QoS of a PUBLISH.
func (p Packet) QoS() byte { return p.Flags >> 1 & 3 }

// Retain returns the retain flag of a PUBLISH.
func (p Packet) Retain() bool { return p.Flags&1 == 1 }

// Dup returns the DUP flag of a PUBLISH.
func (p Packet) Dup() bool { return p.Flags&8 == 8 }

// Prop returns the first property with the identifier.
func (p Packet) Prop(id byte) (Property, bool) {
	for _, x := range p.Props {
		if x.ID == id {
			return x, true
		}
	}
	return Property{}, false
}

// All returns the properties with the identifier.
func (p Packet) All(id byte) []Property {
	var list []Property
	for _, x := range p.Props {
		if x.ID == id {
			list = append(list, x)
		}
	}
	return list
}

// reader decodes a packet's body; its first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.err, r.b = fmt.Errorf("packet ends too early"), nil
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) text() string   { return string(r.take(int(r.uint16()))) }

func (r *reader) varint() uint32 {
	var v uint32
	for i := range 4 {
		b := r.byte()
		v |= uint32(b&0x7F) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				r.err = fmt.Errorf("variable byte integer is not in its shortest form")
			}
			return v
		}
	}
	r.err = fmt.Errorf("variable byte integer of more than four bytes")
	return 0
}

func (r *reader) properties(typ byte) []Property {
	section := reader{b: r.take(int(r.varint()))}
	var list []Property
	seen := map[byte]bool{}
	for len(section.b) > 0 && section.err == nil {
		p := Property{ID: section.byte()}
		switch k, known := propertyKinds[p.ID]; {
		case !known:
			section.err = fmt.Errorf("unknown property 0x%02X", p.ID)
		case k == kindVarint:
			p.Num = section.varint()
		case k == kindData:
			p.Value = section.text()
		case k == kindPair:
			p.Name, p.Value = section.text(), section.text()
		default:
			for _, b := range section.take(int(k)) {
				p.Num = p.Num<<8 | uint32(b)
			}
		}
		section.check(typ, p.ID, seen)
		list = append(list, p)
	}
	if r.err == nil {
		r.err = section.err
	}
	return list
}

// check checks a property against the packet type.
func (r *reader) check(typ, id byte, seen map[byte]bool) {
	many := id == UserProperty || (id == SubscriptionID && typ == PUBLISH)
	if seen[id] && !many && r.err == nil {
		r.err = fmt.Errorf("property 0x%02X twice", id)
	}
	seen[id] = true
	if !slices.Contains(serverMaySend[typ], id) && r.err == nil {
		r.err = fmt.Errorf("property 0x%02X in a packet of type %d", id, typ)
	}
}

// decode decodes a whole packet. Anything that a server may not send is an error.
func decode(first byte, body []byte, version byte) (Packet, error) {
	p := Packet{Type: first >> 4, Flags: first & 15}
	r := reader{b: body}
	flags := byte(0)
	switch p.Type {
	case CONNACK:
		p.Present, p.Reason = r.byte(), r.byte()
		p.Props = r.optional(version == V5, p.Type)
	case PUBLISH:
		flags = p.Flags
		p.Topic = r.text()
		if p.QoS() > 0 {
			p.ID = r.uint16()
		}
		p.Props = r.optional(version == V5, p.Type)
		p.Payload, r.b = string(r.b), nil
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		if p.Type == PUBREL {
			flags = 2
		}
		p.ID = r.uint16()
		p.reasonAndProperties(&r, version)
	case SUBACK, UNSUBACK:
		p.ID = r.uint16()
		p.Props = r.optional(version == V5, p.Type)
		p.Codes, r.b = r.b, nil
	case PINGRESP:
	case DISCONNECT, AUTH:
		if version != V5 {
			return p, fmt.Errorf("packet type %d from a 3.1.1 server", p.Type)
		}
		p.reasonAndProperties(&r, version)
	default:
		return p, fmt.Errorf("packet type %d from a server", p.Type)
	}
	switch {
	case r.err != nil:
		return p, r.err
	case len(r.b) > 0:
		return p, fmt.Errorf("%d bytes too many", len(r.b))
	case p.Flags != flags:
		return p, fmt.Errorf("reserved flags are %04b", p.Flags)
	}
	return p, nil
}

func (r *reader) optional(there bool, typ byte) []Property {
	if !there {
		return nil
	}
	return r.properties(typ)
}

func (p *Packet) reasonAndProperties(r *reader, version byte) {
	if version == V5 && len(r.b) > 0 {
		p.Reason = r.byte()
		p.Props = r.optional(len(r.b) > 0, p.Type)
	}
}
