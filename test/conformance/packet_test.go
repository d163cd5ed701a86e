package conformance

import (
	"encoding/binary"
	"fmt"
)

// Control packet types.
const (
	tConnect byte = iota + 1
	tConnack
	tPublish
	tPuback
	tPubrec
	tPubrel
	tPubcomp
	tSubscribe
	tSuback
	tUnsubscribe
	tUnsuback
	tPingreq
	tPingresp
	tDisconnect
	tAuth
)

// Protocol levels.
const (
	v4 byte = 4 // MQTT 3.1.1
	v5 byte = 5
)

// Property identifiers.
const (
	pPayloadFormat    byte = 0x01
	pMessageExpiry    byte = 0x02
	pContentType      byte = 0x03
	pResponseTopic    byte = 0x08
	pCorrelation      byte = 0x09
	pSubscriptionID   byte = 0x0B
	pSessionExpiry    byte = 0x11
	pAssignedClientID byte = 0x12
	pServerKeepalive  byte = 0x13
	pAuthMethod       byte = 0x15
	pAuthData         byte = 0x16
	pRequestProblem   byte = 0x17
	pWillDelay        byte = 0x18
	pRequestResponse  byte = 0x19
	pResponseInfo     byte = 0x1A
	pServerReference  byte = 0x1C
	pReason           byte = 0x1F
	pReceiveMaximum   byte = 0x21
	pAliasMaximum     byte = 0x22
	pAlias            byte = 0x23
	pMaximumQoS       byte = 0x24
	pRetainAvailable  byte = 0x25
	pUser             byte = 0x26
	pMaximumPacket    byte = 0x27
	pWildcard         byte = 0x28
	pSubIDAvailable   byte = 0x29
	pSharedAvailable  byte = 0x2A
)

// kind is the wire form of a property: bytes of a fixed width, or one of these.
type kind int

const (
	kindVarint kind = -1 - iota
	kindData
	kindPair
)

var propertyKinds = map[byte]kind{
	pPayloadFormat: 1, pMessageExpiry: 4, pContentType: kindData, pResponseTopic: kindData, pCorrelation: kindData,
	pSubscriptionID: kindVarint, pSessionExpiry: 4, pAssignedClientID: kindData, pServerKeepalive: 2,
	pAuthMethod: kindData, pAuthData: kindData, pRequestProblem: 1, pWillDelay: 4, pRequestResponse: 1,
	pResponseInfo: kindData, pServerReference: kindData, pReason: kindData, pReceiveMaximum: 2, pAliasMaximum: 2,
	pAlias: 2, pMaximumQoS: 1, pRetainAvailable: 1, pUser: kindPair, pMaximumPacket: 4, pWildcard: 1,
	pSubIDAvailable: 1, pSharedAvailable: 1,
}

// serverMaySend are the properties that a server may send, by packet type (MQTT 5, table 2-4).
var serverMaySend = map[byte][]byte{
	tConnack: {
		pSessionExpiry, pReceiveMaximum, pMaximumQoS, pRetainAvailable, pMaximumPacket, pAssignedClientID,
		pAliasMaximum, pReason, pUser, pWildcard, pSubIDAvailable, pSharedAvailable, pServerKeepalive, pResponseInfo,
		pServerReference, pAuthMethod, pAuthData,
	},
	tPublish: {pPayloadFormat, pMessageExpiry, pContentType, pResponseTopic, pCorrelation, pSubscriptionID, pAlias, pUser},
	tPuback:  {pReason, pUser}, tPubrec: {pReason, pUser}, tPubrel: {pReason, pUser}, tPubcomp: {pReason, pUser},
	tSuback: {pReason, pUser}, tUnsuback: {pReason, pUser},
	tDisconnect: {pReason, pUser, pServerReference}, tAuth: {pAuthMethod, pAuthData, pReason, pUser},
}

