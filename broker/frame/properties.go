package frame

import "cellgate/broker/shared/message"

// Property identifiers (MQTT 5, 2.2.2.2).
const (
	propPayloadFormat    byte = 0x01
	propMessageExpiry    byte = 0x02
	propContentType      byte = 0x03
	propResponseTopic    byte = 0x08
	propCorrelation      byte = 0x09
	propSubscriptionID   byte = 0x0B
	propSessionExpiry    byte = 0x11
	propAssignedClientID byte = 0x12
	propServerKeepalive  byte = 0x13
	propAuthMethod       byte = 0x15
	propAuthData         byte = 0x16
	propRequestProblem   byte = 0x17
	propWillDelay        byte = 0x18
	propRequestResponse  byte = 0x19
	propResponseInfo     byte = 0x1A
	propServerReference  byte = 0x1C
	propReason           byte = 0x1F
	propReceiveMaximum   byte = 0x21
	propAliasMaximum     byte = 0x22
	propAlias            byte = 0x23
	propUser             byte = 0x26
	propMaximumPacket    byte = 0x27
	propSharedAvailable  byte = 0x2A
	propLast                  = propSharedAvailable
)

// typeWill denotes the will properties of a CONNECT, which have a property set of their own.
const typeWill byte = 16

// Properties are the properties of one inbound packet. Strings and binary data alias the packet.
type Properties struct {
	set uint64 // one bit per identifier present

	Expiry         uint32 // message expiry, s
	SessionExpiry  uint32 // s; 0xFFFFFFFF: never expires
	WillDelay      uint32 // s
	MaximumPacket  uint32
	SubscriptionID uint32
	Alias          uint16
	AliasMaximum   uint16
	ReceiveMaximum uint16
	PayloadFormat  byte
	// RequestProblem and RequestResponse are valid only if Has reports them: their defaults are 1 and 0.
	RequestProblem  byte
	RequestResponse byte

	ContentType   []byte
	ResponseTopic []byte
	Correlation   []byte
	AuthMethod    []byte
	AuthData      []byte

	section []byte // the whole section, from which EachUser reads
	users   int
}

// has reports whether the property is present.
func (p *Properties) has(id byte) bool { return p.set>>id&1 == 1 }

// Forwarded returns the properties that are forwarded with the message, except the user properties. They alias the
// packet.
func (p *Properties) Forwarded() message.Properties {
	return message.Properties{
		ContentType: Text(p.ContentType), ResponseTopic: Text(p.ResponseTopic), Correlation: p.Correlation,
		Expiry: p.Expiry, HasExpiry: p.has(propMessageExpiry),
		UTF8Payload: p.PayloadFormat == 1, BytesPayload: p.has(propPayloadFormat) && p.PayloadFormat == 0,
		EmptyContentType: p.has(propContentType) && len(p.ContentType) == 0,
	}
}

// HasAlias reports whether a topic alias is present.
func (p *Properties) HasAlias() bool { return p.has(propAlias) }

// Users returns the number of user properties.
func (p *Properties) Users() int { return p.users }

// EachUser calls fn with every user property in order. Both slices alias the packet.
func (p *Properties) EachUser(fn func(name, value []byte)) {
	if p.users == 0 {
		return
	}
	var scratch Properties
	c := cursor{b: p.section}
	for c.left() > 0 {
		if c.b[c.off] == propUser {
			c.off++
			fn(c.data(), c.data())
			continue
		}
		id := c.byte()
		_ = scratch.value(&c, id) // scan has already accepted it
	}
}

// allowed returns the bit set of properties that a client may send in a packet type (MQTT 5, table 2-4).
func allowed(typ byte) uint64 {
	switch typ {
	case TypePublish: // only servers send subscription identifiers (3.3.4)
		return 1<<propPayloadFormat | 1<<propMessageExpiry | 1<<propContentType | 1<<propResponseTopic |
			1<<propCorrelation | 1<<propAlias | 1<<propUser
	case typeWill:
		return 1<<propPayloadFormat | 1<<propMessageExpiry | 1<<propContentType | 1<<propResponseTopic |
			1<<propCorrelation | 1<<propWillDelay | 1<<propUser
	case TypeConnect:
		return 1<<propSessionExpiry | 1<<propAuthMethod | 1<<propAuthData | 1<<propRequestProblem |
			1<<propRequestResponse | 1<<propReceiveMaximum | 1<<propAliasMaximum | 1<<propUser | 1<<propMaximumPacket
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		return 1<<propReason | 1<<propUser
	case TypeSubscribe:
		return 1<<propSubscriptionID | 1<<propUser
	case TypeUnsubscribe:
		return 1 << propUser
	case TypeDisconnect:
		return 1<<propSessionExpiry | 1<<propServerReference | 1<<propReason | 1<<propUser
	case TypeAuth:
		return 1<<propAuthMethod | 1<<propAuthData | 1<<propReason | 1<<propUser
	default:
		return 0
	}
}

