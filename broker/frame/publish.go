package frame

import "encoding/binary"

// Inbound is a PUBLISH from a client. Its slices alias the frame.
type Inbound struct {
	Topic    []byte // empty only with an alias
	Payload  []byte
	PacketID uint16 // 0 at QoS 0
	QoS      byte
	Retain   bool
	Dup      bool
	// Props is valid only if HasProps is set: scanning a PUBLISH without properties does not clear it.
	Props    Properties
	HasProps bool
}

// ScanPublish checks a whole PUBLISH frame (MQTT 5 and 3.1.1, 3.3) and fills p. It allocates only on a violation.
func ScanPublish(f []byte, h Header, version byte, p *Inbound) error {
	b := f[h.Head:h.Size]
	if len(b) < 2 {
		return malformed("PUBLISH without a topic name")
	}
	n := int(binary.BigEndian.Uint16(b)) + 2
	if n > len(b) {
		return malformed("topic name beyond the packet")
	}
	p.Topic = b[2:n]
	p.QoS, p.Retain, p.Dup = h.Flags>>1&3, h.Flags&1 == 1, h.Flags&8 == 8
	p.PacketID = 0
	if err := checkTopic(p.Topic); err != nil {
		return err
	}
	if p.QoS > 0 {
		if len(b) < n+2 {
			return malformed("PUBLISH without a packet identifier")
		}
		if p.PacketID = binary.BigEndian.Uint16(b[n:]); p.PacketID == 0 {
			return protocolError("packet identifier 0")
		}
		n += 2
	}
	return p.rest(b[n:], version)
}

func (p *Inbound) rest(b []byte, version byte) error {
	p.HasProps = false
	if version == Version5 {
		if len(b) > 0 && b[0] == 0 { // no properties
			b = b[1:]
		} else {
			c := cursor{b: b}
			if err := p.Props.scan(&c, TypePublish); err != nil {
				return err
			}
			p.HasProps, b = true, b[c.off:]
		}
	}
	p.Payload = b
	if len(p.Topic) == 0 {
		switch {
		case version != Version5:
			return malformed("topic name is empty")
		case !p.HasProps || !p.Props.HasAlias():
			return protocolError("topic name is empty and there is no topic alias")
		}
	}
	return nil
}