// frame makes a packet of its first byte and its body's parts.
func frame(first byte, parts ...[]byte) []byte {
	body := join(parts...)
	return join([]byte{first}, varint(uint32(len(body))), body)
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func varint(v uint32) []byte {
	var b []byte
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// text is a length of two bytes and the bytes.
func text(s string) []byte { return join(u16(uint16(len(s))), []byte(s)) }

// num makes a property that is a number, text or binary data a textual one, pair a user property.
func num(id byte, v uint32) []byte {
	switch propertyKinds[id] {
	case kindVarint:
		return join([]byte{id}, varint(v))
	case 1:
		return []byte{id, byte(v)}
	case 2:
		return join([]byte{id}, u16(uint16(v)))
	default:
		return join([]byte{id}, u32(v))
	}
}

func textual(id byte, s string) []byte { return join([]byte{id}, text(s)) }
func pair(name, value string) []byte   { return join([]byte{pUser}, text(name), text(value)) }

// properties is a whole property section.
func properties(list ...[]byte) []byte {
	b := join(list...)
	return join(varint(uint32(len(b))), b)
}

func when(there bool, part []byte) []byte {
	if there {
		return part
	}
	return nil
}

// five is a property section on MQTT 5, and nothing on 3.1.1.
func five(v byte, list ...[]byte) []byte { return when(v == v5, properties(list...)) }

// will is a CONNECT's.
type will struct {
	topic, payload string
	qos            byte
	retain         bool
	props          [][]byte
}

// connect is a CONNECT before it is encoded. Zero values give a correct one.
type connect struct {
	version   byte
	id        string
	clean     bool
	keepalive uint16
	user      *string
	password  *string
	will      *will
	props     [][]byte

	name     *string // another protocol name than MQTT
	level    *byte   // another level than version, the form staying version's
	flip     byte    // connect flags to flip, the payload staying as it is
	trailing []byte
}

func (c connect) flags() byte {
	var flags byte
	if c.clean {
		flags |= 0x02
	}
	if w := c.will; w != nil {
		flags |= 0x04 | w.qos<<3
		if w.retain {
			flags |= 0x20
		}
	}
	if c.password != nil {
		flags |= 0x40
	}
	if c.user != nil {
		flags |= 0x80
	}
	return flags ^ c.flip
}

func (c connect) encode() []byte {
	name, level := "MQTT", c.version
	if c.name != nil {
		name = *c.name
	}
	if c.level != nil {
		level = *c.level
	}
	body := join(text(name), []byte{level, c.flags()}, u16(c.keepalive), five(c.version, c.props...), text(c.id))
	if w := c.will; w != nil {
		body = join(body, five(c.version, w.props...), text(w.topic), text(w.payload))
	}
	for _, s := range []*string{c.user, c.password} {
		if s != nil {
			body = join(body, text(*s))
		}
	}
	return frame(tConnect<<4, body, c.trailing)
}

// publish is a PUBLISH before it is encoded.
type publish struct {
	topic, payload string
	qos            byte
	retain, dup    bool
	id             uint16
	props          [][]byte
}

func (p publish) encode(version byte) []byte {
	first := tPublish<<4 | p.qos<<1
	if p.dup {
		first |= 8
	}
	if p.retain {
		first |= 1
	}
	return frame(first, text(p.topic), when(p.qos > 0, u16(p.id)), five(version, p.props...), []byte(p.payload))
}

// filter is one subscription of a SUBSCRIBE, its options in the form of MQTT 5.
type filter struct {
	name    string
	options byte
}

const (
	noLocal           = 0x04
	retainAsPublished = 0x08
	retainIfNew       = 0x10
	retainNever       = 0x20
)

func subscribe(version byte, id uint16, props [][]byte, filters ...filter) []byte {
	body := join(u16(id), five(version, props...))
	for _, f := range filters {
		body = join(body, text(f.name), []byte{f.options})
	}
	return frame(tSubscribe<<4|2, body)
}

func unsubscribe(version byte, id uint16, filters ...string) []byte {
	body := join(u16(id), five(version))
	for _, f := range filters {
		body = join(body, text(f))
	}
	return frame(tUnsubscribe<<4|2, body)
}

// ack makes a PUBACK, PUBREC, PUBREL or PUBCOMP in its shortest form, with a reason where it is not 0.
func ack(typ byte, id uint16, reason byte) []byte {
	first := typ << 4
	if typ == tPubrel {
		first |= 2
	}
	return frame(first, u16(id), when(reason != 0, []byte{reason}))
}

var (
	pingreq    = frame(tPingreq << 4)
	disconnect = frame(tDisconnect << 4)
)

// packet is one that the gateway sent, taken apart.
type packet struct {
	typ, flags byte
	size       int
	id         uint16
	reason     byte // of CONNACK, acknowledgements, DISCONNECT, AUTH
	present    byte // CONNACK's first byte
	codes      []byte
	topic      string
	payload    string
	props      []property
}

type property struct {
	id    byte
	num   uint32
	value string
	name  string // of a user property
}

func (p packet) qos() byte    { return p.flags >> 1 & 3 }
func (p packet) retain() bool { return p.flags&1 == 1 }
func (p packet) dup() bool    { return p.flags&8 == 8 }

// prop is the first property with the identifier.
func (p packet) prop(id byte) (property, bool) {
	for _, x := range p.props {
		if x.id == id {
			return x, true
		}
	}
	return property{}, false
}

// all are the properties with the identifier.
func (p packet) all(id byte) []property {
	var list []property
	for _, x := range p.props {
		if x.id == id {
			list = append(list, x)
		}
	}
	return list
}

// reader takes a packet's body apart; its first fault sticks.
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

func (r *reader) properties(typ byte) []property {
	section := reader{b: r.take(int(r.varint()))}
	var list []property
	seen := map[byte]bool{}
	for len(section.b) > 0 && section.err == nil {
		p := property{id: section.byte()}
		switch k, known := propertyKinds[p.id]; {
		case !known:
			section.err = fmt.Errorf("unknown property 0x%02X", p.id)
		case k == kindVarint:
			p.num = section.varint()
		case k == kindData:
			p.value = section.text()
		case k == kindPair:
			p.name, p.value = section.text(), section.text()
		default:
			for _, b := range section.take(int(k)) {
				p.num = p.num<<8 | uint32(b)
			}
		}
		section.check(typ, p.id, seen)
		list = append(list, p)
	}
	if r.err == nil {
		r.err = section.err
	}
	return list
}

// check holds what a property section may contain.
func (r *reader) check(typ, id byte, seen map[byte]bool) {
	many := id == pUser || (id == pSubscriptionID && typ == tPublish)
	if seen[id] && !many && r.err == nil {
		r.err = fmt.Errorf("property 0x%02X twice", id)
	}
	seen[id] = true
	for _, may := range serverMaySend[typ] {
		if may == id {
			return
		}
	}
	if r.err == nil {
		r.err = fmt.Errorf("property 0x%02X in a packet of type %d", id, typ)
	}
}

// decode takes a whole packet apart, and finds everything in it that a server may not send.
func decode(first byte, body []byte, version byte) (packet, error) {
	p := packet{typ: first >> 4, flags: first & 15}
	r := reader{b: body}
	flags := byte(0)
	switch p.typ {
	case tConnack:
		p.present, p.reason = r.byte(), r.byte()
		p.props = r.optional(version == v5, p.typ)
	case tPublish:
		flags = p.flags
		p.topic = r.text()
		if p.qos() > 0 {
			p.id = r.uint16()
		}
		p.props = r.optional(version == v5, p.typ)
		p.payload, r.b = string(r.b), nil
	case tPuback, tPubrec, tPubrel, tPubcomp:
		if p.typ == tPubrel {
			flags = 2
		}
		p.id = r.uint16()
		p.reasonAndProperties(&r, version)
	case tSuback, tUnsuback:
		p.id = r.uint16()
		p.props = r.optional(version == v5, p.typ)
		p.codes, r.b = r.b, nil
	case tPingresp:
	case tDisconnect, tAuth:
		if version != v5 {
			return p, fmt.Errorf("packet type %d from a 3.1.1 server", p.typ)
		}
		p.reasonAndProperties(&r, version)
	default:
		return p, fmt.Errorf("packet type %d from a server", p.typ)
	}
	switch {
	case r.err != nil:
		return p, r.err
	case len(r.b) > 0:
		return p, fmt.Errorf("%d bytes too many", len(r.b))
	case p.flags != flags:
		return p, fmt.Errorf("reserved flags are %04b", p.flags)
	}
	return p, nil
}

func (r *reader) optional(there bool, typ byte) []property {
	if !there {
		return nil
	}
	return r.properties(typ)
}

func (p *packet) reasonAndProperties(r *reader, version byte) {
	if version == v5 && len(r.b) > 0 {
		p.reason = r.byte()
		p.props = r.optional(len(r.b) > 0, p.typ)
	}
}