// scan reads the property length and the section after it from c. It allocates only on a violation.
func (p *Properties) scan(c *cursor, typ byte) error {
	*p = Properties{}
	length, err := c.varint()
	if err != nil {
		return err
	}
	section := c.take(int(length))
	if c.short {
		return malformed("property length beyond the packet")
	}
	if len(section) == 0 {
		return nil
	}
	p.section = section
	return p.scanSection(allowed(typ))
}

func (p *Properties) scanSection(allow uint64) error {
	c := cursor{b: p.section}
	for c.left() > 0 {
		id := c.byte() // identifiers are variable byte integers, but all are below 0x80
		switch {
		case id == 0 || id > propLast:
			return malformed("unknown property")
		case allow>>id&1 == 0:
			return protocolError("property not allowed in this packet")
		case p.has(id) && id != propUser:
			return protocolError("property more than once")
		}
		p.set |= 1 << id
		if err := p.value(&c, id); err != nil {
			return err
		}
		if c.short {
			return malformed("property value beyond the property length")
		}
	}
	if p.has(propAuthData) && !p.has(propAuthMethod) {
		return protocolError("authentication data without a method")
	}
	return nil
}

// value reads and checks the value of property id.
func (p *Properties) value(c *cursor, id byte) error {
	switch id {
	case propPayloadFormat:
		return boolean(c, &p.PayloadFormat)
	case propRequestProblem:
		return boolean(c, &p.RequestProblem)
	case propRequestResponse:
		return boolean(c, &p.RequestResponse)
	case propMessageExpiry:
		p.Expiry = c.uint32()
	case propSessionExpiry:
		p.SessionExpiry = c.uint32()
	case propWillDelay:
		p.WillDelay = c.uint32()
	case propMaximumPacket:
		p.MaximumPacket = c.uint32()
		return notZero(c, p.MaximumPacket, "maximum packet size of 0")
	case propReceiveMaximum:
		p.ReceiveMaximum = c.uint16()
		return notZero(c, uint32(p.ReceiveMaximum), "receive maximum of 0")
	case propAliasMaximum:
		p.AliasMaximum = c.uint16()
	case propAlias:
		p.Alias = c.uint16()
		if p.Alias == 0 && !c.short {
			return &Violation{Reason: ReasonTopicAliasInvalid, Why: "topic alias of 0"}
		}
	case propSubscriptionID:
		var err error
		if p.SubscriptionID, err = c.varint(); err != nil {
			return err
		}
		return notZero(c, p.SubscriptionID, "subscription identifier of 0")
	default:
		return p.text(c, id)
	}
	return nil
}

// text reads a property with a length: a string or binary data.
func (p *Properties) text(c *cursor, id byte) error {
	v := c.data()
	switch id {
	case propCorrelation:
		p.Correlation = v
		return nil
	case propAuthData:
		p.AuthData = v
		return nil
	case propUser:
		p.users++
		if value := c.data(); !validText(value) {
			return malformed("user property is not valid UTF-8")
		}
	case propContentType:
		p.ContentType = v
	case propAuthMethod:
		p.AuthMethod = v
	case propResponseTopic:
		p.ResponseTopic = v
		if len(v) == 0 && !c.short {
			return protocolError("response topic is empty")
		}
		return checkTopic(v)
	}
	if !validText(v) {
		return malformed("property is not valid UTF-8")
	}
	return nil
}

func boolean(c *cursor, v *byte) error {
	if *v = c.byte(); *v > 1 {
		return protocolError("property is neither 0 nor 1")
	}
	return nil
}

func notZero(c *cursor, v uint32, why string) error {
	if v == 0 && !c.short {
		return protocolError(why)
	}
	return nil
}
