package fleet

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The subset of MQTT 3.1.1 and 5 that a vehicle uses.

// Protocol versions as CONNECT carries them.
const (
	MQTT311 byte = 4
	MQTT5   byte = 5
)

// Control packet types (MQTT 5, 2.1.2).
const (
	typeConnect    = 1
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typeSubscribe  = 8
	typeSuback     = 9
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
	flagDup        = 0x08
	flagQoS1       = 0x02
	maxInbound     = 1 << 20 // maximum size of a received frame, bytes
	propServerRef  = 0x1c
	propReceiveMax = 0x21
	propKeepalive  = 0x13
	reasonFailure  = 0x80 // reason codes from here on are errors
)

// errFrame is wrapped by every error about what the gateway sent.
var errFrame = errors.New("malformed frame from the gateway")

func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s))) //nolint:gosec // tokens, topics and names are short
	return append(dst, s...)
}

func appendLength(dst []byte, n int) []byte {
	for n >= 128 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// connectFrame describes a CONNECT.
type connectFrame struct {
	version   byte
	client    string
	token     string
	clean     bool
	keepalive uint16 // s
	expiry    uint32 // s, MQTT 5 only
}

func (c *connectFrame) append(dst []byte) []byte {
	body := appendString(nil, "MQTT")
	flags := byte(0)
	if c.clean {
		flags |= 0x02
	}
	if c.token != "" {
		flags |= 0xc0 // user name and password
	}
	body = append(body, c.version, flags)
	body = binary.BigEndian.AppendUint16(body, c.keepalive)
	if c.version == MQTT5 {
		body = append(body, 5, 0x11) // session expiry interval
		body = binary.BigEndian.AppendUint32(body, c.expiry)
	}
	body = appendString(body, c.client)
	if c.token != "" {
		body = appendString(appendString(body, c.client), c.token)
	}
	return append(appendLength(append(dst, typeConnect<<4), len(body)), body...)
}

// appendSubscribe asks for all filters at QoS 1.
func appendSubscribe(dst []byte, version byte, id uint16, filters ...string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if version == MQTT5 {
		body = append(body, 0)
	}
	for _, f := range filters {
		body = append(appendString(body, f), 1)
	}
	return append(appendLength(append(dst, typeSubscribe<<4|2), len(body)), body...)
}

// appendPublish appends a PUBLISH; id 0 means QoS 0.
func appendPublish(dst []byte, version byte, id uint16, topic string, payload []byte) []byte {
	n := 2 + len(topic) + len(payload)
	head := byte(typePublish << 4)
	if id != 0 {
		head |= flagQoS1
		n += 2
	}
	if version == MQTT5 {
		n++
	}
	dst = appendLength(append(dst, head), n)
	dst = appendString(dst, topic)
	if id != 0 {
		dst = binary.BigEndian.AppendUint16(dst, id)
	}
	if version == MQTT5 {
		dst = append(dst, 0)
	}
	return append(dst, payload...)
}

func appendPuback(dst []byte, id uint16) []byte {
	return binary.BigEndian.AppendUint16(append(dst, typePuback<<4, 2), id)
}

// frame is one packet from the gateway; body aliases the read buffer.
type frame struct {
	head byte
	body []byte
}

// nextFrame takes the first frame off b. It returns the bytes used, 0 when b does not hold a whole frame.
func nextFrame(b []byte) (frame, int, error) {
	n, shift := 0, 0
	for i := 1; i < len(b); i++ {
		n |= int(b[i]&0x7f) << shift
		if b[i] < 0x80 {
			if n > maxInbound {
				return frame{}, 0, fmt.Errorf("%w: %d bytes", errFrame, n)
			}
			if len(b)-i-1 < n {
				return frame{}, 0, nil
			}
			return frame{b[0], b[i+1 : i+1+n]}, i + 1 + n, nil
		}
		if shift += 7; shift > 21 {
			return frame{}, 0, fmt.Errorf("%w: remaining length", errFrame)
		}
	}
	return frame{}, 0, nil
}

func (f frame) kind() byte { return f.head >> 4 }

// ack is the content of a CONNACK, PUBACK or DISCONNECT.
type ack struct {
	id        uint16
	present   bool
	code      byte
	serverRef string
	receive   uint16 // Receive Maximum
	keepalive uint16 // Server Keep Alive
}

func parseConnack(f frame, version byte) (ack, error) {
	if len(f.body) < 2 {
		return ack{}, fmt.Errorf("%w: CONNACK", errFrame)
	}
	a := ack{present: f.body[0]&1 != 0, code: f.body[1]}
	if version == MQTT5 {
		return a, a.props(f.body[2:])
	}
	return a, nil
}

func parsePuback(f frame) (ack, error) {
	if len(f.body) < 2 {
		return ack{}, fmt.Errorf("%w: PUBACK", errFrame)
	}
	a := ack{id: binary.BigEndian.Uint16(f.body)}
	if len(f.body) > 2 {
		a.code = f.body[2]
	}
	return a, nil
}

func parseDisconnect(f frame) (ack, error) {
	a := ack{}
	if len(f.body) > 0 {
		a.code = f.body[0]
	}
	if len(f.body) > 1 {
		return a, a.props(f.body[1:])
	}
	return a, nil
}

// publish is a PUBLISH from the gateway.
type publish struct {
	topic   string
	id      uint16
	qos     byte
	payload []byte
}

func parsePublish(f frame, version byte) (publish, error) {
	p := publish{qos: f.head >> 1 & 3}
	b := f.body
	topic, b, ok := cutString(b)
	if ok && p.qos > 0 {
		if ok = len(b) >= 2; ok {
			p.id, b = binary.BigEndian.Uint16(b), b[2:]
		}
	}
	if ok && version == MQTT5 {
		var n int
		n, b, ok = cutLength(b)
		if ok = ok && n <= len(b); ok {
			b = b[n:]
		}
	}
	if !ok {
		return p, fmt.Errorf("%w: PUBLISH", errFrame)
	}
	p.topic, p.payload = string(topic), b
	return p, nil
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func cutLength(b []byte) (n int, rest []byte, ok bool) {
	for i := 0; i < len(b) && i < 4; i++ {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}

// props reads the properties that a vehicle uses (MQTT 5, 2.2.2.2 lists the types of all).
func (a *ack) props(b []byte) error {
	n, b, ok := cutLength(b)
	if !ok || n > len(b) {
		return fmt.Errorf("%w: properties", errFrame)
	}
	for b = b[:n]; len(b) > 0; {
		id := b[0]
		size, ok := propSize(id, b[1:])
		if !ok || size > len(b)-1 {
			return fmt.Errorf("%w: property 0x%02x", errFrame, id)
		}
		switch v := b[1 : 1+size]; id {
		case propServerRef:
			a.serverRef = string(v[2:])
		case propReceiveMax:
			a.receive = binary.BigEndian.Uint16(v)
		case propKeepalive:
			a.keepalive = binary.BigEndian.Uint16(v)
		}
		b = b[1+size:]
	}
	return nil
}

// propSize returns how many bytes the value of a property takes; b begins with it.
func propSize(id byte, b []byte) (int, bool) {
	switch id {
	case 0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a:
		return 1, true
	case 0x13, 0x21, 0x22, 0x23:
		return 2, true
	case 0x02, 0x11, 0x18, 0x27:
		return 4, true
	case 0x0b:
		_, rest, ok := cutLength(b)
		return len(b) - len(rest), ok
	case 0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1a, 0x1c, 0x1f:
		s, _, ok := cutString(b)
		return 2 + len(s), ok
	case 0x26:
		name, rest, ok := cutString(b)
		if !ok {
			return 0, false
		}
		value, _, ok := cutString(rest)
		return 4 + len(name) + len(value), ok
	}
	return 0, false
}
