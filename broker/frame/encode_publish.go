package frame

import (
	"encoding/binary"

	"cellgate/broker/shared/message"
)

// Publish is a PUBLISH that the gateway sends. The encoder validates nothing: topic, properties and payload have passed
// the scanner, or the caller has checked them.
type Publish struct {
	Topic    string
	Payload  []byte
	QoS      byte
	Retain   bool
	Dup      bool
	PacketID uint16 // omitted at QoS 0
	// Alias is the topic alias, 0 for none. OmitTopic leaves the topic name empty; the client must already have
	// received the alias with its topic on this connection.
	Alias     uint16
	OmitTopic bool
	// Props are forwarded with the message, except Props.Expiry: ExpiryLeft is sent instead, if HasExpiry is set.
	Props           message.Properties
	ExpiryLeft      uint32 // s
	HasExpiry       bool
	SubscriptionIDs []uint32
}

// Size returns the length in bytes of the frame that Append encodes for the protocol version.
func (p *Publish) Size(version byte) int {
	n := p.remaining(version)
	return 1 + varintSize(n) + n
}

// Append appends the frame for the protocol version. It allocates only to grow dst.
func (p *Publish) Append(dst []byte, version byte) []byte {
	first := TypePublish<<4 | p.QoS<<1
	if p.Dup {
		first |= 8
	}
	if p.Retain {
		first |= 1
	}
	dst = appendHeader(dst, first, p.remaining(version))
	topic := p.Topic
	if p.omitTopic(version) {
		topic = ""
	}
	dst = appendString(dst, topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	if version == Version5 {
		dst = appendVarint(dst, p.propsSize())
		dst = p.appendProps(dst)
	}
	return append(dst, p.Payload...)
}

func (p *Publish) omitTopic(version byte) bool {
	return p.OmitTopic && p.Alias != 0 && version == Version5
}

func (p *Publish) remaining(version byte) int {
	n := 2 + len(p.Payload)
	if !p.omitTopic(version) {
		n += len(p.Topic)
	}
	if p.QoS > 0 {
		n += 2
	}
	if version == Version5 {
		props := p.propsSize()
		n += varintSize(props) + props
	}
	return n
}

func (p *Publish) propsSize() int {
	n := textSize(p.Props.ContentType) + textSize(p.Props.ResponseTopic)
	if p.Props.EmptyContentType {
		n += 3
	}
	if p.Props.Correlation != nil {
		n += 3 + len(p.Props.Correlation)
	}
	for i := range p.Props.User {
		n += 5 + len(p.Props.User[i].Name) + len(p.Props.User[i].Value)
	}
	if p.Props.UTF8Payload || p.Props.BytesPayload {
		n += 2
	}
	if p.HasExpiry {
		n += 5
	}
	if p.Alias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	return n
}

func (p *Publish) appendProps(dst []byte) []byte {
	switch {
	case p.Props.UTF8Payload:
		dst = append(dst, propPayloadFormat, 1)
	case p.Props.BytesPayload:
		dst = append(dst, propPayloadFormat, 0)
	}
	if p.HasExpiry {
		dst = binary.BigEndian.AppendUint32(append(dst, propMessageExpiry), p.ExpiryLeft)
	}
	if p.Alias != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, propAlias), p.Alias)
	}
	if p.Props.EmptyContentType {
		dst = appendString(append(dst, propContentType), "")
	} else {
		dst = appendText(dst, propContentType, p.Props.ContentType)
	}
	dst = appendText(dst, propResponseTopic, p.Props.ResponseTopic)
	if c := p.Props.Correlation; c != nil {
		dst = binary.BigEndian.AppendUint16(append(dst, propCorrelation), uint16(len(c))) //nolint:gosec // at most 65,535: it came from a frame
		dst = append(dst, c...)
	}
	for i := range p.Props.User {
		dst = appendString(append(dst, propUser), p.Props.User[i].Name)
		dst = appendString(dst, p.Props.User[i].Value)
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, propSubscriptionID), int(id))
	}
	return dst
}

// appendString appends a string of at most 65,535 bytes with its length, even if it is empty.
func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s))) //nolint:gosec // the caller's strings are short
	return append(dst, s...)
}
