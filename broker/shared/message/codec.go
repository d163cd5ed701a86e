package message

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cellgate/broker/shared/message/field"
)

// The record on disk, after the journal's own framing:
//
//	kind     1 byte
//	bits     1 byte   QoS in 0-1, retain 2, dup 3, properties follow 4
//	time     uvarint  ReceivedAt minus the batch's base time, in ms
//	packet   uvarint  PacketID
//	client   uvarint length, bytes
//	topic    uvarint length, bytes
//	props    only with bit 4: a list of (id byte, value), closed by id 0
//	payload  the rest
//
// Property values: 1 content type, 2 response topic, 3 correlation data: length and bytes; 4 user
// property: name and value, each with a length; 5 expiry: uvarint seconds; 6 UTF-8 payload: nothing; 7 the
// record that this one repeats: uvarint sequence; 8 payload format indicator 0: nothing; 9 the epoch of the vehicle's
// connection: uvarint. A content type of length 0
// is one that is there and empty.
const (
	bitRetain = 1 << 2
	bitDup    = 1 << 3
	bitProps  = 1 << 4
	allBits   = 3 | bitRetain | bitDup | bitProps

	propEnd         = 0
	propContentType = 1
	propResponse    = 2
	propCorrelation = 3
	propUser        = 4
	propExpiry      = 5
	propUTF8        = 6
	propOriginal    = 7
	propBytes       = 8
	propEpoch       = 9
)

// errMalformed is wrapped by every error of Decode.
var errMalformed = errors.New("malformed record")

// Append appends the encoding of r without Seq to dst. Its time is relative to base (ms, not after r.ReceivedAt). It
// allocates only to grow dst.
func (r *Record) Append(dst []byte, base int64) []byte {
	bits := r.QoS & 3
	if r.Retain {
		bits |= bitRetain
	}
	if r.Dup {
		bits |= bitDup
	}
	props := r.Original != 0 || r.Epoch != 0 || !r.Props.IsZero()
	if props {
		bits |= bitProps
	}
	dst = append(dst, byte(r.Kind), bits)
	dst = binary.AppendUvarint(dst, uint64(r.ReceivedAt-base)) //nolint:gosec // not negative: base is the batch's first time
	dst = binary.AppendUvarint(dst, uint64(r.PacketID))
	dst = field.AppendBytes(dst, r.Client)
	dst = field.AppendBytes(dst, r.Topic)
	if props {
		dst = r.appendProps(dst)
	}
	return append(dst, r.Payload...)
}

func (r *Record) appendProps(dst []byte) []byte {
	p := &r.Props
	if r.Original != 0 {
		dst = binary.AppendUvarint(append(dst, propOriginal), r.Original)
	}
	if r.Epoch != 0 {
		dst = binary.AppendUvarint(append(dst, propEpoch), r.Epoch)
	}
	if p.ContentType != "" || p.EmptyContentType {
		dst = field.AppendBytes(append(dst, propContentType), p.ContentType)
	}
	if p.ResponseTopic != "" {
		dst = field.AppendBytes(append(dst, propResponse), p.ResponseTopic)
	}
	if p.Correlation != nil {
		dst = field.AppendBytes(append(dst, propCorrelation), p.Correlation)
	}
	for _, u := range p.User {
		dst = field.AppendBytes(field.AppendBytes(append(dst, propUser), u.Name), u.Value)
	}
	if p.HasExpiry {
		dst = binary.AppendUvarint(append(dst, propExpiry), uint64(p.Expiry))
	}
	if p.UTF8Payload {
		dst = append(dst, propUTF8)
	}
	if p.BytesPayload {
		dst = append(dst, propBytes)
	}
	return append(dst, propEnd)
}

// Decoder decodes records. It caches client identifiers and topics, so that a busy reader does not allocate them for
// every record. It is not safe for concurrent use.
type Decoder struct {
	names map[string]string
}

// maxNames bounds the cache: past it, all names are dropped. At 60 bytes a name that is about 10 MB.
const maxNames = 1 << 16

// Decode fills r from b, except for Seq. The payload and the correlation data alias b; strings do not.
func (d *Decoder) Decode(b []byte, base int64, r *Record) error {
	c := field.Reader{B: b}
	kind, bits := c.Byte(), c.Byte()
	user := r.Props.User[:0]
	*r = Record{
		Kind:       Kind(kind),
		QoS:        bits & 3,
		Retain:     bits&bitRetain != 0,
		Dup:        bits&bitDup != 0,
		ReceivedAt: base + int64(c.Uvarint()), //nolint:gosec // checked against corruption by the batch's CRC
		PacketID:   uint16(c.Uvarint()),       //nolint:gosec // written from a uint16
	}
	r.Client = d.name(c.Bytes())
	r.Topic = d.name(c.Bytes())
	if bits&bitProps != 0 {
		r.Props.User = user
		properties(&c, r)
	}
	if c.Bad || kind == 0 || r.QoS == 3 || bits&^allBits != 0 {
		return fmt.Errorf("%w at byte %d of %d", errMalformed, c.Off, len(b))
	}
	r.Payload = b[c.Off:]
	return nil
}

func (d *Decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if d.names == nil || len(d.names) >= maxNames {
		d.names = make(map[string]string)
	}
	s := string(b)
	d.names[s] = s
	return s
}

// properties decodes the list of properties.
func properties(c *field.Reader, r *Record) {
	p := &r.Props
	for !c.Bad {
		switch id := c.Byte(); id {
		case propEnd:
			return
		case propContentType:
			p.ContentType = string(c.Bytes())
			p.EmptyContentType = p.ContentType == ""
		case propResponse:
			p.ResponseTopic = string(c.Bytes())
		case propCorrelation:
			p.Correlation = c.Bytes()
		case propUser:
			name := string(c.Bytes())
			p.User = append(p.User, UserProperty{Name: name, Value: string(c.Bytes())})
		case propExpiry:
			p.Expiry, p.HasExpiry = uint32(c.Uvarint()), true //nolint:gosec // written from a uint32
		case propUTF8:
			p.UTF8Payload = true
		case propBytes:
			p.BytesPayload = true
		case propOriginal:
			r.Original = c.Uvarint()
		case propEpoch:
			r.Epoch = c.Uvarint()
		default:
			c.Bad = true
		}
	}
}
